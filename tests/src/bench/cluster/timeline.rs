//! When each of many objects came how far, by what the API server noted.
//!
//! ```text
//!   made ──> pod made ──> pod runs ──> told
//!     └─ the controller's ┘    └─ its ─┘
//! ```
//!
//! What a controller adds is all but the time from its pod's creation until that runs, which is the scheduler's and the kubelet's.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::jiff::Timestamp;

use super::rig::{BENCH, KUBELET};
use crate::kubernetes::Noted;

/// How far one object came, and when.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    made: Option<Timestamp>,
    pod_made: Option<Timestamp>,
    pod_runs: Option<Timestamp>,
    told: Option<Timestamp>,
}

/// What a controller's requests tell of one kind of object.
pub trait Kind {
    /// The resource that the bench makes.
    const RESOURCE: &'static str;
    /// The object whose pod a controller makes with this request.
    fn makes_pod(noted: &Noted) -> Option<String>;
    /// The object of which a controller says with this request that it runs.
    fn tells(noted: &Noted) -> Option<String>;
    /// The object of a pod.
    fn of_pod(pod: &str) -> Option<String>;
}

/// When each object came how far, by its name.
#[derive(Debug, Default)]
pub struct Timeline(BTreeMap<String, Times>);

impl Timeline {
    /// Takes in what was noted since.
    pub fn add<K: Kind>(&mut self, noted: &[Noted]) {
        for noted in noted.iter().filter(|noted| noted.is_done()) {
            let at = noted.at();
            let mut first = |name: String, of: fn(&mut Times) -> &mut Option<Timestamp>| {
                of(self.0.entry(name).or_default()).get_or_insert(at);
            };
            match (noted.user(), noted.verb.as_str(), noted.resource().as_str()) {
                (BENCH, "create", resource) if resource == K::RESOURCE => {
                    first(noted.name().to_owned(), |times| &mut times.made);
                }
                (KUBELET, "patch", "pods/status") => {
                    if let Some(name) = K::of_pod(noted.name()) {
                        first(name, |times| &mut times.pod_runs);
                    }
                }
                (BENCH | KUBELET, ..) => {}
                _ => {
                    if let Some(name) = K::makes_pod(noted) {
                        first(name, |times| &mut times.pod_made);
                    }
                    if let Some(name) = K::tells(noted) {
                        first(name, |times| &mut times.told);
                    }
                }
            }
        }
    }

    /// Of how many it was told that they run.
    pub fn told(&self) -> usize {
        self.0.values().filter(|times| times.told.is_some()).count()
    }

    /// What its controller added to each, ms, in order.
    pub fn added(&self) -> Vec<f64> {
        self.each(|times| Some(times.before()? + times.after()?))
    }

    /// From an object's creation until its pod's, ms, in order.
    pub fn before(&self) -> Vec<f64> {
        self.each(Times::before)
    }

    /// From when a pod runs until that is told, ms, in order.
    pub fn after(&self) -> Vec<f64> {
        self.each(Times::after)
    }

    /// From a pod's creation until it runs: the scheduler's and the kubelet's, ms, in order.
    pub fn of_pods(&self) -> Vec<f64> {
        self.each(|times| between(times.pod_made, times.pod_runs))
    }

    /// From the first creation until the last is told to run, ms.
    pub fn whole(&self) -> Option<f64> {
        let first = self.0.values().filter_map(|times| times.made).min();
        between(first, self.0.values().filter_map(|times| times.told).max()).map(milliseconds)
    }

    fn each(&self, of: impl Fn(&Times) -> Option<Duration>) -> Vec<f64> {
        let mut all: Vec<f64> = self.0.values().filter_map(of).map(milliseconds).collect();
        all.sort_by(f64::total_cmp);
        all
    }
}

impl Times {
    fn before(&self) -> Option<Duration> {
        between(self.made, self.pod_made)
    }

    fn after(&self) -> Option<Duration> {
        between(self.pod_runs, self.told)
    }
}

/// Nothing where the order is the other one: what is noted last may have been done first.
fn between(from: Option<Timestamp>, to: Option<Timestamp>) -> Option<Duration> {
    Some(to?.duration_since(from?).try_into().unwrap_or_default())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The value that `percent` of sorted ones don't exceed.
pub fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied()
}

/// A VirtualMachine, its instance and that one's pod.
#[derive(Debug, Clone, Copy)]
pub enum Guests {}

impl Kind for Guests {
    const RESOURCE: &'static str = "virtualmachines";

