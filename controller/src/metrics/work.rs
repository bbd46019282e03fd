//! What reconcilers do: how long each piece takes, what is under way, how often something is tried again.
//!
//! The runtime's queue itself can't be looked into: how long it is, what is added to it and how long that waits isn't told.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::catalogue;
use super::sample::{Labels, Total, Value, write};
use super::{counters, histograms};

/// A reconciler, by the name of KubeVirt's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Queue {
    /// VirtualMachines.
    Guests,
    /// Their instances.
    Instances,
    /// Sets of instances.
    ReplicaSets,
}

impl Queue {
    fn labels(self) -> Labels<'static> {
        Labels::new([(
            "name",
            match self {
                Self::Guests => "virt-controller-vm",
                Self::Instances => "virt-controller-vmi",
                Self::ReplicaSets => "virt-controller-replicaset",
            },
        )])
    }
}

/// What reconcilers do; clones are the same.
#[derive(Debug, Clone)]
pub struct Work {
    durations: Family<Labels<'static>, Histogram, fn() -> Histogram>,
    retries: Family<Labels<'static>, Total>,
    under_way: UnderWay,
}

/// What is being worked on, and since when.
#[derive(Debug, Clone, Default)]
struct UnderWay(Arc<Mutex<Pieces>>);

#[derive(Debug, Default)]
struct Pieces {
    next: u64,
    begun: HashMap<u64, (Queue, Instant)>,
}

impl UnderWay {
    fn pieces(&self) -> std::sync::MutexGuard<'_, Pieces> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A piece of work, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Piece<'a> {
    work: &'a Work,
    number: u64,
    queue: Queue,
    begun: Instant,
}

impl Work {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let bounds = || Histogram::new(exponential_buckets(10e-9, 10.0, 10));
        let work = Self {
            durations: histograms(registry, &catalogue::WORK_DURATION, bounds),
            retries: counters(registry, &catalogue::WORK_RETRIES),
            under_way: UnderWay::default(),
        };
        registry.register_collector(Box::new(work.under_way.clone()));
        work
    }

    /// Something is worked on from now on.
    pub fn begin(&self, queue: Queue) -> Piece<'_> {
        let begun = Instant::now();
        let mut pieces = self.under_way.pieces();
        let number = pieces.next;
        pieces.next += 1;
        pieces.begun.insert(number, (queue, begun));
        Piece { work: self, number, queue, begun }
    }

    /// Something failed, and will be tried again.
    pub fn retried(&self, queue: Queue) {
        self.retries.get_or_create(&queue.labels()).add_one();
    }
}

impl Drop for Piece<'_> {
    fn drop(&mut self) {
        self.work.under_way.pieces().begun.remove(&self.number);
        self.work.durations.get_or_create(&self.queue.labels()).observe(self.begun.elapsed().as_secs_f64());
    }
}

impl Collector for UnderWay {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut times = [Queue::Guests, Queue::Instances, Queue::ReplicaSets].map(|queue| (queue, 0.0_f64, 0.0_f64));
        for (queue, begun) in self.pieces().begun.values() {
            let seconds = begun.elapsed().as_secs_f64();
            for (_, longest, all) in times.iter_mut().filter(|(of, ..)| of == queue) {
                *longest = longest.max(seconds);
                *all += seconds;
            }
        }
        let longest = times.iter().map(|(queue, longest, _)| (queue.labels(), Value::Real(*longest)));
        write(&mut encoder, &catalogue::WORK_LONGEST, longest)?;
        let all = times.iter().map(|(queue, _, all)| (queue.labels(), Value::Real(*all)));
        write(&mut encoder, &catalogue::WORK_UNFINISHED, all)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::value;
    use super::*;

    #[test]
    fn work_is_told_of_while_it_is_done_and_when_it_is() {
        let mut registry = Registry::default();
        let work = Work::new(&mut registry);
        let told = |name: &str| value(&registry, &format!(r#"{name}{{name="virt-controller-vmi"}}"#));
        assert_eq!(told("kubevirt_workqueue_unfinished_work_seconds"), Some(0.0));
        let pieces = [work.begin(Queue::Instances), work.begin(Queue::Instances)];
        let longest = told("kubevirt_workqueue_longest_running_processor_seconds");
        assert!(longest > Some(0.0) && told("kubevirt_workqueue_unfinished_work_seconds") > longest);
        work.retried(Queue::Instances);
        drop(pieces);
        assert_eq!(told("kubevirt_workqueue_unfinished_work_seconds"), Some(0.0));
        assert_eq!(told("kubevirt_workqueue_work_duration_seconds_count"), Some(2.0));
        assert_eq!(told("kubevirt_workqueue_retries_total"), Some(1.0));
    }
}
