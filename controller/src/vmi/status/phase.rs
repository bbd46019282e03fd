//! How far an instance is.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;
use vireo_runtimeclass::cluster::InstancePhase::{
    self, Failed, Pending, Running, Scheduled, Scheduling, Succeeded, Unknown,
};
use vireo_runtimeclass::pod::MACHINE_CONTAINER;

/// The phases that an instance gets into now, one after the other.
pub(super) fn passed(phase: Option<InstancePhase>, is_deleted: bool, pod: Option<&Pod>) -> Vec<InstancePhase> {
    let mut passed = Vec::new();
    while let Some(next) = next(passed.last().copied().or(phase), is_deleted, pod) {
        passed.push(next);
    }
    passed
}

/// The phase after `phase`, if it isn't the one that holds.
fn next(phase: Option<InstancePhase>, is_deleted: bool, pod: Option<&Pod>) -> Option<InstancePhase> {
    // What was to end has ended well, also if it had to be forced to.
    let ended = |badly: bool| if badly && !is_deleted { Failed } else { Succeeded };
    match (phase, pod) {
        (None | Some(Pending), None) if is_deleted => Some(Failed),
        (None, _) => Some(Pending),
        (Some(Succeeded | Failed), _) | (Some(Pending), None) => None,
        (Some(Pending), Some(_)) => Some(Scheduling),
        (Some(Scheduling), None) => Some(Failed),
        (Some(Scheduling), Some(pod)) => {
            if is_running(pod) || has_run(pod) {
                Some(Scheduled)
            } else if is_finished(pod) || pod.metadata.deletion_timestamp.is_some() {
                Some(Failed)
            } else {
                None
            }
        }
        (Some(Scheduled), Some(_)) => Some(Running),
        (Some(Scheduled | Running | Unknown), None) => Some(ended(true)),
        (Some(Running | Unknown), Some(pod)) => {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            is_finished(pod).then(|| ended(phase == Some("Failed")))
        }
    }
}

/// What is said of a pod's machine.
pub fn compute(pod: &Pod) -> Option<&ContainerStatus> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    containers.iter().find(|container| container.name == MACHINE_CONTAINER)
}

/// A pod's machine runs.
pub fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let state = compute(pod).and_then(|container| container.state.as_ref());
    phase == Some("Running") && state.is_some_and(|state| state.running.is_some())
}

/// A pod has ended: nothing of it runs any more.
pub fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// A pod's machine had started before it ended. One that can't start is said to have done so in 1970.
fn has_run(pod: &Pod) -> bool {
    let ended = compute(pod).and_then(|container| container.state.as_ref()?.terminated.as_ref());
    let started = ended.and_then(|ended| ended.started_at.as_ref());
    started.is_some_and(|started| started.0 > Timestamp::UNIX_EPOCH)
}

/// Why a pod failed, in a word.
pub(super) fn reason(pod: &Pod) -> Option<String> {
    let of_pod = pod.status.as_ref().and_then(|status| status.reason.clone());
    let ended = compute(pod).and_then(|container| container.state.as_ref()?.terminated.as_ref());
    of_pod.or_else(|| ended.and_then(|ended| ended.reason.clone())).filter(|reason| !reason.is_empty())
}
