//! How long instances are in their phases. Counted by who writes a phase down, once it is written: the replica that leads.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use vireo_runtimeclass::cluster::{InstancePhase, InstanceStatus, VirtualMachineInstance};

use super::catalogue::{self, Metric};
use super::histograms;
use super::sample::Labels;

/// Bounds of the histograms, seconds (KubeVirt's).
const BOUNDS: [f64; 18] =
    [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0];

type Histograms = Family<Labels<'static>, Histogram, fn() -> Histogram>;

/// How long instances are in their phases; clones are the same.
#[derive(Debug, Clone)]
pub struct Phases {
    between: Histograms,
    from_creation: Histograms,
    from_deletion: Histograms,
}

/// One instance's way into a phase.
#[derive(Debug, PartialEq)]
struct Transition {
    phase: InstancePhase,
    /// None for one that has just been made.
    last: Option<InstancePhase>,
    /// Seconds in the last one.
    between: f64,
    from_creation: Option<f64>,
    /// Where it was told to go, and this is its end.
    from_deletion: Option<f64>,
}

impl Phases {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let mut register = |metric: &Metric| histograms(registry, metric, || Histogram::new(BOUNDS));
        Self {
            between: register(&catalogue::VMI_PHASE),
            from_creation: register(&catalogue::VMI_PHASE_FROM_CREATION),
            from_deletion: register(&catalogue::VMI_PHASE_FROM_DELETION),
        }
    }

    /// `status` was written for an instance.
    pub fn written(&self, vmi: &VirtualMachineInstance, status: &InstanceStatus) {
        for Transition { phase, last, between, from_creation, from_deletion } in transitions(vmi, status) {
            let (phase, last) = (word(Some(phase)), word(last));
            let of = |labels: Labels<'_>| labels.owned();
            let observe = |family: &Histograms, labels, seconds| family.get_or_create(&of(labels)).observe(seconds);
            observe(&self.between, Labels::new([("phase", &phase), ("last_phase", &last)]), between);
            if let Some(seconds) = from_creation {
                observe(&self.from_creation, Labels::new([("phase", &phase)]), seconds);
            }
            if let Some(seconds) = from_deletion {
                observe(&self.from_deletion, Labels::new([("phase", &phase)]), seconds);
            }
        }
    }
}

fn word(phase: Option<InstancePhase>) -> String {
    phase.map(super::objects::word).unwrap_or_default()
}

/// The phases that an instance got into by `status`. Clocks of nodes differ: no time is less than none.
fn transitions(vmi: &VirtualMachineInstance, status: &InstanceStatus) -> Vec<Transition> {
    let before = vmi.status.as_ref().and_then(|status| status.phase);
    if status.phase == before {
        return Vec::new();
    }
    let seconds = |from: i128, to: i128| {
        let milliseconds = u32::try_from((to - from).max(0) / 1_000_000).unwrap_or(u32::MAX);
        f64::from(milliseconds) / 1000.0
    };
    let created = vmi.metadata.creation_timestamp.as_ref().map(|time| time.0.as_nanosecond());
    let deleted = vmi.metadata.deletion_timestamp.as_ref().map(|time| time.0.as_nanosecond());
    let times = status.phase_transition_timestamps.iter();
    let times =
        times.filter_map(|time| Some((time.phase?, time.phase_transition_timestamp.as_ref()?.0.as_nanosecond())));
    let times: Vec<_> = times.collect();
    // They are in order; what was written before comes first.
    let first = before.and_then(|before| times.iter().position(|(phase, _)| *phase == before));
    let (mut last, mut since) = match first {
        Some(first) => (before, Some(times[first].1)),
        None => (before, created),
    };
    let mut passed = Vec::new();
    for &(phase, at) in &times[first.map_or(0, |first| first + 1)..] {
        let is_final = matches!(phase, InstancePhase::Succeeded | InstancePhase::Failed);
        passed.push(Transition {
            phase,
            last,
            between: since.map_or(0.0, |since| seconds(since, at)),
            from_creation: created.map(|created| seconds(created, at)),
            from_deletion: deleted.filter(|_| is_final).map(|deleted| seconds(deleted, at)),
        });
        (last, since) = (Some(phase), Some(at));
    }
    passed
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;
    use vireo_runtimeclass::cluster::InstancePhaseTransition;

    use super::InstancePhase::{Pending, Running, Scheduled, Scheduling, Succeeded};
    use super::*;

    fn time(milliseconds: i64) -> Time {
        Time(Timestamp::from_millisecond(milliseconds).unwrap())
    }

    fn status(phases: &[(InstancePhase, i64)]) -> InstanceStatus {
        let transitions = phases.iter().map(|&(phase, at)| InstancePhaseTransition {
            phase: Some(phase),
            phase_transition_timestamp: Some(time(at)),
        });
        InstanceStatus {
            phase: phases.last().map(|(phase, _)| *phase),
            phase_transition_timestamps: transitions.collect(),
            ..InstanceStatus::default()
        }
    }

    fn instance(before: &[(InstancePhase, i64)], deleted: Option<i64>) -> VirtualMachineInstance {
        let mut vmi: VirtualMachineInstance = serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "web"}, "spec": {},
        }))
        .unwrap();
        vmi.metadata.creation_timestamp = Some(time(1_000));
        vmi.metadata.deletion_timestamp = deleted.map(time);
        vmi.status = (!before.is_empty()).then(|| status(before));
        vmi
    }

    #[test]
    fn every_phase_that_is_passed_through_is_counted_once() {
        let begun = [(Pending, 1_500), (Scheduling, 2_000)];
        let told = transitions(&instance(&[], None), &status(&begun));
        let brief: Vec<_> =
            told.iter().map(|t| (t.phase, t.last, t.between, t.from_creation, t.from_deletion)).collect();
        assert_eq!(brief, [(Pending, None, 0.5, Some(0.5), None), (Scheduling, Some(Pending), 0.5, Some(1.0), None),]);
        let runs = [begun[0], begun[1], (Scheduled, 7_250), (Running, 7_250)];
        let told = transitions(&instance(&begun, None), &status(&runs));
        let brief: Vec<_> = told.iter().map(|t| (t.phase, t.last, t.between, t.from_creation)).collect();
        assert_eq!(
            brief,
            [(Scheduled, Some(Scheduling), 5.25, Some(6.25)), (Running, Some(Scheduled), 0.0, Some(6.25))]
        );
        assert_eq!(transitions(&instance(&runs, None), &status(&runs)), []);
        let ended = [runs[0], runs[1], runs[2], runs[3], (Succeeded, 60_000)];
        let told = transitions(&instance(&runs, Some(58_000)), &status(&ended));
        assert_eq!((told.len(), told[0].from_deletion), (1, Some(2.0)));
        // By a clock that is behind.
        let told = transitions(&instance(&runs, Some(61_000)), &status(&ended));
        assert_eq!(told[0].from_deletion, Some(0.0));
    }
}
