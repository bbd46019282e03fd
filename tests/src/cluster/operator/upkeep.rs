//! The operator deploys Vireo, puts back what others change, and tells the controller what is configured.

use anyhow::{Context, Result, ensure};
use futures_util::future::LocalBoxFuture;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod, Secret, Service},
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{ConditionStatus, KubeVirt, VirtualMachineInstance};

use super::vireo::{
    DEPLOYED, NAME, any, change, condition, configure, deploy, deployed, kubevirts, label, own, own_of, status, wait,
};
use crate::{
    cluster::{Scope, scope::LIMIT, suite::NAMESPACE},
    kubernetes::{eventually, until},
};

const CLUSTER_ROLE: &str = "rbac.authorization.k8s.io/v1/ClusterRole";
const CRD: &str = "apiextensions.k8s.io/v1/CustomResourceDefinition";
const MUTATING: &str = "admissionregistration.k8s.io/v1/MutatingWebhookConfiguration";
const VALIDATING: &str = "admissionregistration.k8s.io/v1/ValidatingWebhookConfiguration";
const API_SERVICE: &str = "apiregistration.k8s.io/v1/APIService";
const CONTROLLER: &str = "vireo-controller";
const AGGREGATES: &str = "rbac.authorization.k8s.io/aggregate-to-view";
const MACHINES: &str = "virtualmachines.kubevirt.io";

/// Before the first is deployed there is nobody who could refuse a second object.
pub(super) async fn an_operator_deploys_vireo_and_keeps_it_as_it_is(scope: Scope) -> Result<()> {
    let first = configure(&scope, json!({})).await?;
    let second = kubevirt("second", &json!({"configuration": {"developerConfiguration": {"cpuAllocationRatio": 1}}}))?;
    // The oldest counts, by whole seconds, and then by name.
    kubevirts(&scope).create(&PostParams::default(), &second).await?;
    let object = deployed(&scope).await?;
    ensure!(object.uid() == first.uid());
    let said = status(&object);
    for (kind, holds, reason) in [
        ("Created", ConditionStatus::True, "AllResourcesCreated"),
        ("Available", ConditionStatus::True, "AllComponentsReady"),
        ("Progressing", ConditionStatus::False, "AllComponentsReady"),
        ("Degraded", ConditionStatus::False, "AllComponentsReady"),
    ] {
        ensure!(condition(&said, kind) == Some((holds, reason)), "{kind}: {said:?}");
    }
    ensure!(condition(&said, "Synchronized").is_none(), "nothing is wrong: {said:?}");
    let version = said.operator_version.as_deref().context("the operator has a version")?;
    ensure!(said.observed_kube_virt_version.as_deref() == Some(version), "{said:?}");
    ensure!(said.observed_kube_virt_registry.as_deref() == Some("vireo"), "{said:?}");
    ensure!(
        said.observed_deployment_id.is_some() && said.observed_deployment_id == said.target_deployment_id,
        "{said:?}"
    );
    ensure!(said.generations.iter().any(|one| one.resource == "deployments" && one.name == CONTROLLER), "{said:?}");
    second_is_told(&scope).await?;
    for (what, mend) in MENDED {
        mend(scope.clone()).await.with_context(|| format!("mend {what}"))?;
    }
    deployed(&scope).await.map(drop)
}

fn kubevirt(name: &str, spec: &Value) -> Result<KubeVirt> {
    let object = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": name}, "spec": spec});
    Ok(serde_json::from_value(object)?)
}

/// One that came before the webhooks is told, configures nothing, and goes as it came; a later one is refused.
async fn second_is_told(scope: &Scope) -> Result<()> {
    let objects = kubevirts(scope);
    let why = eventually("the second object is told", LIMIT, async || {
        Ok(condition(&status(&objects.get("second").await?), "Synchronized").map(|(_, reason)| reason.to_owned()))
    });
    ensure!(why.await? == "ExistingDeployment");
    ensure!(cpu(scope, "not-by-the-second").await? == "100m", "the second object's configuration holds");
    objects.delete("second", &DeleteParams::default()).await?;
    until("the second object goes", LIMIT, async || Ok(objects.get_opt("second").await?.is_none())).await?;
    match objects.create(&PostParams::default(), &kubevirt("third", &json!({}))?).await {
        Err(kube::Error::Api(status)) => ensure!(status.message.contains("Kubevirt is already created"), "{status:?}"),
        other => anyhow::bail!("a third object: {other:?}"),
    }
    Ok(())
}

