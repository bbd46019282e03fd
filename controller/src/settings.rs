//! The cluster's configuration: what its KubeVirt object says in `spec.configuration`, as it is now.
//!
//! Of several objects the oldest counts, as for the operator. Without one, and with one that can't be read (which admission
//! refuses), what was read last goes on to hold; before that, the defaults.

use std::sync::Arc;

use futures_util::{StreamExt as _, pin_mut};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;
use tracing::warn;
use vireo_runtimeclass::cluster::{KubeVirt, KubeVirtConfiguration};

/// The configuration as it is now; clones are the same.
#[derive(Debug, Clone)]
pub struct Settings(watch::Receiver<Arc<KubeVirtConfiguration>>);

impl Settings {
    /// What is configured now.
    pub fn now(&self) -> Arc<KubeVirtConfiguration> {
        Arc::clone(&self.0.borrow())
    }

    /// Comes back when something else is configured; never where nobody watches.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What never changes: for tests.
    pub fn fixed(configuration: KubeVirtConfiguration) -> Self {
        Self::adjustable(configuration).1
    }

    /// What is changed by hand: for tests.
    pub fn adjustable(configuration: KubeVirtConfiguration) -> (watch::Sender<Arc<KubeVirtConfiguration>>, Self) {
        let (sender, receiver) = watch::channel(Arc::new(configuration));
        (sender, Self(receiver))
    }

    /// The settings of `namespace`, and what keeps them up to date for as long as it is polled.
    pub fn watch(client: Client, namespace: &str) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (sender, receiver) = watch::channel(Arc::default());
        let objects: Api<KubeVirt> = Api::namespaced(client, namespace);
        let watching = async move {
            let (reader, writer) = reflector::store();
            let events = reflector(writer, watcher(objects, watcher::Config::default()).default_backoff());
            pin_mut!(events);
            while let Some(event) = events.next().await {
                match event {
                    // A list under way is not all that there is.
                    Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                    Ok(_) => follow(&sender, &reader.state()),
                    Err(error) => warn!("can't watch KubeVirt objects: {error}"),
                }
            }
        };
        (Self(receiver), watching)
    }
}

/// Tells what is configured now, where that is something else than before: most changes are of the object's status.
fn follow(sender: &watch::Sender<Arc<KubeVirtConfiguration>>, objects: &[Arc<KubeVirt>]) {
    let age = |object: &&Arc<KubeVirt>| (object.creation_timestamp(), object.name_any());
    let Some(object) = objects.iter().min_by_key(age) else { return };
    match object.spec() {
        Ok(spec) => {
            let configuration = spec.configuration.unwrap_or_default();
            sender.send_if_modified(|now| {
                let is_other = **now != configuration;
                if is_other {
                    *now = Arc::new(configuration);
                }
                is_other
            });
        }
        Err(problems) => warn!("the KubeVirt object's configuration can't be read: {problems}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(name: &str, second: u32, configuration: &Value) -> Arc<KubeVirt> {
        let made = format!("2026-01-01T00:00:{second:02}Z");
        let object = json!({
            "apiVersion": "kubevirt.io/v1",
            "kind": "KubeVirt",
            "metadata": {"name": name, "namespace": "kubevirt", "creationTimestamp": made},
            "spec": {"configuration": configuration},
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn the_oldest_object_counts_and_its_configuration_is_told_once() {
        let (sender, settings) = Settings::adjustable(KubeVirtConfiguration::default());
        let (first, second) = (json!({"roleAggregationStrategy": "Manual"}), json!({"cpuModel": "second"}));
        let (old, new) = (object("z", 1, &first), object("a", 2, &second));
        follow(&sender, &[Arc::clone(&new), Arc::clone(&old)]);
        assert!(settings.0.has_changed().unwrap());
        assert!(settings.now().role_aggregation_strategy.is_some());
        let mut settings = settings;
        settings.0.mark_unchanged();
        // Its status was written, or another object was.
        follow(&sender, &[old, Arc::clone(&new)]);
        assert!(!settings.0.has_changed().unwrap());
        // What can't be read, and an object that is gone, change nothing.
        follow(&sender, &[object("z", 1, &json!({"roleAggregationStrategy": 7}))]);
        follow(&sender, &[]);
        assert!(!settings.0.has_changed().unwrap());
        follow(&sender, &[new]);
        assert!(settings.0.has_changed().unwrap() && settings.now().role_aggregation_strategy.is_none());
    }
}
