//! VirtualMachines: when their instances exist.
//!
//! A fake kubelet runs their pods; how a guest ends is what these tests write to its instance's status.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::{
    ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use vireo_controller::vm::{Command, Guest, Refusal, Want, command, strategy};
use vireo_runtimeclass::cluster::{
    PrintableStatus, RunStrategy, VirtualMachine, VirtualMachineInstance, VirtualMachineStatus,
};

use super::{Scope, Test, tests};

pub(super) const TESTS: &[Test] = tests![Together:
    a_guest_that_fails_waits_before_it_is_started_again,
    a_guest_that_failed_is_run_again_and_one_that_ended_well_is_not,
    a_guest_that_is_deleted_ends_its_instance_first,
    a_change_of_a_running_guest_takes_a_restart_or_is_taken_over,
    a_guest_takes_an_instance_that_is_nobodys,
];

/// A guest.
pub(super) fn guest(name: &str, strategy: RunStrategy) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name},
        "spec": {
            "runStrategy": strategy,
            "template": {"spec": {"domain": {"devices": {}, "memory": {"guest": "64Mi"}}, "terminationGracePeriodSeconds": 0}},
        },
    })
}

pub(super) fn status(vm: &VirtualMachine) -> VirtualMachineStatus {
    vm.status.clone().unwrap_or_default()
}

pub(super) fn is(vm: &VirtualMachine, word: PrintableStatus) -> bool {
    status(vm).printable_status == Some(word)
}

/// A condition's reason and message, while it holds.
pub(super) fn holds(vm: &VirtualMachine, kind: &str) -> Option<String> {
    let conditions = status(vm).conditions;
    let condition =
        conditions.into_iter().find(|condition| condition.kind == kind && json!(condition.status) == "True")?;
    Some(format!("{}: {}", condition.reason.unwrap_or_default(), condition.message.unwrap_or_default()))
}

/// The instance of a guest, once it is there.
pub(super) async fn instance(scope: &Scope, name: &str) -> Result<VirtualMachineInstance> {
    scope
        .wait(name, "it is there, to stay", |instance: &VirtualMachineInstance| {
            instance.metadata.deletion_timestamp.is_none()
        })
        .await
}

