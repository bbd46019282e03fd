//! What holds of an instance.

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use vireo_runtimeclass::cluster::{Condition, ConditionStatus, InstancePhase, InstanceStatus};

use super::claims::{are_filled, are_ready, data_volumes};
use super::phase::{compute, is_finished};
use super::{Report, Seen};

/// Its guest stands still.
pub const PAUSED: &str = "Paused";
const READY: &str = "Ready";
const SYNCHRONIZED: &str = "Synchronized";
const POD_SCHEDULED: &str = "PodScheduled";
const AGENT_CONNECTED: &str = "AgentConnected";
const PROVISIONING: &str = "Provisioning";
const DATA_VOLUMES_READY: &str = "DataVolumesReady";
/// What an instance can't do yet.
const NOT_YET: [(&str, &str); 2] = [
    ("LiveMigratable", "vireo does not move instances to other nodes yet"),
    ("StorageLiveMigratable", "vireo does not move disks to other claims yet"),
];
const NOT_SUPPORTED: &str = "NotSupported";
/// Containers that wait for this are on their way.
const ON_THEIR_WAY: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// A guest stands still.
pub fn is_paused(status: &InstanceStatus) -> bool {
    let paused = status.conditions.iter().find(|condition| condition.kind == PAUSED);
    paused.is_some_and(|condition| condition.status == ConditionStatus::True)
}

pub(super) fn fill(status: &mut InstanceStatus, seen: &Seen<'_>, before: Option<InstancePhase>) {
    let phase = status.phase;
    let mut conditions = Conditions { all: &mut status.conditions, now: Time(seen.now) };
    ready(&mut conditions, phase, seen.pod);
    synchronized(&mut conditions, phase, seen);
    scheduled(&mut conditions, phase, seen);
    if phase == Some(InstancePhase::Running) {
        for (kind, message) in NOT_YET {
            conditions.set(kind, ConditionStatus::False, Some(NOT_SUPPORTED), Some(message));
        }
    }
    storage(&mut conditions, phase, seen);
    let starts_paused = seen.spec.is_some_and(|spec| spec.machine.start_strategy.as_deref() == Some("Paused"));
    let has_just_started = phase == Some(InstancePhase::Running) && before != phase;
    match (seen.report, phase) {
        (Some(report), Some(InstancePhase::Running)) => told(&mut conditions, report),
        (None, Some(InstancePhase::Running)) if has_just_started && starts_paused => paused(&mut conditions, ""),
        (None, Some(InstancePhase::Running)) => {}
        _ => {
            conditions.remove(PAUSED);
            conditions.remove(AGENT_CONNECTED);
        }
    }
}

fn ready(conditions: &mut Conditions<'_>, phase: Option<InstancePhase>, pod: Option<&Pod>) {
    let mut lacks = |reason, message| conditions.set(READY, ConditionStatus::False, Some(reason), Some(message));
    let Some(pod) = pod else {
        return lacks("PodNotExists", "virt-launcher pod has not yet been scheduled");
    };
    if is_finished(pod) || pod.metadata.deletion_timestamp.is_some() {
        return lacks("PodTerminating", "virt-launcher pod is terminating");
    }
    if phase != Some(InstancePhase::Running) {
        return lacks("GuestNotRunning", "Guest VM is not reported as running");
    }
    match condition(pod, READY) {
        Some(ready) => conditions.mirror(ready),
        None => lacks("PodConditionMissing", "virt-launcher pod is missing the Ready condition"),
    }
}

