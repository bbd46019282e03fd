//! What is told of VirtualMachines and their instances: made when it is asked for, of what the reconcilers' watches remember.
//!
//! Only the replica that leads has those watches, so that each object is told of once. There is no second copy: an object
//! that is gone is told of no more.
//!
//! ```text
//!   guest      a VirtualMachine: its state, since when, its disks
//!   size       what it asks for
//!   instance   a VirtualMachineInstance: where it is, what runs in it, whether it may be moved
//!   interfaces the interfaces of both
//! ```

mod guest;
mod instance;
mod interfaces;
mod size;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::runtime::reflector::Store;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use serde::Serialize;
use vireo_runtimeclass::cluster::{KubeVirtConfiguration, VirtualMachine, VirtualMachineInstance};

use crate::{Settings, Watches};

/// What the reconcilers remember, while they do; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Objects(Arc<Mutex<Option<Known>>>);

#[derive(Debug, Clone)]
struct Known {
    guests: Store<VirtualMachine>,
    instances: Store<VirtualMachineInstance>,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    settings: Settings,
}

/// Objects are told of until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Told(Objects);

impl Drop for Told {
    fn drop(&mut self) {
        *self.0.known() = None;
    }
}

impl Objects {
    fn known(&self) -> std::sync::MutexGuard<'_, Option<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is watched is told of.
    pub fn tell(&self, watches: &Watches, settings: &Settings) -> Told {
        *self.known() = Some(Known {
            guests: watches.guests.store(),
            instances: watches.instances.store(),
            pods: watches.pods.store(),
            claims: watches.claims.store(),
            settings: settings.clone(),
        });
        Told(self.clone())
    }

    fn seen(&self) -> Seen {
        let Some(known) = self.known().clone() else { return Seen::default() };
        Seen {
            guests: known.guests.state(),
            instances: known.instances.state(),
            pods: known.pods.state(),
            claims: known.claims.state(),
            configuration: known.settings.now(),
        }
    }
}

impl Collector for Objects {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.seen().write(&mut encoder)
    }
}

/// What is seen when it is asked for.
#[derive(Debug, Default)]
struct Seen {
    guests: Vec<Arc<VirtualMachine>>,
    instances: Vec<Arc<VirtualMachineInstance>>,
    pods: Vec<Arc<Pod>>,
    claims: Vec<Arc<PersistentVolumeClaim>>,
    configuration: Arc<KubeVirtConfiguration>,
}

impl Seen {
    fn write(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let instances = by_name(&self.instances, |instance| &instance.metadata);
        let claims = by_name(&self.claims, |claim| &claim.metadata);
        guest::write(encoder, &self.guests, &instances, &claims)?;
        instance::write(encoder, &self.instances, &self.pods, &self.configuration)
    }
}

/// A namespace and a name.
type Name<'a> = (&'a str, &'a str);

fn by_name<K>(objects: &[Arc<K>], metadata: fn(&K) -> &kube::core::ObjectMeta) -> HashMap<Name<'_>, &K> {
    objects.iter().map(|object| (name(metadata(object)), object.as_ref())).collect()
}

/// An object's namespace and name.
fn name(metadata: &kube::core::ObjectMeta) -> Name<'_> {
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

/// A word of the API's.
pub(super) fn word(value: impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

/// What a template or an instance is annotated with: its system, what it is for, and its size, by KubeVirt's templates.
fn described<'a>(annotation: impl Fn(&str) -> Option<&'a str>) -> [(&'static str, &'a str); 3] {
    ["os", "workload", "flavor"].map(|name| (name, annotation(name).unwrap_or_default()))
}
