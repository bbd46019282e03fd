use vireo_runtimeclass::cluster::{InstanceStatus, VirtualMachineStatus};

use super::super::samples::{STRATEGIES, instance, start, stop};
use super::*;

/// What a command wrote, or the HTTP status and the words of its refusal.
fn done(
    strategy: RunStrategy,
    requests: Vec<StateChangeRequest>,
    seen: Option<&InstanceStatus>,
    asked: Command,
) -> Result<Effect, Refusal> {
    let status = VirtualMachineStatus { state_change_requests: requests, ..VirtualMachineStatus::default() };
    let seen = seen.map(|status| Instance { uid: "a", is_deleted: false, grace_period: Some(30), status });
    command(&Guest { strategy, is_deleted: false, status: &status, instance: seen }, asked)
}

#[allow(clippy::unnecessary_wraps, reason = "a cell of a table")]
fn wants(want: Want) -> Result<Effect, Refusal> {
    Ok(Effect { grace_period: None, want, deletes_pod: false })
}

fn asks(requests: &[StateChangeRequest]) -> Result<Effect, Refusal> {
    wants(Want::Requests(requests.to_vec()))
}

fn becomes(strategy: RunStrategy) -> Result<Effect, Refusal> {
    wants(Want::Strategy(strategy))
}

fn refused(why: &str) -> Result<Effect, Refusal> {
    Err(Refusal::Conflict(why.to_owned()))
}

const START: Command = Command::Start { paused: false };
const STOP: Command = Command::Stop { grace_period: None };
const RESTART: Command = Command::Restart { grace_period: None };

/// Every strategy with every command, for a guest without an instance, one that runs, one that ended well and one that
/// didn't. The columns are in the order of [`STRATEGIES`]: Always, Halted, Manual, RerunOnFailure, Once.
#[test]
fn each_command_to_each_strategy() {
    use InstancePhase::{Failed, Running, Scheduling, Succeeded, Unknown};
    let (always, once) =
        ("Always does not support manual start requests", "Once does not support manual start requests");
    let running = || refused("VM is already running");
    let down = || refused("VM is not running");
    let grace = || refused("Halted only supports manual stop requests with a shorter graceperiod");
    let halted = || becomes(RunStrategy::Halted);
    let runs = || becomes(RunStrategy::Always);
    let no_restart = |strategy: &str| refused(&format!("{strategy} does not support manual restart requests"));
    let (begin, end, both) = (|| asks(&[start()]), || asks(&[stop("a")]), || asks(&[stop("a"), start()]));
    let from_failed = || refused("RerunOnFailure does not support starting VM from failed state");
    let starts_live = || [running(), running(), running(), running(), running()];
    let starts_dead = || [refused(always), runs(), begin(), begin(), refused(once)];
    let stops_live = || [halted(), grace(), end(), end(), halted()];
    let stops_dead = || [halted(), down(), down(), down(), halted()];
    let restarts = || [both(), no_restart("Halted"), both(), both(), no_restart("Once")];
    let rows = [
        (None, START, starts_dead()),
        (None, STOP, stops_dead()),
        (None, RESTART, [down(), no_restart("Halted"), down(), down(), no_restart("Once")]),
        (Some(Some(Scheduling)), START, starts_live()),
        (Some(Some(Running)), START, starts_live()),
        (Some(Some(Running)), STOP, stops_live()),
        (Some(Some(Running)), RESTART, restarts()),
        (Some(Some(Succeeded)), START, [refused(always), runs(), both(), both(), refused(once)]),
        (Some(Some(Succeeded)), STOP, stops_dead()),
        (Some(Some(Succeeded)), RESTART, restarts()),
        (Some(Some(Failed)), START, [refused(always), runs(), both(), from_failed(), refused(once)]),
        (Some(Some(Failed)), STOP, stops_dead()),
        (Some(Some(Failed)), RESTART, restarts()),
        // Nobody knows what became of it, or nothing has yet.
        (Some(Some(Unknown)), START, starts_dead()),
        (Some(None), START, starts_dead()),
        (Some(Some(Unknown)), STOP, stops_live()),
        (Some(Some(Unknown)), RESTART, restarts()),
    ];
    for (phase, asked, row) in rows {
        let seen = phase.map(instance);
        for (strategy, expected) in STRATEGIES.into_iter().zip(row) {
            assert_eq!(done(strategy, vec![], seen.as_ref(), asked), expected, "{strategy:?} {phase:?} {asked:?}");
        }
    }
}

#[test]
fn a_paused_start_is_a_request_even_of_a_halted_guest() {
    let paused = Command::Start { paused: true };
    let mut request = start();
    request.data = BTreeMap::from([("paused".to_owned(), "true".to_owned())]);
    for strategy in [RunStrategy::Halted, RunStrategy::Manual, RunStrategy::RerunOnFailure] {
        assert_eq!(done(strategy, vec![], None, paused), asks(&[request.clone()]));
    }
    let ended = instance(Some(InstancePhase::Succeeded));
    assert_eq!(done(RunStrategy::Manual, vec![], Some(&ended), paused), asks(&[stop("a"), request]));
}

#[test]
fn grace_periods_reach_the_instance_and_the_pod() {
    let running = instance(Some(InstancePhase::Running));
    let ended = instance(Some(InstancePhase::Succeeded));
    let within = |seconds| Command::Stop { grace_period: Some(seconds) };
    for strategy in STRATEGIES {
        let effect = done(strategy, vec![], Some(&running), within(5)).unwrap();
        assert_eq!((effect.grace_period, effect.deletes_pod), (Some(5), false), "{strategy:?}");
    }
    assert_eq!(done(RunStrategy::Always, vec![], Some(&ended), within(5)), becomes(RunStrategy::Halted));
    assert_eq!(done(RunStrategy::Halted, vec![], Some(&running), within(29)).unwrap().grace_period, Some(29));
    assert!(done(RunStrategy::Halted, vec![], Some(&running), within(30)).is_err());

    let forced =
        |seconds| done(RunStrategy::Manual, vec![], Some(&running), Command::Restart { grace_period: seconds });
    assert!(forced(Some(0)).unwrap().deletes_pod);
    assert!(!forced(None).unwrap().deletes_pod);
    for seconds in [-1, 1, i64::MIN, i64::MAX] {
        assert!(matches!(forced(Some(seconds)), Err(Refusal::BadRequest(_))), "{seconds}");
    }
}

#[test]
fn one_thing_is_asked_at_a_time_but_a_stop_always_may() {
    let running = instance(Some(InstancePhase::Running));
    let underway = refused("unable to complete request: stop/start already underway");
    for pending in [vec![start()], vec![stop("a")], vec![stop("a"), start()]] {
        assert_eq!(done(RunStrategy::Manual, pending.clone(), None, START), underway);
        assert_eq!(done(RunStrategy::Manual, pending.clone(), Some(&running), RESTART), underway);
        assert_eq!(done(RunStrategy::Manual, pending.clone(), Some(&running), STOP), asks(&[stop("a")]));
        assert_eq!(done(RunStrategy::Halted, pending, None, START), becomes(RunStrategy::Always));
    }
}
