//! What is to be said of an instance: its whole status, from what is seen of it. Pure.
//!
//! ```text
//!  "" -> Pending -> Scheduling -> Scheduled -> Running -> Succeeded
//!           └───────────┴────────────┴──────────┴───────> Failed
//! ```
//!
//! Phases are those of the pod: it is there, its machine has started, it has ended. An instance passes through all of them
//! even where several are seen at once, so that each has its time, and it never goes back. Reasons, messages and the order of
//! what counts are KubeVirt's (virt-controller's `watch/vmi/lifecycle.go`, v1.10 development).

mod claims;
mod conditions;
mod details;
mod phase;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use vireo_runtimeclass::cluster::{
    GuestOsInfo, InstancePhase, InstancePhaseTransition, InstanceSpec, InstanceStatus, VirtualMachineInstance,
};

pub use claims::are_filled;
pub use conditions::{PAUSED, is_paused};
pub(crate) use details::NETWORK_STATUS;
pub use phase::{compute, is_finished, is_running};

/// What is seen of an instance.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// It.
    pub vmi: &'a VirtualMachineInstance,
    /// Its spec, if that can be read.
    pub spec: Option<&'a InstanceSpec>,
    /// Its pod.
    pub pod: Option<&'a Pod>,
    /// Claims of its volumes, by name, as far as they are there.
    pub claims: &'a BTreeMap<String, PersistentVolumeClaim>,
    /// Why its pod's volumes can't be mounted, by the kubelet; old news once its machine is on its way.
    pub mounts: Option<&'a str>,
    /// Why it has no pod.
    pub trouble: Option<&'a Trouble>,
    /// What its machine says of itself; nothing where nobody asked it.
    pub report: Option<&'a Report>,
    /// What the status calls its launcher.
    pub launcher_image: &'a str,
    /// Now.
    pub now: Timestamp,
}

/// Why an instance isn't what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// KubeVirt's word for it.
    pub reason: &'static str,
    /// Why.
    pub message: String,
}

/// What a machine says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// It stands still, and why if nobody asked for it.
    pub paused: Option<String>,
    /// Its guest's agent answers.
    pub agent: bool,
    /// What its guest runs, by the agent.
    pub guest: Option<GuestOsInfo>,
}

/// The status of an instance.
pub fn status(seen: &Seen<'_>) -> InstanceStatus {
    let mut status = seen.vmi.status.clone().unwrap_or_default();
    let is_deleted = seen.vmi.metadata.deletion_timestamp.is_some();
    let before = status.phase;
    for phase in phase::passed(before, is_deleted, seen.pod) {
        status.phase = Some(phase);
        status.phase_transition_timestamps.retain(|transition| transition.phase != Some(phase));
        status
            .phase_transition_timestamps
            .push(InstancePhaseTransition { phase: Some(phase), phase_transition_timestamp: Some(Time(seen.now)) });
    }
    if status.phase == Some(InstancePhase::Failed) && before != status.phase {
        status.reason = seen.pod.and_then(phase::reason);
    }
    details::fill(&mut status, seen);
    conditions::fill(&mut status, seen, before);
    status
}
