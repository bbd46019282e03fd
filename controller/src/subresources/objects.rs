//! What calls read and write.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::Value;
use vireo_runtimeclass::cluster::{ConditionStatus, VirtualMachine, VirtualMachineInstance};

use super::refusal::{INSTANCE, MACHINE};
use super::{Refusal, Server};
use crate::vmi::pod::CREATED_BY_LABEL;

/// How often a write is tried that others come before.
pub(super) const ATTEMPTS: usize = 5;

impl Server {
    pub(super) fn machines(&self, namespace: &str) -> Api<VirtualMachine> {
        Api::namespaced(self.context.client.clone(), namespace)
    }

    pub(super) fn instances(&self, namespace: &str) -> Api<VirtualMachineInstance> {
        Api::namespaced(self.context.client.clone(), namespace)
    }

    pub(super) async fn machine(&self, namespace: &str, name: &str) -> Result<VirtualMachine, Refusal> {
        let found = self.machines(namespace).get_opt(name).await.map_err(|error| Refusal::internal(&error))?;
        found.ok_or_else(|| Refusal::not_found(MACHINE, name))
    }

    pub(super) async fn instance(&self, namespace: &str, name: &str) -> Result<VirtualMachineInstance, Refusal> {
        let found = self.instances(namespace).get_opt(name).await.map_err(|error| Refusal::internal(&error))?;
        found.ok_or_else(|| Refusal::not_found(INSTANCE, name))
    }

    /// The instance of a machine, which is its own.
    pub(super) async fn instance_of(&self, namespace: &str, name: &str) -> Result<VirtualMachineInstance, Refusal> {
        let machine = self.machine(namespace, name).await?;
        let found = self.instances(namespace).get_opt(name).await.map_err(|error| Refusal::internal(&error))?;
        let instance = found.ok_or_else(|| Refusal::conflict(MACHINE, name, "VMI is not started"))?;
        let mut owners = instance.metadata.owner_references.iter().flatten();
        if owners.any(|owner| Some(&owner.uid) == machine.metadata.uid.as_ref()) {
            Ok(instance)
        } else {
            Err(Refusal::conflict(MACHINE, name, "the VMI of this name isn't its own"))
        }
    }

    /// The pod in which an instance runs.
    pub(super) async fn pod(&self, instance: &VirtualMachineInstance) -> Result<Pod, Refusal> {
        let name = name_of(instance);
        let pods = self.pods_of(instance).await?;
        let node = instance.status.as_ref().and_then(|status| status.node_name.as_ref());
        pods.into_iter()
            .filter(|pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running"))
            // While it moves, it has two.
            .max_by_key(|pod| node.is_some() && pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == node)
            .ok_or_else(|| Refusal::conflict(INSTANCE, name, "it has no pod that runs"))
    }

    /// Its pods.
    pub(super) async fn pods_of(&self, instance: &VirtualMachineInstance) -> Result<Vec<Pod>, Refusal> {
        let namespace = instance.metadata.namespace.as_deref().unwrap_or_default();
        let uid = instance.metadata.uid.as_deref().unwrap_or_default();
        let pods: Api<Pod> = Api::namespaced(self.context.client.clone(), namespace);
        let own = ListParams::default().labels(&format!("{CREATED_BY_LABEL}={uid}"));
        Ok(pods.list(&own).await.map_err(|error| Refusal::internal(&error))?.items)
    }

    /// Writes a part of an instance's status that `change` makes of it as it is, unless it makes nothing.
    pub(super) async fn change_status(
        &self,
        instance: &VirtualMachineInstance,
        change: impl Fn(&VirtualMachineInstance) -> Option<Value>,
    ) -> Result<(), Refusal> {
        let namespace = instance.metadata.namespace.as_deref().unwrap_or_default();
        let (api, name) = (self.instances(namespace), name_of(instance));
        let mut seen = instance.clone();
        for _ in 0..ATTEMPTS {
            let Some(status) = change(&seen) else { return Ok(()) };
            let version = &seen.metadata.resource_version;
            let patch = serde_json::json!({"metadata": {"resourceVersion": version}, "status": status});
            match api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => return Ok(()),
                Err(error) if is_conflict(&error) => seen = self.instance(namespace, name).await?,
                Err(error) => return Err(Refusal::internal(&error)),
            }
        }
        Err(Refusal::conflict(INSTANCE, name, "it changes too fast"))
    }
}

/// Somebody wrote in between.
pub(super) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

pub(super) fn name_of(instance: &VirtualMachineInstance) -> &str {
    instance.metadata.name.as_deref().unwrap_or_default()
}

/// Whether a condition of an instance holds.
pub(super) fn holds(instance: &VirtualMachineInstance, kind: &str) -> bool {
    let mut conditions = instance.status.iter().flat_map(|status| &status.conditions);
    conditions.any(|condition| condition.kind == kind && condition.status == ConditionStatus::True)
}
