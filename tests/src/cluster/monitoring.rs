//! What the operator makes for a Prometheus operator, with the rights of its own manifest.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    rbac::v1::RoleBinding,
};
use kube::{
    Api, Client, Config,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;
use vireo_controller::{
    health::Health,
    operator::{self, Options},
};
use vireo_runtimeclass::cluster::KubeVirt;

use super::{Scope, Test, scope::LIMIT, tests};
use crate::kubernetes::until;

pub(super) const ALONE: &[Test] = tests![Alone: the_operator_tells_prometheus_what_to_read];

/// Its manifest, of which this takes the rights.
const MANIFEST: &str = include_str!("../../../runtimeclass/manifests/vireo-operator.yaml");
/// The Prometheus operator's kinds.
const KINDS: [(&str, &str); 2] = [("ServiceMonitor", "servicemonitors"), ("PrometheusRule", "prometheusrules")];
const GROUP: &str = "monitoring.coreos.com";
/// What both are called.
const NAME: &str = "prometheus-kubevirt-rules";
/// Where Prometheus is.
const PROMETHEUS: &str = "prometheus-s-own";

async fn the_operator_tells_prometheus_what_to_read(scope: Scope) -> Result<()> {
    // Its controller never runs, so that it makes nothing that asks for answers.
    scope.kubelet().hold(scope.namespace());
    let result = all(&scope).await;
    let ours = "app.kubernetes.io/managed-by=vireo-operator";
    let gone = "--ignore-not-found";
    let left: [&[&str]; 5] = [
        &["delete", "clusterrole,clusterrolebinding", "--selector", ours],
        &["delete", "clusterrole,clusterrolebinding", "vireo-operator", gone],
        &["-n", "kube-system", "delete", "role,rolebinding", "vireo-operator", gone],
        &["-n", "kube-system", "delete", "rolebinding", "--selector", ours],
        &["delete", "namespace", PROMETHEUS, gone],
    ];
    for arguments in left {
        scope.suite().kubectl(arguments).await?;
    }
    if let Ok(object) = scope.api::<KubeVirt>().get_opt("kubevirt").await
        && object.is_some()
    {
        scope.patch::<KubeVirt>("kubevirt", json!({"metadata": {"finalizers": null}})).await?;
    }
    result
}

async fn all(scope: &Scope) -> Result<()> {
    permit(scope).await?;
    scope
        .create(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": "kubevirt"},
            "spec": {"monitorNamespace": PROMETHEUS, "monitorAccount": "reader"},
        }))
        .await?;
    let image = |of: &str| format!("example.com/vireo-{of}:1");
    let options =
        Options { namespace: scope.namespace().to_owned(), image: image("controller"), agent_image: image("agent") };
    let running = operator::run(as_operator(scope).await?, options, Health::default());
    let _operator = AbortOnDropHandle::new(tokio::spawn(running));

    // There are no such kinds: what else there is is made, and nothing is wrong.
    let label = "prometheus.kubevirt.io";
    let leads_there = |service: &Service| service.metadata.labels.as_ref().is_some_and(|all| all.contains_key(label));
    scope.wait("kubevirt-prometheus-metrics", "it is there", leads_there).await?;
    scope.wait("kubevirt", "all is applied", |object| says(object, "Created", "True")).await?;
    for (kind, plural) in KINDS {
        scope.create(definition(kind, plural)).await?;
    }
    // Nor is Prometheus there: it is waited for.
    let namespaces: Api<Namespace> = Api::all(scope.client().clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": PROMETHEUS}}))?;
    namespaces.create(&PostParams::default(), &namespace).await?;
    let more = std::time::Duration::from_secs(90);
    for (kind, _) in KINDS {
        until(kind, more, async || Ok(of(scope, kind).get_opt(NAME).await?.is_some())).await?;
    }
    let monitor = of(scope, KINDS[0].0).get(NAME).await?;
    let name = &monitor.data["spec"]["endpoints"][0]["tlsConfig"]["serverName"];
    ensure!(*name == json!(format!("vireo-controller.{}.svc", scope.namespace())), "{monitor:?}");
    let rules = serde_json::to_string(&of(scope, KINDS[1].0).get(NAME).await?)?;
    ensure!(rules.contains(&format!("namespace='{}'", scope.namespace())), "{rules}");
    let binding = scope.wait("kubevirt-monitoring", "it is there", |_: &RoleBinding| true).await?;
    let subject = binding.subjects.into_iter().flatten().next().context("somebody")?;
    ensure!((subject.name.as_str(), subject.namespace.as_deref()) == ("reader", Some(PROMETHEUS)), "{subject:?}");

    // What somebody deletes comes back; kinds that go take nothing else along.
    of(scope, KINDS[0].0).delete(NAME, &DeleteParams::default()).await?;
    until("it is back", LIMIT, async || Ok(of(scope, KINDS[0].0).get_opt(NAME).await?.is_some())).await?;
    for (_, plural) in KINDS {
        scope.suite().kubectl(&["delete", "crd", &format!("{plural}.{GROUP}")]).await?;
    }
    scope.patch::<KubeVirt>("kubevirt", json!({"spec": {"productName": "product"}})).await?;
    let part_of = |service: &Service| {
        let labels = service.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get("app.kubernetes.io/part-of")).is_some_and(|of| of == "product")
    };
    scope.wait("kubevirt-prometheus-metrics", "it has a label more", part_of).await?;
    scope.wait("kubevirt", "nothing is wrong", |object| !says(object, "Synchronized", "False")).await.map(drop)
}

/// A condition of the object's.
fn says(object: &KubeVirt, kind: &str, status: &str) -> bool {
    let mut conditions = object.status.iter().flat_map(|status| &status.conditions);
    conditions.any(|condition| condition.kind == kind && json!(condition.status) == status)
}

fn of(scope: &Scope, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", kind));
    Api::namespaced_with(scope.client().clone(), scope.namespace(), &resource)
}

/// A kind that takes anything.
fn definition(kind: &str, plural: &str) -> Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{GROUP}"), "namespace": ""},
        "spec": {
            "group": GROUP, "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

/// Gives the operator of this namespace the rights of the manifest.
async fn permit(scope: &Scope) -> Result<()> {
    for text in MANIFEST.split("\n---\n") {
        let mut object: Value = serde_saphyr::from_str(text)?;
        let kind = object["kind"].as_str().unwrap_or_default();
        if !kind.ends_with("Role") && !kind.ends_with("RoleBinding") {
            continue;
        }
        if object["metadata"].get("namespace").is_none_or(|namespace| namespace == "kubevirt") {
            let own = if kind.starts_with("Cluster") { "" } else { scope.namespace() };
            object["metadata"]["namespace"] = json!(own);
        }
        for subject in object["subjects"].as_array_mut().into_iter().flatten() {
            subject["namespace"] = json!(scope.namespace());
        }
        scope.create(object).await?;
    }
    Ok(())
}

/// The operator's client.
async fn as_operator(scope: &Scope) -> Result<Client> {
    let read = Kubeconfig::read_from(scope.suite().plane().lock().await.kubeconfig())?;
    let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    config.auth_info.impersonate = Some(format!("system:serviceaccount:{}:vireo-operator", scope.namespace()));
    Ok(Client::try_from(config)?)
}
