//! What tests make guests of.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use vireo_runtimeclass::cluster::{
    InstancePhase, InstanceStatus, RunStrategy, StartFailure, StateChange, StateChangeRequest,
};

/// The columns of tables.
pub(super) const STRATEGIES: [RunStrategy; 5] =
    [RunStrategy::Always, RunStrategy::Halted, RunStrategy::Manual, RunStrategy::RerunOnFailure, RunStrategy::Once];

pub(super) fn start() -> StateChangeRequest {
    StateChangeRequest { action: StateChange::Start, data: BTreeMap::new(), uid: None }
}

pub(super) fn stop(uid: &str) -> StateChangeRequest {
    StateChangeRequest { action: StateChange::Stop, data: BTreeMap::new(), uid: Some(uid.to_owned()) }
}

/// An instance in a phase.
pub(super) fn instance(phase: Option<InstancePhase>) -> InstanceStatus {
    InstanceStatus { phase, ..InstanceStatus::default() }
}

/// A guest that failed once and is started again at a second of 1970.
pub(super) fn failed_until(second: i64) -> StartFailure {
    StartFailure {
        consecutive_fail_count: Some(1),
        last_failed_vmiuid: Some("a".to_owned()),
        retry_after_timestamp: Some(Time(Timestamp::from_second(second).unwrap())),
    }
}
