//! ControllerRevisions: guests' specs as their instances were made from them.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use vireo_runtimeclass::cluster::{InstancetypeRef, VirtualMachine, VirtualMachineSpec};

use super::make;

/// The revisions of a namespace.
pub(super) struct Revisions(pub(super) Api<ControllerRevision>);

/// KubeVirt's name.
fn name(vm: &VirtualMachine, generation: i64) -> String {
    format!("revision-start-vm-{}-{generation}", vm.metadata.uid.as_deref().unwrap_or_default())
}

impl Revisions {
    /// Stores a guest's spec as it is now, with the instancetype and the preference as they are used now.
    pub(super) async fn store(&self, vm: &VirtualMachine) -> kube::Result<()> {
        let generation = vm.metadata.generation.unwrap_or_default();
        let mut spec = vm.unread.value();
        let status = vm.status.as_ref();
        let used = |reference: Option<&InstancetypeRef>| reference?.controller_revision_ref.as_ref()?.name.clone();
        for (field, name) in [
            ("instancetype", used(status.and_then(|status| status.instancetype_ref.as_ref()))),
            ("preference", used(status.and_then(|status| status.preference_ref.as_ref()))),
        ] {
            if let (Some(named), Some(name)) = (spec.get_mut(field).filter(|named| named.is_object()), name) {
                named["revisionName"] = json!(name);
            }
        }
        let revision = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(name(vm, generation)),
                namespace: vm.metadata.namespace.clone(),
                owner_references: Some(vec![make::owner(vm)]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(json!({ "spec": spec }))),
            revision: generation,
        };
        match self.0.create(&PostParams::default(), &revision).await {
            // The same: a generation has one spec.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            made => made.map(drop),
        }
    }

    /// A guest's spec as it was; none where nobody stored it, or nobody can read it any more.
    pub(super) async fn get(&self, vm: &VirtualMachine, generation: i64) -> kube::Result<Option<VirtualMachineSpec>> {
        let revision = self.0.get_opt(&name(vm, generation)).await?;
        let spec = revision.and_then(|revision| revision.data).and_then(|data| data.0.get("spec").cloned());
        Ok(spec.and_then(|spec| VirtualMachine { unread: spec.into(), ..vm.clone() }.spec().ok()))
    }

    pub(super) async fn delete(&self, vm: &VirtualMachine, generation: i64) -> kube::Result<()> {
        match self.0.delete(&name(vm, generation), &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            deleted => deleted.map(drop),
        }
    }
}
