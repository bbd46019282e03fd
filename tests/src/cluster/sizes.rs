//! Instancetypes and preferences of guests.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{
    RunStrategy, VirtualMachine, VirtualMachineInstance, VirtualMachineInstancetype, VirtualMachinePreference,
};

use super::{
    Scope, Test,
    guests::{holds, instance, status},
    tests,
};

pub(super) const TESTS: &[Test] = tests![Together:
    a_guest_has_the_size_that_its_instancetype_had_at_first,
    a_template_that_says_what_its_instancetype_does_is_told_so,
    a_volume_names_an_instancetype,
];

fn guest(name: &str, spec: &Value) -> Value {
    let mut vm = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name},
        "spec": {
            "runStrategy": RunStrategy::Always,
            "instancetype": {"name": "small", "kind": "VirtualMachineInstancetype"},
            "template": {"spec": {"domain": {"devices": {}}, "terminationGracePeriodSeconds": 0}},
        },
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        vm["spec"][field] = value.clone();
    }
    vm
}

fn small(memory: &str) -> Value {
    json!({
        "apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": "VirtualMachineInstancetype", "metadata": {"name": "small"},
        "spec": {"cpu": {"guest": 2}, "memory": {"guest": memory}},
    })
}

async fn a_guest_has_the_size_that_its_instancetype_had_at_first(scope: Scope) -> Result<()> {
    let preference = json!({"preference": {"name": "cores", "kind": "VirtualMachinePreference"}});
    scope.create(guest("sized", &preference)).await?;
    let says = |reason: &'static str| {
        move |vm: &VirtualMachine| holds(vm, "Failure").is_some_and(|said| said.starts_with(reason))
    };
    scope.vm("sized", "it has no instancetype", says("FailedFindInstancetype")).await?;
    scope.create(small("64Mi")).await?;
    scope.vm("sized", "it has no preference", says("FailedFindPreference")).await?;
    scope
        .create(json!({
            "apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": "VirtualMachinePreference", "metadata": {"name": "cores"},
            "spec": {"cpu": {"preferredCPUTopology": "cores"}, "preferredTerminationGracePeriodSeconds": 7},
        }))
        .await?;
    let seen = instance(&scope, "sized").await?;
    ensure!(seen.unread.value()["domain"]["cpu"] == json!({"sockets": 1, "cores": 2, "threads": 1}), "{seen:?}");
    ensure!(seen.unread.value()["domain"]["memory"]["guest"] == "64Mi", "{seen:?}");
    ensure!(seen.unread.value()["terminationGracePeriodSeconds"] == 0, "what the template says stays: {seen:?}");
    let annotations = seen.metadata.annotations.unwrap_or_default();
    ensure!(annotations["kubevirt.io/instancetype-name"] == "small", "{annotations:?}");
    let healed = |vm: &VirtualMachine| holds(vm, "Failure").is_none() && status(vm).preference_ref.is_some();
    let vm = scope.vm("sized", "it has all it needs", healed).await?;
    let revision =
        status(&vm).instancetype_ref.and_then(|used| used.controller_revision_ref?.name).context("a revision")?;
    scope.api::<ControllerRevision>().get(&revision).await?;

    // What it becomes later is for others.
    let larger = json!({"spec": {"memory": {"guest": "128Mi"}}});
    scope.patch::<VirtualMachineInstancetype>("small", larger).await?;
    scope.delete::<VirtualMachinePreference>("cores").await?;
    scope.delete::<VirtualMachineInstance>("sized").await?;
    let another = |new: &VirtualMachineInstance| new.metadata.uid != seen.metadata.uid;
    let again = scope.wait("sized", "another instance", another).await?;
    ensure!(again.unread.value()["domain"]["memory"]["guest"] == "64Mi", "{again:?}");
    Ok(())
}

async fn a_template_that_says_what_its_instancetype_does_is_told_so(scope: Scope) -> Result<()> {
    scope.create(small("64Mi")).await?;
    let template = json!({"template": {"spec": {"domain": {"devices": {}, "cpu": {"sockets": 1}}}}});
    scope.create(guest("conflict", &template)).await?;
    let told = |vm: &VirtualMachine| {
        holds(vm, "Failure").is_some_and(|said| said.contains("spec.template.spec.domain.cpu.sockets"))
    };
    scope.vm("conflict", "it is told where", told).await?;
    let said = scope.event("conflict", "FailedCreate").await?;
    ensure!(said.contains("spec.template.spec.domain.cpu.sockets"), "{said}");
    let free = json!({"spec": {"template": {"spec": {"domain": {"cpu": null}}}}});
    scope.patch::<VirtualMachine>("conflict", free).await?;
    instance(&scope, "conflict").await?;
    scope.vm("conflict", "nothing is wrong", |vm| holds(vm, "Failure").is_none()).await?;
    Ok(())
}

async fn a_volume_names_an_instancetype(scope: Scope) -> Result<()> {
    scope.create(small("64Mi")).await?;
    let inferred = json!({
        "instancetype": {"inferFromVolume": "disk"},
        "preference": {"inferFromVolume": "disk", "inferFromVolumeFailurePolicy": "Ignore"},
        "template": {"spec": {
            "domain": {"devices": {}}, "volumes": [{"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}}],
        }},
    });
    scope.create(guest("inferred", &inferred)).await?;
    let waits = |vm: &VirtualMachine| holds(vm, "Failure").is_some_and(|said| said.contains("PersistentVolumeClaim"));
    scope.vm("inferred", "its claim isn't there", waits).await?;
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "disk", "labels": {
            "instancetype.kubevirt.io/default-instancetype": "small",
            "instancetype.kubevirt.io/default-instancetype-kind": "VirtualMachineInstancetype",
        }},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "none"},
    });
    scope.create(claim).await?;
    let seen = instance(&scope, "inferred").await?;
    ensure!(seen.unread.value()["domain"]["memory"]["guest"] == "64Mi", "{seen:?}");
    let vm = scope.vm("inferred", "nothing is wrong", |vm| holds(vm, "Failure").is_none()).await?;
    let named = json!({"name": "small", "kind": "VirtualMachineInstancetype"});
    ensure!(
        vm.unread.value()["instancetype"] == named && vm.unread.value().get("preference").is_none(),
        "{:?}",
        vm.unread
    );
    scope.delete::<PersistentVolumeClaim>("disk").await
}
