//! Another version takes the place of the one that is there.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{ConditionStatus, InstancePhase, KubeVirt, VirtualMachine, VirtualMachineInstance};

use super::{
    callers::Callers,
    vireo::{DEPLOYED, condition, configure, deploy, is_deployed, own, status, wait},
};
use crate::{
    cluster::{Scope, suite::OPERATOR_MANIFEST},
    kubernetes::until,
};

const CONTROLLERS: &str = "kubevirt.io=vireo-controller";

/// With guests that run, and who asks all the time; the operator is killed in the middle.
pub(super) async fn an_upgrade_and_a_downgrade_interrupt_nobody(scope: Scope) -> Result<()> {
    let before = deploy(&scope, json!({})).await?;
    let from = status(&before).observed_kube_virt_version.context("it has a version")?;
    let guests = guests(&scope).await?;
    let callers = Callers::start(&scope).await?;

    configure(&scope, json!({"imageTag": "next"})).await?;
    let updating = wait(
        &scope,
        "it is updated",
        available(|object| {
            condition(&status(object), "Progressing") == Some((ConditionStatus::True, "UpdateInProgress"))
        }),
    )
    .await?;
    let said = status(&updating);
    ensure!(said.target_kube_virt_version.as_deref() == Some("next"), "{said:?}");
    ensure!(
        said.observed_kube_virt_version.as_deref() == Some(from.as_str()),
        "the old one's until it is done: {said:?}"
    );
    ensure!(condition(&said, "Degraded") == Some((ConditionStatus::True, "UpdateInProgress")), "{said:?}");
    // As something of the older version's that the newer one has no use for.
    let unwanted =
        json!({"metadata": {"name": "unwanted", "labels": {"app.kubernetes.io/managed-by": "vireo-operator"}}});
    let maps = own::<ConfigMap>(&scope);
    maps.create(&PostParams::default(), &serde_json::from_value(unwanted)?).await?;
    ensure!(scope.suite().processes()?.kill("vireo-operator") == 1, "there is one operator");
    wait(&scope, "it is updated", available(is_deployed)).await?;
    rolled(&scope, ":next", &from).await?;
    until("what is no longer wanted goes", DEPLOYED, async || Ok(maps.get_opt("unwanted").await?.is_none())).await?;
    callers.check()?;

    // Back to what the operator was started with.
    configure(&scope, json!({})).await?;
    wait(&scope, "it is what it was", available(is_deployed)).await?;
    rolled(&scope, &format!(":{from}"), &from).await?;

    // A newer operator brings its own images.
    let newer = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "vireo-operator", "args": ["operator", "--image=vireo/vireo-controller:newer", "--health=0.0.0.0:8081"]},
    ]}}}});
    let operators = own::<Deployment>(&scope);
    operators.patch("vireo-operator", &PatchParams::default(), &Patch::Strategic(newer)).await?;
    let is_newer = |object: &KubeVirt| status(object).observed_kube_virt_version.as_deref() == Some("newer");
    wait(&scope, "the newer operator has updated it", available(|object| is_newer(object) && is_deployed(object)))
        .await?;
    rolled(&scope, ":newer", &from).await?;
    scope.suite().apply(OPERATOR_MANIFEST).await?;
    wait(&scope, "the older operator's", available(|object| !is_newer(object) && is_deployed(object))).await?;

    ensure!(guests == seen(&scope).await?, "guests were touched: {guests:#}, {:#}", seen(&scope).await?);
    scope.suite().tell("upgraded and downgraded", &callers.end().await?);
    Ok(())
}

/// Something holds, and at no time on the way there Vireo is said not to be available.
fn available(holds: impl Fn(&KubeVirt) -> bool) -> impl FnMut(&KubeVirt) -> bool {
    move |object| {
        let available = condition(&status(object), "Available").map(|(status, _)| status);
        assert_eq!(available, Some(ConditionStatus::True), "{:?}", object.status);
        holds(object)
    }
}

/// Every controller is of the image that ends so.
async fn rolled(scope: &Scope, ending: &str, from: &str) -> Result<()> {
    let pods = own::<Pod>(scope).list(&ListParams::default().labels(CONTROLLERS)).await?;
    let current = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let images: Vec<_> = current.filter_map(|pod| pod.spec.as_ref()?.containers.first()?.image.clone()).collect();
    ensure!(images.len() == 2 && images.iter().all(|image| image.ends_with(ending)), "{images:?}; was {from}");
    Ok(())
}

/// A guest that runs, and one that doesn't.
async fn guests(scope: &Scope) -> Result<Value> {
    for (name, strategy) in [("runs", "Always"), ("halted", "Halted")] {
        scope
            .create(json!({
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name},
                "spec": {"runStrategy": strategy, "template": {"spec": {
                    "domain": {"memory": {"guest": "1Gi"}, "devices": {}},
                }}},
            }))
            .await?;
    }
    scope.vmi("runs", InstancePhase::Running).await?;
    scope
        .vm("runs", "it is ready", |machine| machine.status.as_ref().and_then(|status| status.ready) == Some(true))
        .await?;
    seen(scope).await
}

/// What must not change: of guests, instances and pods what they are, and that nothing of theirs was written.
async fn seen(scope: &Scope) -> Result<Value> {
    let all = ListParams::default();
    let machines: Api<VirtualMachine> = scope.api();
    let instances: Api<VirtualMachineInstance> = scope.api();
    let pods: Api<Pod> = scope.api();
    let machines: Vec<_> =
        machines.list(&all).await?.iter().map(|one| json!([one.uid(), one.resource_version()])).collect();
    let instances: Vec<_> =
        instances.list(&all).await?.iter().map(|one| json!([one.uid(), one.resource_version()])).collect();
    let pods: Vec<_> = pods.list(&all).await?.iter().map(|one| json!([one.uid(), one.resource_version()])).collect();
    Ok(json!({"machines": machines, "instances": instances, "pods": pods}))
}
