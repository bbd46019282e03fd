//! What a kubelet says of a pod.

use std::net::Ipv4Addr;

use k8s_openapi::{
    api::core::v1::{Pod, PodStatus},
    jiff::Timestamp,
};
use kube::ResourceExt as _;
use serde_json::{Value, json};

/// What a pod's containers do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// They wait: `ErrImagePull` and the like.
    Waiting {
        /// In a word.
        reason: String,
        /// In full.
        message: String,
    },
    /// They run, and are ready.
    Running,
    /// They run, but their probes say that they are not ready.
    Unready,
    /// They have ended.
    Ended {
        /// With this exit code.
        code: i32,
        /// In a word.
        reason: String,
        /// In full.
        message: String,
    },
}

impl State {
    /// They have ended by themselves.
    pub fn ended(code: i32) -> Self {
        let reason = if code == 0 { "Completed" } else { "Error" };
        Self::Ended { code, reason: reason.to_owned(), message: String::new() }
    }

    /// They wait for a reason.
    pub fn waiting(reason: &str, message: &str) -> Self {
        Self::Waiting { reason: reason.to_owned(), message: message.to_owned() }
    }

    fn phase(&self) -> &'static str {
        match self {
            Self::Waiting { .. } => "Pending",
            Self::Running | Self::Unready => "Running",
            Self::Ended { code: 0, .. } => "Succeeded",
            Self::Ended { .. } => "Failed",
        }
    }

    fn of_container(&self, now: &str) -> Value {
        match self {
            Self::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
            Self::Running | Self::Unready => json!({"running": {"startedAt": now}}),
            Self::Ended { code, reason, message } => json!({"terminated": {
                "exitCode": code, "reason": reason, "message": message, "startedAt": now, "finishedAt": now,
            }}),
        }
    }

    /// Whether a pod is ready when its containers do this: its readiness gates must hold too.
    pub(super) fn makes_ready(&self, pod: &Pod) -> bool {
        let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
        let conditions = || pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        *self == Self::Running
            && gates.into_iter().all(|gate| {
                conditions().any(|condition| condition.type_ == gate.condition_type && condition.status == "True")
            })
    }
}

/// Whether a pod is said to be ready.
pub(super) fn is_ready(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A pod's address: of its uid, so that pods have different ones.
pub(super) fn address(pod: &Pod) -> Ipv4Addr {
    let seed =
        pod.uid().unwrap_or_default().bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let [_, _, third, fourth] = seed.to_be_bytes();
    Ipv4Addr::new(10, 244, third, fourth)
}

/// A strategic merge patch of a pod's status.
pub(super) fn status(pod: &Pod, state: &State) -> Value {
    let now = Timestamp::now().to_string();
    let running = *state == State::Running;
    let condition = |kind: &str, holds: bool| {
        let reason = if holds { "" } else { "ContainersNotReady" };
        json!({"type": kind, "status": if holds { "True" } else { "False" }, "reason": reason, "lastTransitionTime": now})
    };
    let containers: Vec<_> = pod.spec.iter().flat_map(|spec| &spec.containers).collect();
    let statuses: Vec<_> = containers
        .iter()
        .map(|container| {
            json!({
                "name": container.name,
                "image": container.image,
                "imageID": format!("{}@sha256:{:064}", container.image.as_deref().unwrap_or_default(), 0),
                "containerID": format!("containerd://{:064}", 0),
                "ready": running,
                "started": running,
                "restartCount": 0,
                "state": state.of_container(&now),
            })
        })
        .collect();
    let waits = matches!(state, State::Waiting { .. });
    let ip = (!waits).then(|| address(pod).to_string());
    json!({"status": {
        "phase": state.phase(),
        "startTime": pod.status.as_ref().and_then(|status| status.start_time.clone()).map_or(json!(now), |time| json!(time)),
        "hostIP": super::HOST,
        "podIP": ip,
        "podIPs": ip.map(|ip| json!([{"ip": ip}])),
        "conditions": [
            condition("Initialized", true),
            condition("ContainersReady", running),
            condition("Ready", state.makes_ready(pod)),
        ],
        "containerStatuses": statuses,
    }})
}
