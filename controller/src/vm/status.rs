//! What a guest's status says.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use vireo_runtimeclass::cluster::{Condition, ConditionStatus, StateChange, StateChangeRequest, VirtualMachineStatus};

use super::{Action, Guest, Instance, Storage, is_first_done, printable_status, start_failure};

/// Conditions of a guest's own, which aren't its instance's.
const OWN: [&str; 3] = ["Ready", "Failure", "RestartRequired"];

/// Why a guest isn't as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In a word.
    pub reason: String,
    /// In a sentence.
    pub message: String,
}

/// What was found out on the way.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// What is done with its instance now.
    pub action: Option<Action>,
    /// Its volumes.
    pub storage: Storage,
    /// What went wrong.
    pub failure: Option<Failure>,
    /// The guest differs from its instance in what takes a restart.
    pub restart_required: bool,
    /// The guest's own generation.
    pub generation: Option<i64>,
    /// The generation that its instance is like.
    pub instance_generation: Option<i64>,
}

/// What a guest's status is to be at `now`; `random` may be anything.
pub fn status(guest: &Guest<'_>, findings: &Findings, now: Timestamp, random: u64) -> VirtualMachineStatus {
    let action = findings.action.unwrap_or(Action::Nothing);
    let before = guest.status;
    let mut after = before.clone();
    let is_ready = guest.instance.and_then(|instance| instance.condition("Ready")).map(|ready| ready.status);
    after.created = Some(guest.instance.is_some());
    after.ready = Some(is_ready == Some(ConditionStatus::True));
    // From its first instance on: until then it was never started.
    if before.run_strategy.is_some() || guest.instance.is_some() {
        after.run_strategy = Some(guest.strategy);
    }
    if is_first_done(guest) {
        after.state_change_requests.remove(0);
    }
    if action == Action::Rerun {
        after.state_change_requests =
            vec![StateChangeRequest { action: StateChange::Start, data: BTreeMap::new(), uid: None }];
    }
    after.start_failure = start_failure(guest, now, random);
    if guest.instance.is_some() {
        after.observed_generation = findings.instance_generation.or(before.observed_generation);
        after.desired_generation = findings.generation;
    }
    after.conditions = conditions(guest, findings, now);
    let told = Guest { status: &after, ..*guest };
    after.printable_status = Some(printable_status(&told, action, findings.storage));
    after
}

fn conditions(guest: &Guest<'_>, findings: &Findings, now: Timestamp) -> Vec<Condition> {
    let since = |condition: Condition| keep_times(&guest.status.conditions, condition, now);
    let mut conditions = vec![since(ready(guest.instance))];
    if let Some(failure) = &findings.failure {
        conditions.push(since(condition("Failure", ConditionStatus::True, Some(&failure.reason), &failure.message)));
    }
    // What takes a restart has had it where there is none to restart.
    if findings.restart_required && guest.instance.is_some() {
        let what = "a non-live-updatable field was changed in the template spec";
        conditions.push(since(condition("RestartRequired", ConditionStatus::True, None, what)));
    }
    // Without an instance they are the last one's, and say why it ended.
    let theirs = guest.instance.map_or(&guest.status.conditions, |instance| &instance.status.conditions);
    conditions.extend(theirs.iter().filter(|condition| !OWN.contains(&condition.kind.as_str())).cloned());
    conditions
}

fn ready(instance: Option<Instance<'_>>) -> Condition {
    let no = |reason, message| condition("Ready", ConditionStatus::False, Some(reason), message);
    match instance.map(|instance| instance.condition("Ready")) {
        None => no("VMINotExists", "VMI does not exist"),
        Some(None) => no("VMIConditionMissing", "VMI is missing the Ready condition"),
        Some(Some(ready)) => ready.clone(),
    }
}

fn condition(kind: &str, status: ConditionStatus, reason: Option<&str>, message: &str) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status,
        reason: reason.map(str::to_owned),
        message: Some(message.to_owned()),
        last_probe_time: None,
        last_transition_time: None,
    }
}

/// A condition that has times of its own has them; another has held since it came to hold.
fn keep_times(before: &[Condition], condition: Condition, now: Timestamp) -> Condition {
    if condition.last_transition_time.is_some() {
        return condition;
    }
    let same = before.iter().find(|before| before.kind == condition.kind && before.status == condition.status);
    let since = same.and_then(|before| before.last_transition_time.clone()).unwrap_or(Time(now));
    Condition { last_transition_time: Some(since), ..condition }
}

#[cfg(test)]
mod tests {
    use vireo_runtimeclass::cluster::{InstancePhase, InstanceStatus, PrintableStatus, RunStrategy};

