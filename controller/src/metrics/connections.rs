//! Clients that are joined with guests. What is told is of this replica's: each serves its own.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::catalogue;
use super::sample::{Labels, Value, write};

/// Instances whose last connection is remembered: those that were connected last.
const REMEMBERED: usize = 4096;

/// What a client is joined with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// A console.
    Console,
    /// A port.
    Port,
}

/// An instance: its namespace and its name.
type Instance = (String, String);

/// Clients that are joined with guests; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    open: HashMap<(End, Instance), u32>,
    /// When the last connection of each ended, or began.
    last: HashMap<Instance, Timestamp>,
}

/// A connection, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Connection {
    connections: Connections,
    end: End,
    instance: Instance,
}

impl Connections {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client is joined with an instance of a namespace, from now on.
    pub fn open(&self, end: End, namespace: &str, name: &str) -> Connection {
        let instance = (namespace.to_owned(), name.to_owned());
        let mut known = self.known();
        *known.open.entry((end, instance.clone())).or_default() += 1;
        known.connected(&instance, Timestamp::now());
        Connection { connections: self.clone(), end, instance }
    }
}

impl Known {
    fn connected(&mut self, instance: &Instance, now: Timestamp) {
        self.last.insert(instance.clone(), now);
        if self.last.len() > REMEMBERED {
            let oldest = self.last.iter().min_by_key(|(_, at)| **at).map(|(instance, _)| instance.clone());
            oldest.map(|oldest| self.last.remove(&oldest));
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut known = self.connections.known();
        let key = (self.end, self.instance.clone());
        match known.open.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(known.open.remove(&key)),
        }
        known.connected(&self.instance, Timestamp::now());
    }
}

impl Collector for Connections {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        fn labels((namespace, name): &Instance) -> Labels<'_> {
            Labels::new([("namespace", namespace), ("vmi", name)])
        }
        let known = self.known();
        for (end, metric) in [(End::Console, &catalogue::CONSOLES), (End::Port, &catalogue::TUNNELS)] {
            let of = known.open.iter().filter(|((of, _), _)| *of == end);
            write(
                &mut encoder,
                metric,
                of.map(|((_, instance), count)| (labels(instance), Value::from(u64::from(*count)))),
            )?;
        }
        let last = known.last.iter().map(|(instance, at)| (labels(instance), Value::Whole(at.as_second())));
        write(&mut encoder, &catalogue::LAST_CONNECTION, last)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::super::tests::value;
    use super::*;

    #[test]
    fn connections_are_told_of_while_they_last() {
        let connections = Connections::default();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(connections.clone()));
        let told = |name: &str| value(&registry, &format!(r#"{name}{{namespace="shop",vmi="web"}}"#));
        assert_eq!(told("kubevirt_console_active_connections"), None);
        let first = connections.open(End::Console, "shop", "web");
        let second = connections.open(End::Console, "shop", "web");
        let _port = connections.open(End::Port, "shop", "web");
        assert_eq!(told("kubevirt_console_active_connections"), Some(2.0));
        assert_eq!(told("kubevirt_portforward_active_tunnels"), Some(1.0));
        drop(first);
        assert_eq!(told("kubevirt_console_active_connections"), Some(1.0));
        drop(second);
        assert_eq!(told("kubevirt_console_active_connections"), None);
        assert!(told("kubevirt_vmi_last_api_connection_timestamp_seconds") > Some(1e9));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut known = Known::default();
        for number in 0..=i64::try_from(REMEMBERED).unwrap() {
            known.connected(&("shop".to_owned(), number.to_string()), Timestamp::from_second(number).unwrap());
        }
        assert_eq!(known.last.len(), REMEMBERED);
        assert!(!known.last.contains_key(&("shop".to_owned(), "0".to_owned())), "the oldest is forgotten");
    }
}
