//! What is to be done next.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use vireo_runtimeclass::cluster::{InstancePhase, RunStrategy, StateChange};

use super::{Guest, Instance, wait};

/// What is to be done with a guest's instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing: everything is as it should be, or on its way.
    Nothing,
    /// Create it; `paused`: to stand still before its first instruction.
    Start {
        /// It is to stand still.
        paused: bool,
    },
    /// Create it, but not before so long.
    Wait(Duration),
    /// Delete it.
    Stop,
    /// Write down that a new one is wanted (a start request), and delete it when that is written. The other way round, a
    /// controller that dies in between would leave a guest that nobody starts again.
    Rerun,
    /// Make the strategy `Always`: a start was asked for, and there is no instance.
    RunAlways,
    /// Let the guest itself go: it is deleted, and so is its instance.
    Release,
}

/// What is to be done with a guest's instance at `now`.
pub fn plan(guest: &Guest<'_>, now: Timestamp) -> Action {
    match guest.instance {
        None if guest.is_deleted => Action::Release,
        None => without_instance(guest, now),
        // It is on its way.
        Some(instance) if instance.is_deleted => Action::Nothing,
        Some(_) if guest.is_deleted => Action::Stop,
        Some(instance) => with_instance(guest, instance),
    }
}

fn without_instance(guest: &Guest<'_>, now: Timestamp) -> Action {
    let request = guest.start_request();
    let paused = request.and_then(|request| request.data.get("paused")).is_some_and(|paused| paused == "true");
    let start = Action::Start { paused };
    match guest.strategy {
        RunStrategy::Always => backed_off(guest, now, start),
        // A guest that comes from another strategy is started; one that ended well under this one isn't.
        RunStrategy::RerunOnFailure
            if request.is_some() || guest.status.run_strategy != Some(RunStrategy::RerunOnFailure) =>
        {
            backed_off(guest, now, start)
        }
        RunStrategy::Manual if request.is_some() => start,
        RunStrategy::Halted if request.is_some() => Action::RunAlways,
        RunStrategy::Once => start,
        RunStrategy::RerunOnFailure | RunStrategy::Manual | RunStrategy::Halted => Action::Nothing,
    }
}

fn backed_off(guest: &Guest<'_>, now: Timestamp, start: Action) -> Action {
    let wait = guest.status.start_failure.as_ref().map_or(Duration::ZERO, |failure| wait(failure, now));
    if wait.is_zero() { start } else { Action::Wait(wait) }
}

fn with_instance(guest: &Guest<'_>, instance: Instance<'_>) -> Action {
    let must_stop = guest.must_stop(instance);
    let stops = match guest.strategy {
        RunStrategy::Halted => true,
        RunStrategy::Always => must_stop || instance.is_final(),
        RunStrategy::Manual => must_stop,
        RunStrategy::Once => false,
        RunStrategy::RerunOnFailure => {
            let failed = instance.status.phase == Some(InstancePhase::Failed);
            if failed && !must_stop && guest.start_request().is_none() {
                return Action::Rerun;
            }
            must_stop || instance.is_final()
        }
    };
    if stops { Action::Stop } else { Action::Nothing }
}

