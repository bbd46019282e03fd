//! Guests' DataVolumes. The Containerized Data Importer is played: its kind is here, with nobody who fills what is made of it.

use anyhow::{Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    runtime::{conditions::is_crd_established, wait::await_condition},
};
use serde_json::{Value, json};
use vireo_controller::data_volume::{CRD, resource};
use vireo_runtimeclass::cluster::{PrintableStatus, RunStrategy, VirtualMachine, VirtualMachineInstance};

use super::{
    Scope, Test,
    guests::{guest, holds, instance, is},
    scope::LIMIT,
    tests,
};
use crate::kubernetes::eventually;

pub(super) const TESTS: &[Test] = tests![Together: a_guest_that_needs_the_importer_says_that_there_is_none];
pub(super) const ALONE: &[Test] = tests![Alone: a_guest_waits_for_its_data_volumes_and_copies_only_what_it_may];

/// A guest with a disk of its own, which is made from `source`.
fn with_disk(name: &str, source: &Value) -> Value {
    let mut vm = guest(name, RunStrategy::Always);
    vm["spec"]["dataVolumeTemplates"] =
        json!([{"metadata": {"name": format!("{name}-disk")}, "spec": {"source": source, "storage": {}}}]);
    vm["spec"]["template"]["spec"]["volumes"] =
        json!([{"name": "disk", "dataVolume": {"name": format!("{name}-disk")}}]);
    vm
}

async fn a_guest_that_needs_the_importer_says_that_there_is_none(scope: Scope) -> Result<()> {
    scope.create(with_disk("alone", &json!({"blank": {}}))).await?;
    let told =
        |vm: &VirtualMachine| holds(vm, "Failure").is_some_and(|said| said.contains("Containerized Data Importer"));
    scope.vm("alone", "it is told", told).await?;
    let said = scope.event("alone", "FailedDataVolumeCreate").await?;
    ensure!(said.contains("alone-disk"), "{said}");
    Ok(())
}

async fn a_guest_waits_for_its_data_volumes_and_copies_only_what_it_may(scope: Scope) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(scope.client().clone());
    let definition = json!({
        "metadata": {"name": CRD},
        "spec": {
            "group": "cdi.kubevirt.io", "scope": "Namespaced", "names": {"kind": "DataVolume", "plural": "datavolumes"},
            "versions": [{
                "name": "v1beta1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    });
    definitions.create(&PostParams::default(), &serde_json::from_value(definition)?).await?;
    await_condition(definitions.clone(), CRD, is_crd_established()).await?;
    let done = waits(&scope).await;
    definitions.delete(CRD, &DeleteParams::default()).await?;
    done
}

async fn waits(scope: &Scope) -> Result<()> {
    let volumes: Api<DynamicObject> = Api::namespaced_with(scope.client().clone(), scope.namespace(), &resource());
    let says = async |name: &str, phase: &str| -> Result<()> {
        let status = Patch::Merge(json!({"status": {"phase": phase}}));
        volumes.patch_status(name, &PatchParams::default(), &status).await?;
        Ok(())
    };
    let made = async |name: &str| {
        eventually(&format!("DataVolume {name}"), LIMIT, async || Ok(volumes.get_opt(name).await?)).await
    };
    scope.create(with_disk("filled", &json!({"blank": {}}))).await?;
    let volume = made("filled-disk").await?;
    ensure!(volume.metadata.owner_references.iter().flatten().any(|owner| owner.name == "filled"), "{volume:?}");
    scope.event("filled", "SuccessfulDataVolumeCreate").await?;
    says("filled-disk", "ImportInProgress").await?;
    scope.vm("filled", "its disk is being filled", |vm| is(vm, PrintableStatus::Provisioning)).await?;
    says("filled-disk", "Failed").await?;
    scope.vm("filled", "it failed", |vm| is(vm, PrintableStatus::DataVolumeError)).await?;
    scope.event("filled", "FailedDataVolumeImport").await?;
    ensure!(scope.api::<VirtualMachineInstance>().get_opt("filled").await?.is_none(), "it has nothing to start from");
    says("filled-disk", "Succeeded").await?;
    instance(scope, "filled").await?;

    // A pod is what it waits for.
    scope.create(with_disk("waits", &json!({"blank": {}}))).await?;
    made("waits-disk").await?;
    says("waits-disk", "WaitForFirstConsumer").await?;
    instance(scope, "waits").await?;

    // Somebody else's disk.
    let source = json!({"pvc": {"namespace": "default", "name": "golden"}});
    scope.create(with_disk("copies", &source)).await?;
    let said = scope.event("copies", "UnauthorizedDataVolumeCreate").await?;
    ensure!(said.contains(&format!("system:serviceaccount:{}:default", scope.namespace())), "{said}");
    let told = |vm: &VirtualMachine| holds(vm, "Failure").is_some_and(|said| said.contains("insufficient permissions"));
    scope.vm("copies", "it is told", told).await?;
    ensure!(volumes.get_opt("copies-disk").await?.is_none(), "nobody may copy that");
    let name = format!("copies-{}", scope.namespace());
    scope
        .create(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name, "namespace": "default"},
            "rules": [{"apiGroups": ["cdi.kubevirt.io"], "resources": ["datavolumes/source"], "verbs": ["create"]}],
        }))
        .await?;
    scope
        .create(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": name, "namespace": "default"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": scope.namespace()}],
        }))
        .await?;
    let volume = made("copies-disk").await?;
    ensure!(volume.data["spec"]["source"] == source, "{volume:?}");
    scope.suite().kubectl(&["-n", "default", "delete", "role,rolebinding", &name]).await.map(drop)
}
