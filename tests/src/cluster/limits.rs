//! What a guest can't have, or is refused: each is told in its status and by an event, and is over when its cause is.

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::{Node, Pod, ResourceQuota, ServiceAccount};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{
    ConditionStatus, InstancePhase, PrintableStatus, RunStrategy, VirtualMachine, VirtualMachineInstance,
};

use super::{
    Scope, Test,
    guests::{guest, is, status},
    tests,
};
use crate::kubernetes::{FAKE_NODES, State};

pub(super) const TESTS: &[Test] = tests![Together:
    a_guest_for_whose_pod_there_is_no_quota_starts_when_there_is,
    a_guest_that_no_node_takes_starts_when_one_does,
    a_guest_whose_claim_is_missing_says_so_until_it_comes,
    a_guest_whose_account_is_missing_says_so_until_it_comes,
    a_guest_whose_secret_is_missing_says_so_until_it_comes,
    names_of_any_length_run,
];

fn runs(vm: &VirtualMachine) -> bool {
    is(vm, PrintableStatus::Running) && status(vm).ready == Some(true)
}

/// A condition of the guest's instance doesn't hold, for this reason, with these words: the guest has it as well.
fn lacks(vm: &VirtualMachine, kind: &str, reason: &str, words: &str) -> bool {
    status(vm).conditions.iter().any(|condition| {
        condition.kind == kind
            && condition.status == ConditionStatus::False
            && condition.reason.as_deref() == Some(reason)
            && condition.message.as_deref().is_some_and(|message| message.contains(words))
    })
}

async fn quota(scope: &Scope, hard: Value) -> Result<()> {
    let quota =
        json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "little"}, "spec": {"hard": hard}});
    scope.create(quota).await?;
    let counted = |quota: &ResourceQuota| quota.status.as_ref().is_some_and(|status| status.hard.is_some());
    scope.wait("little", "it is counted", counted).await.map(drop)
}

async fn a_guest_for_whose_pod_there_is_no_quota_starts_when_there_is(scope: Scope) -> Result<()> {
    quota(&scope, json!({"pods": "0"})).await?;
    scope.create(guest("many", RunStrategy::Always)).await?;
    let too_many = "exceeded quota: little, requested: pods=1";
    scope.vm("many", "it is told why", |vm| lacks(vm, "Synchronized", "FailedCreate", too_many)).await?;
    ensure!(scope.event("many", "FailedCreate").await?.contains(too_many), "the event says why");
    // Of memory there isn't enough either.
    scope.patch::<ResourceQuota>("little", json!({"spec": {"hard": {"pods": "9", "requests.memory": "32Mi"}}})).await?;
    let too_large = "exceeded quota: little, requested: requests.memory=";
    scope.vm("many", "it is told what else", |vm| lacks(vm, "Synchronized", "FailedCreate", too_large)).await?;
    let vm = scope.api::<VirtualMachine>().get("many").await?;
    ensure!(is(&vm, PrintableStatus::Starting) && status(&vm).created == Some(true), "{:?}", vm.status);
    scope.patch::<ResourceQuota>("little", json!({"spec": {"hard": {"requests.memory": "1Gi"}}})).await?;
    let vm = scope.vm("many", "there is room", runs).await?;
    ensure!(status(&vm).conditions.iter().all(|condition| condition.kind != "Synchronized"), "{:?}", vm.status);
    Ok(())
}

async fn a_guest_that_no_node_takes_starts_when_one_does(scope: Scope) -> Result<()> {
    let mut picky = guest("picky", RunStrategy::Always);
    let label = format!("example.com/{}", scope.namespace());
    picky["spec"]["template"]["spec"]["nodeSelector"] = json!({&label: "here"});
    scope.create(picky).await?;
    let vm = scope.vm("picky", "no node takes it", |vm| is(vm, PrintableStatus::ErrorUnschedulable)).await?;
    ensure!(lacks(&vm, "PodScheduled", "Unschedulable", "nodes are available"), "{:?}", vm.status);
    let nodes: Api<Node> = Api::all(scope.client().clone());
    let labelled = json!({"metadata": {"labels": {&label: "here"}}});
    nodes.patch(FAKE_NODES[0], &PatchParams::default(), &Patch::Merge(labelled)).await?;
    let vm = scope.vm("picky", "a node takes it", runs).await?;
    ensure!(status(&vm).conditions.iter().all(|condition| condition.kind != "PodScheduled"), "{:?}", vm.status);
    let bare = json!({"metadata": {"labels": {&label: null}}});
    nodes.patch(FAKE_NODES[0], &PatchParams::default(), &Patch::Merge(bare)).await?;
    Ok(())
}