    fn makes_pod(noted: &Noted) -> Option<String> {
        (noted.verb == "create" && noted.resource() == "pods").then(|| Self::of_pod(noted.name()))?
    }

    fn tells(noted: &Noted) -> Option<String> {
        let runs = noted.resource() == "virtualmachineinstances/status"
            && noted.request_object.pointer("/status/phase").is_some_and(|phase| phase == "Running");
        runs.then(|| noted.name().to_owned())
    }

    fn of_pod(pod: &str) -> Option<String> {
        Some(pod.strip_prefix("virt-launcher-")?.rsplit_once('-')?.0.to_owned())
    }
}

/// A ReplicaSet of one pod.
#[derive(Debug, Clone, Copy)]
pub enum ReplicaSets {}

impl Kind for ReplicaSets {
    const RESOURCE: &'static str = "replicasets";

    fn makes_pod(noted: &Noted) -> Option<String> {
        let is_pod = noted.verb == "create" && noted.resource() == "pods";
        let prefix = noted.request_object.pointer("/metadata/generateName").filter(|_| is_pod)?.as_str()?;
        Some(prefix.strip_suffix('-')?.to_owned())
    }

    fn tells(noted: &Noted) -> Option<String> {
        let is_ready = noted.resource() == "replicasets/status"
            && noted.request_object.pointer("/status/readyReplicas").is_some_and(|ready| ready == 1);
        is_ready.then(|| noted.name().to_owned())
    }

    fn of_pod(pod: &str) -> Option<String> {
        pod.rsplit_once('-').map(|(set, _)| set.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn noted(user: &str, verb: &str, resource: &str, name: &str, second: u32, object: &Value) -> Noted {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let at = format!("2026-01-01T00:00:{second:02}.000000Z");
        serde_json::from_value(json!({
            "stage": "ResponseComplete", "verb": verb, "user": {"username": user}, "requestObject": object,
            "objectRef": {"resource": resource, "subresource": subresource, "name": name},
            "responseStatus": {"code": 200}, "requestReceivedTimestamp": at, "stageTimestamp": at,
        }))
        .unwrap()
    }

    #[test]
    fn what_a_controller_adds_is_all_but_its_pod_s_start() {
        let running = json!({"status": {"phase": "Running"}});
        let mut timeline = Timeline::default();
        timeline.add::<Guests>(&[
            noted(BENCH, "create", "virtualmachines", "many-1", 1, &Value::Null),
            noted("c", "create", "pods", "virt-launcher-many-1-abcde", 3, &Value::Null),
            noted(
                "c",
                "patch",
                "virtualmachineinstances/status",
                "many-1",
                4,
                &json!({"status": {"phase": "Scheduling"}}),
            ),
            noted(KUBELET, "patch", "pods/status", "virt-launcher-many-1-abcde", 13, &Value::Null),
            noted(KUBELET, "patch", "pods/status", "virt-launcher-many-1-abcde", 20, &Value::Null),
        ]);
        assert_eq!(timeline.told(), 0);
        timeline.add::<Guests>(&[noted("c", "patch", "virtualmachineinstances/status", "many-1", 16, &running)]);
        assert_eq!((timeline.told(), timeline.added(), timeline.whole()), (1, vec![5000.0], Some(15000.0)));
        assert_eq!(
            (timeline.before(), timeline.of_pods(), timeline.after()),
            (vec![2000.0], vec![10000.0], vec![3000.0])
        );
    }

    #[test]
    fn a_replica_set_is_told_of_once_its_pod_is_ready() {
        let mut timeline = Timeline::default();
        let ready = |count: u32| json!({"status": {"readyReplicas": count}});
        timeline.add::<ReplicaSets>(&[
            noted(BENCH, "create", "replicasets", "many-1", 1, &Value::Null),
            noted("c", "create", "pods", "", 2, &json!({"metadata": {"generateName": "many-1-"}})),
            noted("c", "update", "replicasets/status", "many-1", 2, &ready(0)),
            noted(KUBELET, "patch", "pods/status", "many-1-abcde", 5, &Value::Null),
            noted("c", "update", "replicasets/status", "many-1", 6, &ready(1)),
        ]);
        assert_eq!((timeline.told(), timeline.added()), (1, vec![2000.0]));
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((percentile(&values, 50), percentile(&values, 95)), (Some(50.0), Some(95.0)));
        assert_eq!((percentile(&[7.0], 95), percentile(&[], 50)), (Some(7.0), None));
    }
}