/// The first of `status.stateChangeRequests` is done, or can't be, and is to be removed.
pub fn is_first_done(guest: &Guest<'_>) -> bool {
    let Some(request) = guest.first_request() else { return false };
    match (request.action, guest.instance) {
        (StateChange::Stop, instance) => instance.is_none_or(|instance| request.uid.as_deref() != Some(instance.uid)),
        // One that ends may be the one before.
        (StateChange::Start, instance) => instance.is_some_and(|instance| !instance.is_deleted && !instance.is_final()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use vireo_runtimeclass::cluster::{StartFailure, VirtualMachineStatus};

    use super::super::samples::{STRATEGIES, failed_until, instance, start, stop};
    use super::*;

    const START: Action = Action::Start { paused: false };

    /// What each strategy does, in [`STRATEGIES`]' order: Always, Halted, Manual, RerunOnFailure, Once.
    type Row = [Action; 5];

    #[test]
    fn each_strategy_with_each_instance() {
        use Action::{Nothing, Rerun, RunAlways, Stop};
        use InstancePhase::{Failed, Running, Scheduling, Succeeded, Unknown};
        let none = vec![];
        let rows: &[(Option<Option<InstancePhase>>, Vec<_>, Row)] = &[
            (None, none.clone(), [START, Nothing, Nothing, Nothing, START]),
            (None, vec![start()], [START, RunAlways, START, START, START]),
            // An instance that is gone is stopped: the request waits for its removal.
            (None, vec![stop("a")], [START, Nothing, Nothing, Nothing, START]),
            (Some(None), none.clone(), [Nothing, Stop, Nothing, Nothing, Nothing]),
            (Some(Some(Scheduling)), none.clone(), [Nothing, Stop, Nothing, Nothing, Nothing]),
            (Some(Some(Running)), none.clone(), [Nothing, Stop, Nothing, Nothing, Nothing]),
            (Some(Some(Running)), vec![start()], [Nothing, Stop, Nothing, Nothing, Nothing]),
            (Some(Some(Running)), vec![stop("a")], [Stop, Stop, Stop, Stop, Nothing]),
            (Some(Some(Running)), vec![stop("a"), start()], [Stop, Stop, Stop, Stop, Nothing]),
            (Some(Some(Running)), vec![stop("another")], [Nothing, Stop, Nothing, Nothing, Nothing]),
            // Only the first counts.
            (Some(Some(Running)), vec![start(), stop("a")], [Nothing, Stop, Nothing, Nothing, Nothing]),
            (Some(Some(Unknown)), none.clone(), [Nothing, Stop, Nothing, Nothing, Nothing]),
            (Some(Some(Succeeded)), none.clone(), [Stop, Stop, Nothing, Stop, Nothing]),
            (Some(Some(Succeeded)), vec![stop("a"), start()], [Stop, Stop, Stop, Stop, Nothing]),
            (Some(Some(Failed)), none, [Stop, Stop, Nothing, Rerun, Nothing]),
            (Some(Some(Failed)), vec![start()], [Stop, Stop, Nothing, Stop, Nothing]),
            (Some(Some(Failed)), vec![stop("a")], [Stop, Stop, Stop, Stop, Nothing]),
        ];
        for (phase, requests, row) in rows {
            for (strategy, expected) in STRATEGIES.into_iter().zip(row) {
                let status = VirtualMachineStatus {
                    state_change_requests: requests.clone(),
                    run_strategy: Some(strategy),
                    ..VirtualMachineStatus::default()
                };
                let seen = phase.map(instance);
                let seen =
                    seen.as_ref().map(|status| Instance { uid: "a", is_deleted: false, grace_period: None, status });
                let guest = Guest { strategy, is_deleted: false, status: &status, instance: seen };
                assert_eq!(plan(&guest, Timestamp::UNIX_EPOCH), *expected, "{strategy:?} {phase:?} {requests:?}");

                let deleted = Guest { is_deleted: true, ..guest };
                let expected = if seen.is_some() { Stop } else { Action::Release };
                assert_eq!(plan(&deleted, Timestamp::UNIX_EPOCH), expected, "deleted {strategy:?} {phase:?}");
                let going = seen.map(|instance| Instance { is_deleted: true, ..instance });
                if going.is_some() {
                    for guest in [guest, deleted] {
                        assert_eq!(plan(&Guest { instance: going, ..guest }, Timestamp::UNIX_EPOCH), Nothing);
                    }
                }
            }
        }
    }

    #[test]
    fn what_failed_is_started_later_and_what_is_new_at_once() {
        let status = VirtualMachineStatus {
            start_failure: Some(failed_until(40)),
            state_change_requests: vec![start()],
            ..VirtualMachineStatus::default()
        };
        let at = |strategy, second| {
            let guest = Guest { strategy, is_deleted: false, status: &status, instance: None };
            plan(&guest, Timestamp::from_second(second).unwrap())
        };
        for strategy in [RunStrategy::Always, RunStrategy::RerunOnFailure] {
            assert_eq!(at(strategy, 10), Action::Wait(Duration::from_secs(30)));
            assert_eq!(at(strategy, 40), START);
        }
        for strategy in [RunStrategy::Manual, RunStrategy::Once] {
            assert_eq!(at(strategy, 10), START);
        }
        let never = StartFailure { retry_after_timestamp: None, ..failed_until(40) };
        assert_eq!(wait(&never, Timestamp::UNIX_EPOCH), Duration::ZERO);
    }

    #[test]
    fn a_guest_of_another_strategy_is_started_once_it_reruns_on_failure() {
        for before in [None, Some(RunStrategy::Halted)] {
            let status = VirtualMachineStatus { run_strategy: before, ..VirtualMachineStatus::default() };
            let strategy = RunStrategy::RerunOnFailure;
            let guest = Guest { strategy, is_deleted: false, status: &status, instance: None };
            assert_eq!(plan(&guest, Timestamp::UNIX_EPOCH), START);
        }
    }

    #[test]
    fn a_start_may_be_paused() {
        let mut request = start();
        request.data = BTreeMap::from([("paused".to_owned(), "true".to_owned())]);
        let status = VirtualMachineStatus { state_change_requests: vec![request], ..VirtualMachineStatus::default() };
        let guest = Guest { strategy: RunStrategy::Manual, is_deleted: false, status: &status, instance: None };
        assert_eq!(plan(&guest, Timestamp::UNIX_EPOCH), Action::Start { paused: true });
    }

    #[test]
    fn requests_stay_until_they_are_done() {
        use InstancePhase::{Failed, Running};
        let done = |requests, seen: Option<(InstancePhase, bool)>| {
            let status = VirtualMachineStatus { state_change_requests: requests, ..VirtualMachineStatus::default() };
            let seen = seen.map(|(phase, is_deleted)| (instance(Some(phase)), is_deleted));
            let seen = seen.as_ref().map(|(status, is_deleted)| Instance {
                uid: "a",
                is_deleted: *is_deleted,
                grace_period: None,
                status,
            });
            let strategy = RunStrategy::Manual;
            is_first_done(&Guest { strategy, is_deleted: false, status: &status, instance: seen })
        };
        assert!(!done(vec![], None));
        assert!(done(vec![stop("a")], None));
        assert!(!done(vec![stop("a")], Some((Running, false))));
        assert!(!done(vec![stop("a")], Some((Running, true))));
        assert!(done(vec![stop("another")], Some((Running, false))));
        assert!(!done(vec![start()], None));
        assert!(done(vec![start()], Some((Running, false))));
        assert!(!done(vec![start()], Some((Running, true))));
        assert!(!done(vec![start()], Some((Failed, false))));
        let mut nobody = stop("a");
        nobody.uid = None;
        assert!(done(vec![nobody], Some((Running, false))));
    }
}
