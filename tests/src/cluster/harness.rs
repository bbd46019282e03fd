//! That what tests stand on holds.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{Scope, Test, tests};
use crate::kubernetes::State;

pub(super) const TESTS: &[Test] =
    tests![Together: a_pod_runs_and_ends_as_a_kubelet_would_say, an_object_of_the_wrong_shape_is_refused];

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "readinessGates": [{"conditionType": "example.com/gate"}],
            "containers": [{"name": "compute", "image": "example.com/none:1"}],
            "runtimeClassName": "vireo",
        },
    })
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn a_pod_runs_and_ends_as_a_kubelet_would_say(scope: Scope) -> Result<()> {
    scope.create(pod("by-itself")).await?;
    let seen = scope.wait("by-itself", "it runs", |pod: &Pod| phase(pod) == "Running").await?;
    ensure!(!is_ready(&seen), "its readiness gate doesn't hold");
    let overhead = seen.spec.and_then(|spec| spec.overhead).context("the RuntimeClass has an overhead")?;
    ensure!(overhead["memory"].0 == "16Mi", "{overhead:?}");
    let gate = json!({"status": {"conditions": [{"type": "example.com/gate", "status": "True"}]}});
    let pods = scope.api::<Pod>();
    pods.patch_status("by-itself", &PatchParams::default(), &Patch::Strategic(gate)).await?;
    scope.wait("by-itself", "it is ready", is_ready).await?;
    scope.delete::<Pod>("by-itself").await?;
    scope.wait_gone::<Pod>("by-itself").await?;

    scope.kubelet().hold(scope.namespace());
    scope.create(pod("as-said")).await?;
    let bound = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let seen = scope.wait("as-said", "it is bound", bound).await?;
    scope.kubelet().say(&seen, &State::waiting("ErrImagePull", "there is none")).await?;
    scope.wait("as-said", "it waits", |pod: &Pod| phase(pod) == "Pending" && !is_ready(pod)).await?;
    scope.kubelet().say(&seen, &State::ended(137)).await?;
    scope.wait("as-said", "it failed", |pod: &Pod| phase(pod) == "Failed").await?;
    // The API server waits for no kubelet where a pod has ended.
    scope.delete::<Pod>("as-said").await?;
    scope.wait_gone::<Pod>("as-said").await
}

async fn an_object_of_the_wrong_shape_is_refused(scope: Scope) -> Result<()> {
    let said = scope
        .refused(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "wrong"},
            "spec": {"runStrategy": 7, "template": {"spec": {"domain": {"devices": {}}}}},
        }))
        .await?;
    ensure!(said.contains("spec.runStrategy"), "{said}");
    Ok(())
}