/// Says what an instance's guest does.
async fn says(scope: &Scope, instance: &VirtualMachineInstance, phase: &str) -> Result<()> {
    let mut transitions = vec![json!({"phase": phase})];
    transitions
        .extend(instance.status.iter().flat_map(|status| &status.phase_transition_timestamps).map(|seen| json!(seen)));
    let status = json!({"status": {"phase": phase, "phaseTransitionTimestamps": transitions}});
    let instances = scope.api::<VirtualMachineInstance>();
    instances.patch_status(&instance.name_any(), &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

/// A guest whose instance runs; which.
async fn running(scope: &Scope, name: &str) -> Result<String> {
    scope.vm(name, "it runs", |vm| is(vm, PrintableStatus::Running)).await?;
    instance(scope, name).await?.uid().context("a stored object has a uid")
}

/// What the subresources do, without them.
pub(super) async fn ask(scope: &Scope, name: &str, asked: Command) -> Result<Result<(), Refusal>> {
    let vm = scope.api::<VirtualMachine>().get(name).await?;
    let seen = scope.api::<VirtualMachineInstance>().get_opt(name).await?;
    let effect = match command(&Guest::new(&vm, strategy(&vm.spec()?), seen.as_ref()), asked) {
        Ok(effect) => effect,
        Err(refusal) => return Ok(Err(refusal)),
    };
    match effect.want {
        Want::Strategy(strategy) => {
            scope.patch::<VirtualMachine>(name, json!({"spec": {"runStrategy": strategy}})).await?;
        }
        Want::Requests(requests) => {
            let status = json!({"status": {"stateChangeRequests": requests, "startFailure": null}});
            scope.api::<VirtualMachine>().patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
        }
    }
    Ok(Ok(()))
}

/// A restart.
pub(super) const RESTART: Command = Command::Restart { grace_period: None };

async fn a_guest_that_fails_waits_before_it_is_started_again(scope: Scope) -> Result<()> {
    scope.kubelet().hold(scope.namespace());
    scope.create(guest("crashes", RunStrategy::Always)).await?;
    let first = instance(&scope, "crashes").await?;
    says(&scope, &first, "Failed").await?;
    let vm = scope.vm("crashes", "it waits", |vm| is(vm, PrintableStatus::CrashLoopBackOff)).await?;
    let failure = status(&vm).start_failure.context("it failed")?;
    ensure!(failure.consecutive_fail_count == Some(1) && failure.last_failed_vmiuid == first.uid(), "{failure:?}");
    scope.kubelet().release(scope.namespace()).await?;
    // Ten seconds and by chance half as much again.
    let another = |seen: &VirtualMachineInstance| seen.uid() != first.uid();
    let second = scope.wait("crashes", "another instance", another).await?;
    let (made, until) = (second.metadata.creation_timestamp.context("a time")?, failure.retry_after_timestamp);
    ensure!(made >= until.context("it says until when")?, "{made:?}");
    scope.vm("crashes", "it is no failure any more", |vm| status(vm).start_failure.is_none()).await?;
    Ok(())
}

async fn a_guest_that_failed_is_run_again_and_one_that_ended_well_is_not(scope: Scope) -> Result<()> {
    scope.create(guest("reruns", RunStrategy::RerunOnFailure)).await?;
    let first = running(&scope, "reruns").await?;
    says(&scope, &instance(&scope, "reruns").await?, "Failed").await?;
    let another = |seen: &VirtualMachineInstance| seen.uid().is_some_and(|uid| uid != first);
    scope.wait("reruns", "another instance", another).await?;
    scope.vm("reruns", "its request is done", |vm| status(vm).state_change_requests.is_empty()).await?;
    running(&scope, "reruns").await?;
    says(&scope, &instance(&scope, "reruns").await?, "Succeeded").await?;
    scope.wait_gone::<VirtualMachineInstance>("reruns").await?;
    scope.vm("reruns", "it is stopped", |vm| is(vm, PrintableStatus::Stopped)).await?;
    Ok(())
}

async fn a_guest_that_is_deleted_ends_its_instance_first(scope: Scope) -> Result<()> {
    scope.create(guest("deleted", RunStrategy::Always)).await?;
    running(&scope, "deleted").await?;
    scope.event("deleted", "SuccessfulCreate").await?;
    // It is held by somebody: the guest stays as long.
    let hold =
        json!({"metadata": {"finalizers": ["kubevirt.io/virtualMachineControllerFinalize", "example.com/held"]}});
    scope.patch::<VirtualMachineInstance>("deleted", hold).await?;
    scope.delete::<VirtualMachine>("deleted").await?;
    scope.vm("deleted", "it is going", |vm| is(vm, PrintableStatus::Terminating)).await?;
    let going = |seen: &VirtualMachineInstance| seen.metadata.deletion_timestamp.is_some();
    let seen = scope.wait("deleted", "it is going", going).await?;
    scope.event("deleted", "SuccessfulDelete").await?;
    let others: Vec<_> = seen.finalizers().iter().filter(|finalizer| *finalizer != "example.com/held").collect();
    scope.patch::<VirtualMachineInstance>("deleted", json!({"metadata": {"finalizers": others}})).await?;
    scope.wait_gone::<VirtualMachineInstance>("deleted").await?;
    scope.wait_gone::<VirtualMachine>("deleted").await
}

async fn a_change_of_a_running_guest_takes_a_restart_or_is_taken_over(scope: Scope) -> Result<()> {
    scope.create(guest("changed", RunStrategy::Always)).await?;
    running(&scope, "changed").await?;
    let memory = |size: &str| json!({"spec": {"template": {"spec": {"domain": {"memory": {"guest": size}}}}}});
    scope.patch::<VirtualMachine>("changed", memory("128Mi")).await?;
    scope.vm("changed", "it wants a restart", |vm| holds(vm, "RestartRequired").is_some()).await?;
    scope.patch::<VirtualMachine>("changed", memory("64Mi")).await?;
    scope.vm("changed", "it wants none", |vm| holds(vm, "RestartRequired").is_none()).await?;
    let selector =
        json!({"spec": {"template": {"spec": {"tolerations": [{"key": "example.com/a", "operator": "Exists"}]}}}});
    scope.patch::<VirtualMachine>("changed", selector).await?;
    let taken = |seen: &VirtualMachineInstance| seen.unread.value()["tolerations"][0]["key"] == "example.com/a";
    scope.wait("changed", "it is taken over", taken).await?;
    scope.patch::<VirtualMachine>("changed", memory("128Mi")).await?;
    scope.vm("changed", "it wants a restart", |vm| holds(vm, "RestartRequired").is_some()).await?;
    ask(&scope, "changed", RESTART).await??;
    let has_it = |seen: &VirtualMachineInstance| seen.unread.value()["domain"]["memory"]["guest"] == "128Mi";
    scope.wait("changed", "it has what was changed", has_it).await?;
    scope.vm("changed", "it wants none", |vm| holds(vm, "RestartRequired").is_none()).await?;
    // One revision is left: what runs.
    let revisions = scope.api::<ControllerRevision>().list(&ListParams::default()).await?;
    ensure!(
        revisions.items.len() == 1,
        "{:?}",
        revisions.items.iter().map(kube::ResourceExt::name_any).collect::<Vec<_>>()
    );
    Ok(())
}

async fn a_guest_takes_an_instance_that_is_nobodys(scope: Scope) -> Result<()> {
    let instance = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "orphan"},
        "spec": {"domain": {"devices": {}, "memory": {"guest": "64Mi"}}},
    });
    scope.create(instance).await?;
    scope.create(guest("orphan", RunStrategy::Halted)).await?;
    // Taken, and then ended as it wants.
    scope.wait_gone::<VirtualMachineInstance>("orphan").await?;
    scope.vm("orphan", "it is stopped", |vm| is(vm, PrintableStatus::Stopped)).await?;
    Ok(())
}