type Mend = fn(Scope) -> LocalBoxFuture<'static, Result<()>>;

/// What others do, and until when it is waited.
const MENDED: &[(&str, Mend)] = &[
    ("a role that was edited", |scope| Box::pin(async move { role(&scope).await })),
    ("a binding that was deleted", |scope| {
        Box::pin(async move {
            comes_back(&any(&scope, "rbac.authorization.k8s.io/v1/ClusterRoleBinding"), CONTROLLER).await
        })
    }),
    ("webhooks that were deleted", |scope| {
        Box::pin(async move {
            comes_back(&any(&scope, VALIDATING), "virt-api-validator").await?;
            comes_back(&any(&scope, MUTATING), "virt-api-mutator").await
        })
    }),
    ("a webhook of many that was deleted", |scope| Box::pin(async move { webhook(&scope).await })),
    ("an API service that was deleted", |scope| {
        Box::pin(async move { comes_back(&any(&scope, API_SERVICE), "v1.subresources.kubevirt.io").await })
    }),
    ("a kind's column that was removed", |scope| Box::pin(async move { column(&scope).await })),
    ("a runtime class that was deleted", |scope| {
        Box::pin(async move { comes_back(&any(&scope, "node.k8s.io/v1/RuntimeClass"), "vireo").await })
    }),
    ("objects that were deleted", |scope| {
        Box::pin(async move {
            comes_back(&own::<NetworkPolicy>(&scope), CONTROLLER).await?;
            comes_back(&own_of(&scope, "policy/v1beta1/PodDisruptionBudget"), CONTROLLER).await?;
            comes_back(&own::<Service>(&scope), CONTROLLER).await?;
            comes_back(&own::<ConfigMap>(&scope), "kubevirt-ca").await?;
            comes_back(&own::<Secret>(&scope), "vireo-controller-certs").await
        })
    }),
    ("a controller that was scaled to nothing", |scope| Box::pin(async move { controller(&scope).await })),
    ("a controller that was deleted", |scope| {
        Box::pin(async move {
            comes_back(&own::<Deployment>(&scope), CONTROLLER).await?;
            let is_told = |object: &KubeVirt| {
                condition(&status(object), "Available") == Some((ConditionStatus::False, "DeploymentInProgress"))
            };
            wait(&scope, "it is said that it isn't there", is_told).await?;
            deployed(&scope).await.map(drop)
        })
    }),
];

/// Deleted, it is made anew.
async fn comes_back<K>(objects: &Api<K>, name: &str) -> Result<()>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let before = objects.get(name).await?.uid();
    objects.delete(name, &DeleteParams::default()).await?;
    until(&format!("{name} comes back"), LIMIT, async || {
        Ok(objects.get_opt(name).await?.is_some_and(|object| object.uid() != before))
    })
    .await
}

/// An object's part that others change becomes what it was.
async fn becomes_what_it_was(
    scope: &Scope,
    kind: &str,
    name: &str,
    part: fn(&DynamicObject) -> Value,
    patch: Value,
) -> Result<()> {
    let objects = any(scope, kind);
    let before = part(&objects.get(name).await?);
    change(scope, kind, name, patch).await?;
    until(&format!("{name} is what it was"), LIMIT, async || Ok(part(&objects.get(name).await?) == before)).await
}

