//! A guest's DataVolumes are there.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::PostParams;
use kube::core::DynamicObject;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, ResourceExt as _};
use vireo_runtimeclass::cluster::{DataVolumeTemplate, VirtualMachine, VirtualMachineSpec};

use super::clone::{Source, may, source};
use super::desired::{desired, is_filled, service_account};
use super::seen::{State, state};
use crate::Context;
use crate::context::NAME;
use crate::events::Events;

/// What makes DataVolumes.
#[derive(Debug, Clone, Copy)]
pub struct Ensure<'a> {
    /// The API server.
    pub context: &'a Context,
    /// Tells users.
    pub events: &'a Events,
    /// What is there, as far as is known: empty where CDI isn't.
    pub known: &'a Store<DynamicObject>,
}

/// Why a DataVolume isn't made; `FailedCreate` in a condition.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    /// CDI isn't there.
    #[error(
        "DataVolume {0} can't be created: the cluster has no cdi.kubevirt.io/v1beta1; install the Containerized Data Importer"
    )]
    NoImporter(String),
    /// Nobody may copy that.
    #[error(
        "not authorized to create DataVolume {0}: User system:serviceaccount:{1}:{2} has insufficient permissions in clone source namespace {3}"
    )]
    Unauthorized(String, String, String, String),
    /// There is no room.
    #[error("DataVolume {0} importer is not running due to an error: {1}")]
    NoQuota(String, String),
    /// The API server refuses it.
    #[error("failed to create DataVolume {0}: {1}")]
    Refused(String, #[source] kube::Error),
}

impl Ensure<'_> {
    /// Makes what is missing; whether all of them can be used.
    ///
    /// # Errors
    /// The first that can't be made.
    pub async fn all(&self, vm: &VirtualMachine, spec: &VirtualMachineSpec) -> Result<bool, EnsureError> {
        let mut are_ready = true;
        for template in &spec.data_volume_templates {
            are_ready &= self.one(vm, spec, template).await?;
        }
        Ok(are_ready)
    }

    async fn one(
        &self,
        vm: &VirtualMachine,
        spec: &VirtualMachineSpec,
        template: &DataVolumeTemplate,
    ) -> Result<bool, EnsureError> {
        let name = template.metadata.name.clone().unwrap_or_default();
        let Some(found) = self.get(vm, &name) else {
            self.create(vm, spec, template, &name).await?;
            return Ok(false);
        };
        match state(&found) {
            State::Ready => Ok(true),
            State::Waiting => Ok(false),
            State::Failed => {
                let note = format!("DataVolume {name} failed to import disk image");
                self.events.warning(vm, "FailedDataVolumeImport", &note).await;
                Ok(false)
            }
            State::NoQuota(why) => {
                let note = format!("DataVolume {name} exceeds quota limits");
                self.events.warning(vm, "FailedDataVolumeImport", &note).await;
                Err(EnsureError::NoQuota(name, why))
            }
        }
    }

    fn get(&self, vm: &VirtualMachine, name: &str) -> Option<Arc<DynamicObject>> {
        let namespace = vm.namespace().unwrap_or_default();
        self.known.get(&ObjectRef::new_with(name, super::resource()).within(&namespace))
    }

    async fn create(
        &self,
        vm: &VirtualMachine,
        spec: &VirtualMachineSpec,
        template: &DataVolumeTemplate,
        name: &str,
    ) -> Result<(), EnsureError> {
        let namespace = vm.namespace().unwrap_or_default();
        let refused = |error| EnsureError::Refused(name.to_owned(), error);
        let copied = source(&self.context.client, &template.spec, &namespace).await.map_err(refused)?;
        if let Some(copied) = &copied {
            self.authorize(vm, spec, template, copied, name).await?;
        }
        let volume = desired(vm, &spec.template, template, copied.as_ref().map(Source::field));
        let volumes: Api<DynamicObject> =
            Api::namespaced_with(self.context.client.clone(), &namespace, &super::resource());
        let parameters = PostParams { field_manager: Some(NAME.to_owned()), ..PostParams::default() };
        match volumes.create(&parameters, &volume).await {
            Ok(_) => {
                self.events.normal(vm, "SuccessfulDataVolumeCreate", &format!("Created DataVolume {name}")).await;
                Ok(())
            }
            // It was made meanwhile, and will be seen; a claim of its name is adopted by CDI.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => {
                // Of the kind, not of the object.
                let error = if matches!(&error, kube::Error::Api(status) if status.code == 404) {
                    EnsureError::NoImporter(name.to_owned())
                } else {
                    refused(error)
                };
                let note = format!("Error creating DataVolume {name}: {error}");
                self.events.warning(vm, "FailedDataVolumeCreate", &note).await;
                Err(error)
            }
        }
    }

    async fn authorize(
        &self,
        vm: &VirtualMachine,
        spec: &VirtualMachineSpec,
        template: &DataVolumeTemplate,
        copied: &Source,
        name: &str,
    ) -> Result<(), EnsureError> {
        let refused = |error| EnsureError::Refused(name.to_owned(), error);
        let namespace = vm.namespace().unwrap_or_default();
        if copied.is_claim() {
            let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), &copied.namespace);
            if claims.get_metadata_opt(&copied.name).await.map_err(refused)?.is_none() {
                let note = format!(
                    "Source PVC {} not available: Target PVC {name} will remain unpopulated until source is created",
                    copied.name
                );
                // KubeVirt's spelling.
                self.events.warning(vm, "SourcePVCNotAvailabe", &note).await;
            }
        }
        let account = service_account(&spec.template);
        if is_filled(&template.metadata.annotations)
            || may(&self.context.client, copied, &namespace, account).await.map_err(refused)?
        {
            return Ok(());
        }
        let error = EnsureError::Unauthorized(name.to_owned(), namespace, account.to_owned(), copied.namespace.clone());
        self.events.warning(vm, "UnauthorizedDataVolumeCreate", &error.to_string()).await;
        Err(error)
    }
}
