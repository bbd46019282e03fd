//! What is done to guests while controllers die, and what it comes to.

use anyhow::{Context as _, Result};
use k8s_openapi::api::{apps::v1::ControllerRevision, core::v1::Pod};
use kube::{ResourceExt as _, api::ListParams};
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{PrintableStatus, RunStrategy, VirtualMachine, VirtualMachineInstance};

use super::super::{
    Scope,
    guests::{RESTART, ask, guest, is, status},
};

/// What is done to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Start,
    Stop,
    Restart,
    Delete,
}

/// Fields that differ from guest to guest, and from run to run.
const OWN: [&str; 20] = [
    "uid",
    "uuid",
    "resourceVersion",
    "creationTimestamp",
    "managedFields",
    "selfLink",
    "lastTransitionTime",
    "lastProbeTime",
    "phaseTransitionTimestamp",
    "startTime",
    "startedAt",
    "nodeName",
    "kubevirt.io/nodeName",
    "activePods",
    "ipAddress",
    "ipAddresses",
    "name",
    "namespace",
    "vm.kubevirt.io/name",
    "vmi.kubevirt.io/id",
];

impl Deed {
    pub(super) const ALL: [Self; 4] = [Self::Start, Self::Stop, Self::Restart, Self::Delete];

    /// In a word, which is a part of no other's.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Start => "up",
            Self::Stop => "down",
            Self::Restart => "anew",
            Self::Delete => "gone",
        }
    }

    /// Instances that a guest then has had.
    pub(super) fn instances(self) -> usize {
        if self == Self::Restart { 2 } else { 1 }
    }

    /// Makes a guest to which it can be done; its uid.
    pub(super) async fn prepare(self, scope: &Scope, name: &str) -> Result<String> {
        let strategy = if self == Self::Start { RunStrategy::Halted } else { RunStrategy::Always };
        scope.create(guest(name, strategy)).await?;
        let vm = scope.vm(name, "it is as it should be", |vm| rests(vm, self != Self::Start)).await?;
        vm.uid().context("a stored object has a uid")
    }

    /// Does it.
    pub(super) async fn act(self, scope: &Scope, name: &str) -> Result<()> {
        match self {
            Self::Start => {
                scope.patch::<VirtualMachine>(name, json!({"spec": {"runStrategy": "Always"}})).await?;
            }
            Self::Stop => {
                scope.patch::<VirtualMachine>(name, json!({"spec": {"runStrategy": "Halted"}})).await?;
            }
            Self::Restart => ask(scope, name, RESTART).await??,
            Self::Delete => scope.delete::<VirtualMachine>(name).await?,
        }
        Ok(())
    }

    /// Whether it is done, and nothing is left to do; `before`: the uid of the instance then.
    pub(super) async fn is_done(self, scope: &Scope, name: &str, before: Option<&str>) -> Result<bool> {
        let vm = scope.api::<VirtualMachine>().get_opt(name).await?;
        let instance = scope.api::<VirtualMachineInstance>().get_opt(name).await?;
        Ok(match (self, vm, instance) {
            (Self::Delete, None, None) => true,
            (Self::Stop, Some(vm), None) => rests(&vm, false),
            (Self::Start, Some(vm), Some(_)) => rests(&vm, true),
            (Self::Restart, Some(vm), Some(instance)) => instance.uid().as_deref() != before && rests(&vm, true),
            _ => false,
        })
    }
}

/// Nothing is to be done, to a guest that runs or to one that doesn't.
fn rests(vm: &VirtualMachine, runs: bool) -> bool {
    let word = if runs { PrintableStatus::Running } else { PrintableStatus::Stopped };
    let told = status(vm);
    is(vm, word)
        && told.state_change_requests.is_empty()
        && told.ready == Some(runs)
        && told.created == Some(runs)
        && !vm.finalizers().is_empty()
}

/// All that there is of a guest, but for what no two have in common.
pub(super) async fn state(scope: &Scope, name: &str, uid: &str) -> Result<Value> {
    let vm = scope.api::<VirtualMachine>().get_opt(name).await?;
    let instance = scope.api::<VirtualMachineInstance>().get_opt(name).await?;
    let pods = scope.api::<Pod>().list(&ListParams::default()).await?.items;
    let pods: Vec<_> = pods
        .into_iter()
        .filter(|pod| pod.annotations().get("kubevirt.io/domain").is_some_and(|domain| domain == name))
        .map(|pod| json!({"metadata": {"finalizers": pod.finalizers()}, "status": pod.status}))
        .collect();
    let revisions = scope.api::<ControllerRevision>().list(&ListParams::default()).await?.items;
    // What a guest leaves that is deleted is collected, at some time.
    let revisions =
        revisions.iter().filter(|_| vm.is_some()).filter(|revision| revision.name_any().contains(uid)).count();
    let mut all = json!({"guest": vm, "instance": instance, "pods": pods, "revisions": revisions});
    strip(&mut all);
    Ok(all)
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| {
                !OWN.contains(&name.as_str()) && !name.to_lowercase().ends_with("ip") && name != "podIPs"
            });
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => {
            items.iter_mut().for_each(strip);
            // Conditions have no order.
            items.sort_by_key(|item| item["type"].as_str().map(str::to_owned));
        }
        _ => {}
    }
}
