//! Which instancetype or preference a volume names: labels of its claim, its DataVolume, or of what that is made from.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{InferFailurePolicy, Matcher, VirtualMachine, VirtualMachineSpec};

use super::find::FindError;

type Labels = BTreeMap<String, String>;

/// Why a volume names nothing.
enum Nothing {
    /// It says nothing: `inferFromVolumeFailurePolicy` says what then.
    Unsaid(String),
    /// It can't be read, or isn't there yet.
    Unread(String),
}

/// A merge patch of the guest's spec: the name in the place of the volume.
pub(super) async fn infer(
    client: &Client,
    vm: &VirtualMachine,
    spec: &VirtualMachineSpec,
    field: &'static str,
    named: &Matcher,
) -> Result<Value, FindError> {
    let volume = named.infer_from_volume.as_deref().unwrap_or_default();
    let namespace = vm.metadata.namespace.as_deref().unwrap_or_default();
    let ignores = named.infer_from_volume_failure_policy == Some(InferFailurePolicy::Ignore);
    let label = format!("instancetype.kubevirt.io/default-{field}");
    let found = Search { client, namespace, spec, label: &label }.volume(volume).await;
    match found {
        Ok(labels) => {
            let mut rewritten = json!({"name": labels[&label], "kind": labels.get(&format!("{label}-kind"))});
            rewritten["inferFromVolume"] = Value::Null;
            rewritten["inferFromVolumeFailurePolicy"] = Value::Null;
            let mut patch = json!({ field: rewritten });
            // What clients write for the case that there is none would be in conflict with the one there is.
            if ignores && field == "instancetype" {
                patch["template"] = json!({"spec": {"domain": {"memory": null}}});
            }
            Ok(patch)
        }
        Err(Nothing::Unsaid(_)) if ignores => Ok(json!({ field: null })),
        Err(Nothing::Unsaid(why) | Nothing::Unread(why)) => Err(FindError {
            reason: if field == "instancetype" { "FailedFindInstancetype" } else { "FailedFindPreference" },
            message: format!("spec.{field}.inferFromVolume: {why}"),
            is_transient: false,
        }),
    }
}

struct Search<'a> {
    client: &'a Client,
    namespace: &'a str,
    spec: &'a VirtualMachineSpec,
    label: &'a str,
}

impl Search<'_> {
    async fn volume(&self, name: &str) -> Result<Labels, Nothing> {
        let volumes = &self.spec.template.spec.machine.volumes;
        let Some(volume) = volumes.iter().find(|volume| volume.name == name) else {
            return Err(Nothing::Unread(format!("unable to find volume {name} to infer defaults")));
        };
        if let Some(claim) = &volume.persistent_volume_claim {
            return self.claim(self.namespace, &claim.claim_name).await;
        }
        let Some(source) = &volume.data_volume else {
            let why = format!("unable to infer defaults from volume {name} as type is not supported");
            return Err(Nothing::Unsaid(why));
        };
        let templates = &self.spec.data_volume_templates;
        if let Some(template) = templates.iter().find(|template| template.metadata.name.as_ref() == Some(&source.name))
        {
            return match self.said(&template.metadata.labels) {
                Ok(labels) => Ok(labels),
                Err(_) => self.data_volume_spec(&template.spec).await,
            };
        }
        match self.get("cdi.kubevirt.io", "v1beta1", "DataVolume", self.namespace, &source.name).await? {
            Some(volume) => match self.said(&volume.metadata.labels.unwrap_or_default()) {
                Ok(labels) => Ok(labels),
                Err(_) => self.data_volume_spec(volume.data.get("spec").unwrap_or(&Value::Null)).await,
            },
            // It is gone when it is done, in some installations.
            None => self.claim(self.namespace, &source.name).await,
        }
    }

    async fn data_volume_spec(&self, spec: &Value) -> Result<Labels, Nothing> {
        let source = spec.get("source").unwrap_or(&Value::Null);
        if let Some(found) = self.made_from(source).await {
            return found;
        }
        let Some(source) = spec.get("sourceRef").filter(|source| source.is_object()) else {
            let why = "unable to infer defaults from DataVolumeSpec as DataVolumeSource is not supported";
            return Err(Nothing::Unsaid(why.to_owned()));
        };
        let kind = text(source, "kind").unwrap_or_default();
        if kind != "DataSource" {
            let why = format!("unable to infer defaults from DataVolumeSourceRef as Kind {kind} is not supported");
            return Err(Nothing::Unsaid(why));
        }
        let (namespace, name) =
            (text(source, "namespace").unwrap_or(self.namespace), text(source, "name").unwrap_or_default());
        let Some(source) = self.get("cdi.kubevirt.io", "v1beta1", "DataSource", namespace, name).await? else {
            return Err(Nothing::Unread(format!("DataSource {namespace}/{name} doesn't exist")));
        };
        if let Ok(labels) = self.said(&source.metadata.labels.clone().unwrap_or_default()) {
            return Ok(labels);
        }
        let from = source.data.pointer("/spec/source").unwrap_or(&Value::Null);
        self.made_from(from).await.unwrap_or_else(|| {
            let why = "unable to infer defaults from DataSource that doesn't provide DataVolumeSourcePVC or DataVolumeSourceSnapshot";
            Err(Nothing::Unsaid(why.to_owned()))
        })
    }

    /// What it is made from, where that is a claim or a snapshot.
    async fn made_from(&self, source: &Value) -> Option<Result<Labels, Nothing>> {
        let named = |source: &Value| {
            let namespace = text(source, "namespace").unwrap_or(self.namespace).to_owned();
            (namespace, text(source, "name").unwrap_or_default().to_owned())
        };
        if let Some(claim) = source.get("pvc").filter(|claim| claim.is_object()) {
            let (namespace, name) = named(claim);
            return Some(self.claim(&namespace, &name).await);
        }
        let (namespace, name) = named(source.get("snapshot").filter(|snapshot| snapshot.is_object())?);
        let snapshot = self.get("snapshot.storage.k8s.io", "v1", "VolumeSnapshot", &namespace, &name).await;
        Some(match snapshot {
            Ok(Some(snapshot)) => self.said(&snapshot.metadata.labels.unwrap_or_default()),
            Ok(None) => Err(Nothing::Unread(format!("VolumeSnapshot {namespace}/{name} doesn't exist"))),
            Err(nothing) => Err(nothing),
        })
    }

    async fn claim(&self, namespace: &str, name: &str) -> Result<Labels, Nothing> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        match claims.get(name).await {
            Ok(claim) => self.said(&claim.metadata.labels.unwrap_or_default()),
            Err(error) => Err(Nothing::Unread(format!("can't get PersistentVolumeClaim {namespace}/{name}: {error}"))),
        }
    }

    fn said(&self, labels: &Labels) -> Result<Labels, Nothing> {
        let missing = || Nothing::Unsaid(format!("unable to find required {} label on the volume", self.label));
        labels.contains_key(self.label).then(|| labels.clone()).ok_or_else(missing)
    }

    async fn get(
        &self,
        group: &str,
        version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<DynamicObject>, Nothing> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        api.get_opt(name)
            .await
            .map_err(|error| Nothing::Unread(format!("can't get {kind} {namespace}/{name}: {error}")))
    }
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field).and_then(Value::as_str).filter(|text| !text.is_empty())
}