async fn role(scope: &Scope) -> Result<()> {
    let everything = json!({"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    becomes_what_it_was(scope, CLUSTER_ROLE, "kubevirt.io:view", |role| role.data["rules"].clone(), everything).await
}

async fn webhook(scope: &Scope) -> Result<()> {
    becomes_what_it_was(
        scope,
        VALIDATING,
        "virt-api-validator",
        |all| json!(all.data["webhooks"].as_array().map(Vec::len)),
        json!({"webhooks": []}),
    )
    .await
}

async fn column(scope: &Scope) -> Result<()> {
    let columns = |kind: &DynamicObject| json!(kind.data["spec"]["versions"][0]["additionalPrinterColumns"]);
    let kinds = any(scope, CRD);
    let mut versions = kinds.get(MACHINES).await?.data["spec"]["versions"].clone();
    ensure!(versions[0]["additionalPrinterColumns"].as_array().is_some_and(|columns| !columns.is_empty()));
    versions[0]["additionalPrinterColumns"] = json!([]);
    becomes_what_it_was(scope, CRD, MACHINES, columns, json!({"spec": {"versions": versions}})).await
}

async fn controller(scope: &Scope) -> Result<()> {
    let deployments = own::<Deployment>(scope);
    let none = json!({"spec": {"replicas": 0}});
    deployments.patch(CONTROLLER, &PatchParams::default(), &Patch::Merge(none)).await?;
    until("it has its replicas again", LIMIT, async || {
        let replicas = deployments.get(CONTROLLER).await?.spec.and_then(|spec| spec.replicas);
        Ok(replicas == Some(2))
    })
    .await
}

/// The same pods, with the same processes in them.
pub(super) async fn what_is_configured_holds_without_a_restart(scope: Scope) -> Result<()> {
    deploy(&scope, json!({})).await?;
    let controllers = async || {
        let pods = own::<Pod>(&scope).list(&ListParams::default().labels("kubevirt.io=vireo-controller")).await?;
        let mut names: Vec<_> = pods.iter().map(kube::ResourceExt::name_any).collect();
        names.sort_unstable();
        Ok::<_, anyhow::Error>(names)
    };
    let before = controllers().await?;
    ensure!(cpu(&scope, "as-it-is").await? == "100m", "a tenth of a CPU for each vCPU");
    let view = any(&scope, CLUSTER_ROLE);
    ensure!(label(&view.get("kubevirt.io:view").await?, AGGREGATES) == Some("true"));
    // Kubernetes adds the rules up.
    let includes = async || {
        let rules = view.get("view").await?.data["rules"].to_string();
        Ok::<_, anyhow::Error>(rules.contains("virtualmachineinstances"))
    };
    until("the cluster's view includes Vireo's", LIMIT, async || includes().await).await?;

    let configuration = json!({"configuration": {
        "developerConfiguration": {"cpuAllocationRatio": 2}, "roleAggregationStrategy": "Manual",
    }});
    deploy(&scope, configuration).await?;
    let mut tries = 0;
    until("the controller hears of it", DEPLOYED, async || {
        tries += 1;
        Ok(cpu(&scope, &format!("configured-{tries}")).await? == "500m")
    })
    .await?;
    until("the cluster's view has no more of Vireo's", LIMIT, async || Ok(!includes().await?)).await?;
    ensure!(label(&view.get("kubevirt.io:view").await?, AGGREGATES).is_none());

    // What can't be read changes nothing, and is told.
    let refused =
        configure(&scope, json!({"configuration": {"developerConfiguration": {"cpuAllocationRatio": "two"}}})).await;
    ensure!(refused.is_err(), "{refused:?}");
    deploy(&scope, json!({})).await?;
    until("the cluster's view includes Vireo's again", LIMIT, async || includes().await).await?;
    ensure!(before == controllers().await?, "controllers were made anew: {before:?}, {:?}", controllers().await?);
    ensure!(kubevirts(&scope).get(NAME).await?.namespace().as_deref() == Some(NAMESPACE));
    Ok(())
}

/// What the pod of a new instance with one vCPU requests.
async fn cpu(scope: &Scope, name: &str) -> Result<String> {
    scope
        .create(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": name},
            "spec": {"domain": {"cpu": {"cores": 1}, "memory": {"guest": "1Gi"}, "devices": {}}},
        }))
        .await?;
    let instance = scope.api::<VirtualMachineInstance>().get(name).await?;
    let pod = scope.pod(&instance).await?;
    scope.delete::<VirtualMachineInstance>(name).await?;
    let container = pod.spec.context("it has a spec")?.containers.pop().context("it has a container")?;
    let requests = container.resources.and_then(|resources| resources.requests).unwrap_or_default();
    Ok(requests.get("cpu").map(|quantity| quantity.0.clone()).unwrap_or_default())
}
