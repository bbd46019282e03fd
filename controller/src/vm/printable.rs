//! A guest's state in one word, `status.printableStatus`: the first of many that may hold at a time.

use vireo_runtimeclass::cluster::{ConditionStatus, InstancePhase, PrintableStatus, RunStrategy};

use super::{Action, Guest};

/// What is seen of a guest's volumes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Storage {
    /// A DataVolume of its failed.
    pub has_failed: bool,
    /// A DataVolume of its is being filled.
    pub is_provisioning: bool,
    /// A claim of its isn't bound.
    pub is_unbound: bool,
}

/// A guest's state in one word. `action` is what [`super::plan`] said, and what may be under way.
pub fn printable_status(guest: &Guest<'_>, action: Action, storage: Storage) -> PrintableStatus {
    use PrintableStatus as S;
    let instance = guest.instance;
    let phase = instance.and_then(|instance| instance.status.phase);
    let is_final = instance.is_some_and(|instance| instance.is_final());
    let is_running = phase == Some(InstancePhase::Running);
    let is_paused = instance
        .and_then(|instance| instance.condition("Paused"))
        .is_some_and(|condition| condition.status == ConditionStatus::True);
    let is_stopping = instance.is_some_and(|instance| instance.is_deleted) || action == Action::Stop;
    let is_migrating = instance
        .and_then(|instance| instance.status.migration_state.as_ref())
        .is_some_and(|state| state.start_timestamp.is_some() && state.end_timestamp.is_none());
    let lacks = |kind, reason| instance.is_some_and(|instance| instance.lacks(kind, reason));
    let is_starting = match instance {
        None => matches!(action, Action::Start { .. }),
        Some(_) => {
            matches!(phase, None | Some(InstancePhase::Pending | InstancePhase::Scheduling | InstancePhase::Scheduled))
        }
    };
    let has_crashed = guest.status.start_failure.as_ref().and_then(|failure| failure.consecutive_fail_count) > Some(0)
        && matches!(guest.strategy, RunStrategy::Always | RunStrategy::RerunOnFailure | RunStrategy::Once);
    let order = [
        (S::Terminating, guest.is_deleted),
        (S::Stopping, instance.is_some() && !is_final && is_stopping),
        (S::Migrating, is_migrating),
        (S::Paused, is_running && is_paused),
        (S::Running, is_running),
        (S::ErrorPvcNotFound, lacks("Synchronized", "FailedPvcNotFound")),
        (S::DataVolumeError, storage.has_failed),
        (S::ErrorUnschedulable, lacks("PodScheduled", "Unschedulable")),
        (S::Provisioning, storage.is_provisioning),
        (S::WaitingForVolumeBinding, storage.is_unbound && is_set_to_start(guest)),
        (S::ErrImagePull, lacks("Synchronized", "ErrImagePull")),
        (S::ImagePullBackOff, lacks("Synchronized", "ImagePullBackOff")),
        (S::Starting, is_starting),
        (S::CrashLoopBackOff, has_crashed && (instance.is_none() || is_final)),
        (S::Stopped, instance.is_none() || is_final),
    ];
    order.into_iter().find_map(|(status, holds)| holds.then_some(status)).unwrap_or(S::Unknown)
}