    use super::super::samples::{instance, start, stop};
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn after(
        strategy: RunStrategy,
        before: &VirtualMachineStatus,
        seen: Option<&InstanceStatus>,
        findings: &Findings,
    ) -> VirtualMachineStatus {
        let seen = seen.map(|status| Instance { uid: "a", is_deleted: false, grace_period: None, status });
        status(&Guest { strategy, is_deleted: false, status: before, instance: seen }, findings, NOW, 0)
    }

    fn kinds(status: &VirtualMachineStatus) -> Vec<(&str, ConditionStatus)> {
        status.conditions.iter().map(|condition| (condition.kind.as_str(), condition.status)).collect()
    }

    #[test]
    fn a_guest_without_an_instance_says_so() {
        let status = after(RunStrategy::Halted, &VirtualMachineStatus::default(), None, &Findings::default());
        assert_eq!((status.created, status.ready, status.run_strategy), (Some(false), Some(false), None));
        assert_eq!(status.printable_status, Some(PrintableStatus::Stopped));
        assert_eq!(status.conditions[0].reason.as_deref(), Some("VMINotExists"));
        // And says it once: nothing is new a second later.
        let guest = Guest { strategy: RunStrategy::Halted, is_deleted: false, status: &status, instance: None };
        let later = NOW + std::time::Duration::from_secs(1);
        assert_eq!(super::status(&guest, &Findings::default(), later, 1), status);
    }

    #[test]
    fn an_instance_lends_its_conditions() {
        use ConditionStatus::{False, True};
        let mut seen = instance(Some(InstancePhase::Running));
        let own = |kind: &str, status| super::condition(kind, status, Some("Why"), "because");
        seen.conditions = vec![own("Ready", True), own("AgentConnected", True), own("Failure", True)];
        let findings = Findings { generation: Some(4), instance_generation: Some(3), ..Findings::default() };
        let status = after(RunStrategy::Always, &VirtualMachineStatus::default(), Some(&seen), &findings);
        assert_eq!(kinds(&status), [("Ready", True), ("AgentConnected", True)]);
        assert_eq!(
            (status.created, status.ready, status.run_strategy),
            (Some(true), Some(true), Some(RunStrategy::Always))
        );
        assert_eq!((status.observed_generation, status.desired_generation), (Some(3), Some(4)));
        seen.conditions.clear();
        let missing = after(RunStrategy::Always, &status, Some(&seen), &findings);
        assert_eq!(missing.conditions[0].reason.as_deref(), Some("VMIConditionMissing"));
        // It is gone: what it said last stays.
        let gone = after(RunStrategy::Always, &status, None, &findings);
        assert_eq!(kinds(&gone), [("Ready", False), ("AgentConnected", True)]);
        assert_eq!(gone.run_strategy, Some(RunStrategy::Always));
    }

    #[test]
    fn what_is_wrong_is_said_while_it_is() {
        use ConditionStatus::{False, True};
        let seen = instance(Some(InstancePhase::Running));
        let failure = Failure { reason: "FailedCreate".to_owned(), message: "no room".to_owned() };
        let findings = Findings { failure: Some(failure), restart_required: true, ..Findings::default() };
        let status = after(RunStrategy::Always, &VirtualMachineStatus::default(), Some(&seen), &findings);
        assert_eq!(kinds(&status), [("Ready", False), ("Failure", True), ("RestartRequired", True)]);
        assert_eq!(status.conditions[1].message.as_deref(), Some("no room"));
        let healed = after(RunStrategy::Always, &status, Some(&seen), &Findings::default());
        assert_eq!(kinds(&healed), [("Ready", False)]);
        // There is nothing to restart.
        assert_eq!(kinds(&after(RunStrategy::Always, &status, None, &findings)), [("Ready", False), ("Failure", True)]);
    }

    #[test]
    fn requests_go_when_they_are_done() {
        let before =
            VirtualMachineStatus { state_change_requests: vec![stop("a"), start()], ..VirtualMachineStatus::default() };
        let running = instance(Some(InstancePhase::Running));
        let requests = |status: VirtualMachineStatus| status.state_change_requests;
        let findings = Findings::default();
        assert_eq!(requests(after(RunStrategy::Manual, &before, Some(&running), &findings)), [stop("a"), start()]);
        assert_eq!(requests(after(RunStrategy::Manual, &before, None, &findings)), [start()]);
        let rerun = Findings { action: Some(Action::Rerun), ..Findings::default() };
        let failed = instance(Some(InstancePhase::Failed));
        let none = VirtualMachineStatus::default();
        assert_eq!(requests(after(RunStrategy::RerunOnFailure, &none, Some(&failed), &rerun)), [start()]);
    }
}