fn synchronized(conditions: &mut Conditions<'_>, phase: Option<InstancePhase>, seen: &Seen<'_>) {
    let mut fails = |reason: &str, message: &str| {
        conditions.set(SYNCHRONIZED, ConditionStatus::False, Some(reason), Some(message));
    };
    if let Some(trouble) = seen.trouble {
        return fails(trouble.reason, &trouble.message);
    }
    // Whatever keeps the machine from starting: its image, and what the shim refuses.
    let waiting = seen.pod.filter(|_| phase == Some(InstancePhase::Scheduling)).and_then(compute);
    let waiting = waiting.and_then(|container| container.state.as_ref()?.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
    match (reason, waiting) {
        // Of a volume that can't be mounted, its Secret is missing for one, the pod itself says nothing.
        (Some(reason), _) if ON_THEIR_WAY.contains(&reason) => match seen.mounts {
            Some(why) => fails(super::super::reasons::FAILED_MOUNT, why),
            None => conditions.remove(SYNCHRONIZED),
        },
        (Some(reason), Some(waiting)) => fails(reason, waiting.message.as_deref().unwrap_or_default()),
        _ => conditions.remove(SYNCHRONIZED),
    }
}

/// That no node takes the pod; and, as KubeVirt has it, that a claim is missing.
fn scheduled(conditions: &mut Conditions<'_>, phase: Option<InstancePhase>, seen: &Seen<'_>) {
    let trouble = seen.trouble.filter(|trouble| trouble.reason == super::super::reasons::NO_CLAIM);
    match (phase, seen.pod.and_then(|pod| condition(pod, POD_SCHEDULED)), trouble) {
        (Some(InstancePhase::Scheduling), Some(scheduled), _) if scheduled.status == "False" => {
            conditions.mirror(scheduled);
        }
        (Some(InstancePhase::Pending), None, Some(trouble)) => {
            conditions.set(POD_SCHEDULED, ConditionStatus::False, Some("Unschedulable"), Some(&trouble.message));
        }
        _ => conditions.remove(POD_SCHEDULED),
    }
}

fn storage(conditions: &mut Conditions<'_>, phase: Option<InstancePhase>, seen: &Seen<'_>) {
    let Some(spec) = seen.spec.filter(|spec| data_volumes(spec).next().is_some()) else { return };
    if phase == Some(InstancePhase::Pending) && !are_filled(spec, seen.claims) {
        conditions.set(PROVISIONING, ConditionStatus::True, None, None);
    } else {
        conditions.remove(PROVISIONING);
    }
    let (status, reason, message) = if are_ready(spec, seen.claims) {
        (ConditionStatus::True, "AllDVsReady", "All of the VMI's DVs are bound and ready")
    } else {
        (ConditionStatus::False, "NotAllDVsReady", "Not all of the VMI's DVs are ready")
    };
    conditions.set(DATA_VOLUMES_READY, status, Some(reason), Some(message));
}

/// What the machine says.
fn told(conditions: &mut Conditions<'_>, report: &Report) {
    match &report.paused {
        Some(why) => paused(conditions, why),
        None => conditions.remove(PAUSED),
    }
    if report.agent {
        conditions.set(AGENT_CONNECTED, ConditionStatus::True, None, None);
    } else {
        conditions.remove(AGENT_CONNECTED);
    }
}

/// `why`: not because it was asked to.
fn paused(conditions: &mut Conditions<'_>, why: &str) {
    let (reason, message) = if why.is_empty() {
        ("PausedByUser", "VMI was paused by user".to_owned())
    } else {
        ("PausedIOError", format!("VMI was paused, {why}"))
    };
    conditions.set(PAUSED, ConditionStatus::True, Some(reason), Some(&message));
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Conditions, one of each kind, that keep their times as long as they hold.
struct Conditions<'a> {
    all: &'a mut Vec<Condition>,
    now: Time,
}

impl Conditions<'_> {
    fn set(&mut self, kind: &str, status: ConditionStatus, reason: Option<&str>, message: Option<&str>) {
        let now = self.now.clone();
        self.put(kind, status, (reason, message), now);
    }

    /// As a pod has it.
    fn mirror(&mut self, of: &PodCondition) {
        let status = match of.status.as_str() {
            "True" => ConditionStatus::True,
            "False" => ConditionStatus::False,
            _ => ConditionStatus::Unknown,
        };
        let since = of.last_transition_time.clone().unwrap_or_else(|| self.now.clone());
        self.put(&of.type_, status, (of.reason.as_deref(), of.message.as_deref()), since);
    }

    fn put(
        &mut self,
        kind: &str,
        status: ConditionStatus,
        (reason, message): (Option<&str>, Option<&str>),
        since: Time,
    ) {
        let text = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        let old = self.all.iter().find(|condition| condition.kind == kind && condition.status == status);
        let new = Condition {
            kind: kind.to_owned(),
            status,
            reason: text(reason),
            message: text(message),
            last_probe_time: None,
            last_transition_time: old.map_or(Some(since), |old| old.last_transition_time.clone()),
        };
        match self.all.iter_mut().find(|condition| condition.kind == kind) {
            Some(condition) => *condition = new,
            None => self.all.push(new),
        }
    }

    fn remove(&mut self, kind: &str) {
        self.all.retain(|condition| condition.kind != kind);
    }
}