/// Whether a guest should come up, or stay.
fn is_set_to_start(guest: &Guest<'_>) -> bool {
    match (guest.strategy, guest.instance) {
        (RunStrategy::Always, _) | (RunStrategy::RerunOnFailure | RunStrategy::Once, None) => true,
        (RunStrategy::Halted, _) | (RunStrategy::Once, Some(_)) => false,
        (RunStrategy::Manual, Some(instance)) => !guest.must_stop(instance),
        (RunStrategy::Manual, None) => guest.start_request().is_some(),
        (RunStrategy::RerunOnFailure, Some(instance)) => instance.status.phase != Some(InstancePhase::Succeeded),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use vireo_runtimeclass::cluster::{Condition, InstanceStatus, MigrationState, VirtualMachineStatus};

    use super::super::Instance;
    use super::super::samples::{failed_until, instance};
    use super::*;

    fn condition(kind: &str, status: ConditionStatus, reason: &str) -> Condition {
        Condition {
            kind: kind.to_owned(),
            status,
            reason: Some(reason.to_owned()),
            message: None,
            last_probe_time: None,
            last_transition_time: None,
        }
    }

    /// Everything is true at once, and stops being so one after the other: each word comes out in its turn.
    #[test]
    fn the_first_that_holds_is_said() {
        use ConditionStatus::{False, True};
        let migrating =
            MigrationState { start_timestamp: Some(Time(Timestamp::UNIX_EPOCH)), ..MigrationState::default() };
        let mut seen = InstanceStatus {
            conditions: vec![
                condition("Paused", True, ""),
                condition("Synchronized", False, "FailedPvcNotFound"),
                condition("PodScheduled", False, "Unschedulable"),
            ],
            migration_state: Some(migrating),
            ..instance(Some(InstancePhase::Running))
        };
        let status = VirtualMachineStatus { start_failure: Some(failed_until(40)), ..VirtualMachineStatus::default() };
        let mut storage = Storage { has_failed: true, is_provisioning: true, is_unbound: true };
        let word = |is_deleted, action, seen: Option<&InstanceStatus>, storage| {
            let seen = seen.map(|status| Instance { uid: "a", is_deleted: false, grace_period: None, status });
            let strategy = RunStrategy::Always;
            printable_status(&Guest { strategy, is_deleted, status: &status, instance: seen }, action, storage)
        };
        assert_eq!(word(true, Action::Stop, Some(&seen), storage), PrintableStatus::Terminating);
        assert_eq!(word(false, Action::Stop, Some(&seen), storage), PrintableStatus::Stopping);
        assert_eq!(word(false, Action::Nothing, Some(&seen), storage), PrintableStatus::Migrating);
        seen.migration_state.as_mut().unwrap().end_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(word(false, Action::Nothing, Some(&seen), storage), PrintableStatus::Paused);
        seen.conditions[0].status = False;
        assert_eq!(word(false, Action::Nothing, Some(&seen), storage), PrintableStatus::Running);
        seen.phase = Some(InstancePhase::Scheduling);
        assert_eq!(word(false, Action::Nothing, Some(&seen), storage), PrintableStatus::ErrorPvcNotFound);
        seen.conditions[1].reason = Some("ErrImagePull".to_owned());
        assert_eq!(word(false, Action::Nothing, Some(&seen), storage), PrintableStatus::DataVolumeError);
        storage.has_failed = false;
        assert_eq!(word(false, Action::Nothing, Some(&seen), storage), PrintableStatus::ErrorUnschedulable);
        seen.conditions[2].status = True;
        assert_eq!(word(false, Action::Nothing, Some(&seen), storage), PrintableStatus::Provisioning);
        storage.is_provisioning = false;
        assert_eq!(word(false, Action::Nothing, Some(&seen), storage), PrintableStatus::WaitingForVolumeBinding);
        storage.is_unbound = false;
        assert_eq!(word(false, Action::Nothing, Some(&seen), storage), PrintableStatus::ErrImagePull);
        seen.conditions[1].reason = Some("ImagePullBackOff".to_owned());
        assert_eq!(word(false, Action::Nothing, Some(&seen), storage), PrintableStatus::ImagePullBackOff);
        seen.conditions[1].status = True;
        for phase in
            [None, Some(InstancePhase::Pending), Some(InstancePhase::Scheduling), Some(InstancePhase::Scheduled)]
        {
            seen.phase = phase;
            assert_eq!(word(false, Action::Nothing, Some(&seen), storage), PrintableStatus::Starting);
        }
        let start = Action::Start { paused: false };
        assert_eq!(word(false, start, None, storage), PrintableStatus::Starting);
        seen.phase = Some(InstancePhase::Failed);
        assert_eq!(word(false, Action::Stop, Some(&seen), storage), PrintableStatus::CrashLoopBackOff);
        let wait = Action::Wait(std::time::Duration::from_secs(1));
        assert_eq!(word(false, wait, None, storage), PrintableStatus::CrashLoopBackOff);
        seen.phase = Some(InstancePhase::Unknown);
        assert_eq!(word(false, Action::Nothing, Some(&seen), storage), PrintableStatus::Unknown);
    }

    #[test]
    fn guests_that_nobody_starts_are_stopped() {
        let status = VirtualMachineStatus { start_failure: Some(failed_until(40)), ..VirtualMachineStatus::default() };
        let storage = Storage { is_unbound: true, ..Storage::default() };
        for strategy in [RunStrategy::Halted, RunStrategy::Manual] {
            let guest = Guest { strategy, is_deleted: false, status: &status, instance: None };
            assert_eq!(printable_status(&guest, Action::Nothing, storage), PrintableStatus::Stopped);
        }
    }
}