async fn a_guest_whose_claim_is_missing_says_so_until_it_comes(scope: Scope) -> Result<()> {
    let mut lacking = guest("lacking", RunStrategy::Always);
    lacking["spec"]["template"]["spec"]["volumes"] =
        json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    scope.create(lacking).await?;
    let vm = scope.vm("lacking", "its claim is missing", |vm| is(vm, PrintableStatus::ErrorPvcNotFound)).await?;
    ensure!(lacks(&vm, "Synchronized", "FailedPvcNotFound", "data"), "{:?}", vm.status);
    scope.event("lacking", "FailedPvcNotFound").await?;
    scope
        .create(json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""},
        }))
        .await?;
    // A claim without a volume: no node takes the pod.
    scope.vm("lacking", "it waits for its volume", |vm| is(vm, PrintableStatus::ErrorUnschedulable)).await?;
    let volume = format!("data-of-{}", scope.namespace());
    scope
        .create(json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume, "namespace": ""},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/nowhere"},
                "claimRef": {"namespace": scope.namespace(), "name": "data"}, "storageClassName": "",
                "persistentVolumeReclaimPolicy": "Retain",
            },
        }))
        .await?;
    let vm = scope.vm("lacking", "it has its volume", runs).await?;
    ensure!(status(&vm).conditions.iter().all(|condition| condition.kind != "Synchronized"), "{:?}", vm.status);
    scope.suite().kubectl(&["delete", "persistentvolume", &volume, "--wait=false"]).await.map(drop)
}

async fn a_guest_whose_account_is_missing_says_so_until_it_comes(scope: Scope) -> Result<()> {
    let mut lacking = guest("lacking", RunStrategy::Always);
    lacking["spec"]["template"]["spec"]["volumes"] =
        json!([{"name": "token", "serviceAccount": {"serviceAccountName": "robot"}}]);
    scope.create(lacking).await?;
    let words = "error looking up service account";
    scope.vm("lacking", "it is told why", |vm| lacks(vm, "Synchronized", "FailedCreate", words)).await?;
    ensure!(scope.event("lacking", "FailedCreate").await?.contains("robot"), "the event names it");
    scope.create(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}})).await?;
    scope.wait("robot", "it has a token", |account: &ServiceAccount| account.secrets.is_some()).await?;
    scope.vm("lacking", "it has its account", runs).await.map(drop)
}

/// A kubelet says that a Secret is missing; the controller may read none.
async fn a_guest_whose_secret_is_missing_says_so_until_it_comes(scope: Scope) -> Result<()> {
    scope.kubelet().hold(scope.namespace());
    let mut lacking = guest("lacking", RunStrategy::Always);
    let seed = json!({"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "seed"}}});
    lacking["spec"]["template"]["spec"]["volumes"] = json!([seed]);
    scope.create(lacking).await?;
    let instance = scope.vmi("lacking", InstancePhase::Scheduling).await?;
    let name = scope.pod(&instance).await?.name_any();
    let is_bound = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let pod = scope.wait(&name, "it is bound", is_bound).await?;
    let mounts = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let secrets: Vec<_> = mounts.filter_map(|volume| volume.secret.as_ref()?.secret_name.as_deref()).collect();
    ensure!(secrets.contains(&"seed"), "the pod names it: {secrets:?}");
    let words = r#"secret "seed" not found"#;
    scope.kubelet().say(&pod, &State::waiting("CreateContainerConfigError", words)).await?;
    let told = |vm: &VirtualMachine| lacks(vm, "Synchronized", "CreateContainerConfigError", words);
    scope.vm("lacking", "it is told why", told).await?;
    scope.kubelet().say(&pod, &State::Running).await?;
    scope.kubelet().release(scope.namespace()).await?;
    let vm = scope.vm("lacking", "it has its secret", runs).await?;
    ensure!(status(&vm).conditions.iter().all(|condition| condition.kind != "Synchronized"), "{:?}", vm.status);
    Ok(())
}

/// Objects' names may be longer than labels, host names and the names that are made of them.
async fn names_of_any_length_run(scope: Scope) -> Result<()> {
    let long = |letters: usize, last: &str| format!("{}{last}", "n".repeat(letters - last.len()));
    // Two that are one in their first 63 letters, one with dots at the end of a host name, and the longest there is.
    let names =
        [long(63, "1"), long(64, "1"), long(64, "2"), format!("{}.{}", long(60, "-1"), "dotted"), long(253, "1")];
    let made = names.iter().map(|name| async {
        scope.create(guest(name, RunStrategy::Always)).await?;
        scope.vm(name, "it runs", runs).await?;
        let instance = scope.api::<VirtualMachineInstance>().get(name).await?;
        let pod = scope.pod(&instance).await?;
        let host = pod.spec.as_ref().and_then(|spec| spec.hostname.clone()).context("the guest has a host name")?;
        ensure!(pod.name_any().len() <= 63 && host.len() <= 63, "{} {host}", pod.name_any());
        ensure!(pod.annotations().get("kubevirt.io/domain") == Some(name), "{:?}", pod.annotations());
        anyhow::Ok(pod.name_any())
    });
    let mut pods = try_join_all(made).await?;
    pods.sort_unstable();
    pods.dedup();
    ensure!(pods.len() == names.len(), "each has a pod of its own: {pods:?}");
    let said = scope.refused(guest(&long(254, "1"), RunStrategy::Always)).await?;
    ensure!(said.contains("metadata.name"), "{said}");
    for name in &names {
        scope.delete::<VirtualMachine>(name).await?;
        scope.wait_gone::<VirtualMachine>(name).await?;
    }
    Ok(())
}
