//! Vireo as it is deployed: what every test starts from.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::StreamExt as _;
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    runtime::watcher::watch_object,
};
use serde_json::{Value, json};
use tokio::{
    pin,
    time::{Instant, timeout_at},
};
use vireo_runtimeclass::cluster::{ConditionStatus, KubeVirt, KubeVirtPhase, KubeVirtStatus};

use crate::cluster::{Scope, suite::NAMESPACE};

/// How long all of it may take to be deployed, or to go.
pub(super) const DEPLOYED: Duration = Duration::from_mins(2);
/// The name of the KubeVirt object that counts.
pub(super) const NAME: &str = "kubevirt";

/// KubeVirt objects, where they belong.
pub(super) fn kubevirts(scope: &Scope) -> Api<KubeVirt> {
    Api::namespaced(scope.client().clone(), NAMESPACE)
}

/// Objects of a kind of Vireo's namespace.
pub(super) fn own<K>(scope: &Scope) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    Api::namespaced(scope.client().clone(), NAMESPACE)
}

/// As [`own`], of a kind that isn't known here: `group/version/Kind`.
pub(super) fn own_of(scope: &Scope, kind: &str) -> Api<DynamicObject> {
    Api::namespaced_with(scope.client().clone(), NAMESPACE, &resource(kind))
}

/// Objects of a kind that have no namespace: `group/version/Kind`.
pub(super) fn any(scope: &Scope, kind: &str) -> Api<DynamicObject> {
    Api::all_with(scope.client().clone(), &resource(kind))
}

fn resource(kind: &str) -> ApiResource {
    let mut parts = kind.split('/');
    let mut part = || parts.next().unwrap_or_default();
    ApiResource::from_gvk(&GroupVersionKind::gvk(part(), part(), part()))
}

/// The object with this `spec`, made where it isn't there; comes back when all is as it says.
pub(super) async fn deploy(scope: &Scope, spec: Value) -> Result<KubeVirt> {
    configure(scope, spec).await?;
    deployed(scope).await
}

/// The object with this `spec`, made where it isn't there.
pub(super) async fn configure(scope: &Scope, spec: Value) -> Result<KubeVirt> {
    let objects = kubevirts(scope);
    let object = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": spec,
    });
    if objects.get_opt(NAME).await?.is_none() {
        return Ok(objects.create(&PostParams::default(), &serde_json::from_value(object)?).await?);
    }
    let patch: json_patch::Patch = serde_json::from_value(json!([{"op": "replace", "path": "/spec", "value": spec}]))?;
    Ok(objects.patch(NAME, &PatchParams::default(), &Patch::Json::<()>(patch)).await?)
}

/// Waits until all is as the object says.
pub(super) async fn deployed(scope: &Scope) -> Result<KubeVirt> {
    wait(scope, "it is deployed", is_deployed).await
}

/// Whether all is as the object says now.
pub(super) fn is_deployed(object: &KubeVirt) -> bool {
    let status = status(object);
    status.phase == Some(KubeVirtPhase::Deployed)
        && status.observed_generation == object.metadata.generation
        && condition(&status, "Progressing").is_some_and(|(status, _)| status == ConditionStatus::False)
}

/// Its status.
pub(super) fn status(object: &KubeVirt) -> KubeVirtStatus {
    object.status.clone().unwrap_or_default()
}

/// A condition and its reason.
pub(super) fn condition<'a>(status: &'a KubeVirtStatus, kind: &str) -> Option<(ConditionStatus, &'a str)> {
    let condition = status.conditions.iter().find(|condition| condition.kind == kind)?;
    Some((condition.status, condition.reason.as_deref().unwrap_or_default()))
}

/// Waits until something holds of the object that counts; every change of it is looked at.
pub(super) async fn wait(scope: &Scope, what: &str, mut holds: impl FnMut(&KubeVirt) -> bool) -> Result<KubeVirt> {
    let end = Instant::now() + DEPLOYED;
    let changes = watch_object(kubevirts(scope), NAME);
    pin!(changes);
    let mut last = None;
    while let Ok(Some(change)) = timeout_at(end, changes.next()).await {
        let Ok(Some(object)) = change else { continue };
        if holds(&object) {
            return Ok(object);
        }
        last.clone_from(&object.status);
    }
    let seen = serde_json::to_string_pretty(&last)?;
    bail!("KubeVirt {NAME}: {what}: not within {} s; seen last:\n{seen}", DEPLOYED.as_secs())
}

/// Changes an object that has no namespace by a merge patch.
pub(super) async fn change(scope: &Scope, kind: &str, name: &str, patch: Value) -> Result<()> {
    let patched = any(scope, kind).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
    patched.map(drop).with_context(|| format!("change {kind} {name}"))
}

/// An object's label.
pub(super) fn label<'a>(object: &'a DynamicObject, name: &str) -> Option<&'a str> {
    object.labels().get(name).map(String::as_str)
}
