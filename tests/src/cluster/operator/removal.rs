//! All goes with the object; or nothing, while there are machines and the object says so.

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{
    ConditionStatus, InstancePhase, KubeVirtPhase, VirtualMachine, VirtualMachineInstance,
};

use super::vireo::{DEPLOYED, NAME, any, condition, deploy, kubevirts, own, status, wait};
use crate::{cluster::Scope, kubernetes::until};

const OPERATOR: &str = "vireo-operator";

/// The webhook says so; and where nobody asks that, the operator itself.
pub(super) async fn nothing_goes_while_there_are_machines_where_the_object_says_so(scope: Scope) -> Result<()> {
    deploy(&scope, json!({"uninstallStrategy": "BlockUninstallIfWorkloadsExist"})).await?;
    guest(&scope, "stays", "Halted").await?;
    match kubevirts(&scope).delete(NAME, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) => ensure!(
            status.message.contains("Rejecting the uninstall request, since there are still Virtual Machines present"),
            "{status:?}"
        ),
        other => bail!("it goes: {other:?}"),
    }
    scale_operator(&scope, 0).await?;
    let webhooks = any(&scope, "admissionregistration.k8s.io/v1/ValidatingWebhookConfiguration");
    webhooks.delete("virt-api-validator", &DeleteParams::default()).await?;
    until("nobody refuses its deletion", DEPLOYED, async || {
        let deleted = kubevirts(&scope).delete(NAME, &DeleteParams::default()).await;
        Ok(deleted.is_ok())
    })
    .await?;
    scale_operator(&scope, 1).await?;
    let waiting = wait(&scope, "it waits for the machine", |object| {
        let said = status(object);
        let message = said.conditions.iter().find(|condition| condition.kind == "Progressing");
        message
            .and_then(|condition| condition.message.as_deref())
            .is_some_and(|message| message.contains("VirtualMachine"))
    })
    .await?;
    ensure!(
        condition(&status(&waiting), "Available") == Some((ConditionStatus::False, "DeletionInProgress")),
        "{waiting:?}"
    );
    // The controller is there still, for who waits for it.
    scope.delete::<VirtualMachine>("stays").await?;
    gone(&scope).await
}

/// With a guest that runs. The operator is killed when the first kinds are going, and again when the controller is.
pub(super) async fn vireo_goes_with_all_that_it_made_whoever_is_killed(scope: Scope) -> Result<()> {
    deploy(&scope, json!({})).await?;
    guest(&scope, "runs", "Always").await?;
    scope.vmi("runs", InstancePhase::Running).await?;
    kubevirts(&scope).delete(NAME, &DeleteParams::default()).await?;
    wait(&scope, "it goes", |object| status(object).phase == Some(KubeVirtPhase::Deleting)).await?;
    let processes = scope.suite().processes()?;
    ensure!(processes.kill(OPERATOR) == 1, "there is one operator");
    until("the kinds are gone", DEPLOYED, async || Ok(left(&scope, CRDS).await?.is_empty())).await?;
    processes.kill(OPERATOR);
    gone(&scope).await
}

/// A VirtualMachine.
async fn guest(scope: &Scope, name: &str, strategy: &str) -> Result<()> {
    scope
        .create(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name},
            "spec": {"runStrategy": strategy, "template": {"spec": {
                "domain": {"memory": {"guest": "1Gi"}, "devices": {}},
            }}},
        }))
        .await?;
    Ok(())
}

/// Comes back when there are as many operators.
async fn scale_operator(scope: &Scope, replicas: i32) -> Result<()> {
    let operators = own::<Deployment>(scope);
    let patch = json!({"spec": {"replicas": replicas}});
    operators.patch(OPERATOR, &PatchParams::default(), &Patch::Merge(patch)).await?;
    until("the operators are as many", DEPLOYED, async || {
        let status = operators.get(OPERATOR).await?.status.unwrap_or_default();
        Ok(status.replicas.unwrap_or(0) == replicas && status.ready_replicas.unwrap_or(0) == replicas)
    })
    .await
}

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Every kind of object that the operator makes.
const MADE: &[&str] = &[
    CRDS,
    "/api/v1/namespaces/kubevirt/configmaps",
    "/api/v1/namespaces/kubevirt/secrets",
    "/api/v1/namespaces/kubevirt/services",
    "/api/v1/namespaces/kubevirt/serviceaccounts",
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
    "/apis/apiregistration.k8s.io/v1/apiservices",
    "/apis/apps/v1/deployments",
    "/apis/apps/v1/daemonsets",
    "/apis/networking.k8s.io/v1/networkpolicies",
    "/apis/node.k8s.io/v1/runtimeclasses",
    "/apis/policy/v1beta1/poddisruptionbudgets",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "/apis/rbac.authorization.k8s.io/v1/roles",
    "/apis/rbac.authorization.k8s.io/v1/rolebindings",
];

/// The names of what the operator made of one kind and what is there still.
async fn left(scope: &Scope, kind: &str) -> Result<Vec<String>> {
    let path = format!("{kind}?labelSelector=app.kubernetes.io/managed-by=vireo-operator");
    let listed: Value = serde_json::from_str(&scope.suite().kubectl(&["get", "--raw", &path]).await?)?;
    let items = listed["items"].as_array().context("it is a list")?;
    Ok(items.iter().map(|item| format!("{kind} {}", item["metadata"]["name"])).collect())
}

/// Waits until the object is gone, and then nothing of it is left.
async fn gone(scope: &Scope) -> Result<()> {
    let objects = kubevirts(scope);
    until("Vireo is gone", DEPLOYED, async || Ok(objects.get_opt(NAME).await?.is_none())).await?;
    for kind in MADE {
        let left = left(scope, kind).await?;
        ensure!(left.is_empty(), "left behind: {left:?}");
    }
    // Nothing of this namespace's waits for a controller that isn't there.
    let instances: Api<VirtualMachineInstance> = scope.api();
    ensure!(matches!(instances.get_opt("runs").await, Ok(None) | Err(kube::Error::Api(_))));
    Ok(())
}
