//! What guests are reconciled on, and what of it is remembered.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::core::DynamicObject;
use kube::runtime::conditions::is_crd_established;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::wait::await_condition;
use kube::runtime::{Controller, WatchStreamExt as _, controller, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tracing::{debug, warn};
use vireo_runtimeclass::cluster::{VirtualMachine, VirtualMachineInstance, VirtualMachineSpec};

use super::Storage;
use super::reconcile::{Error, reconcile};
use super::revisions::Revisions;
use crate::Context;
use crate::data_volume;
use crate::events::Events;
use crate::instancetype::{self, FindError, Sizing};
use crate::metrics::Queue;
use crate::retry::Retries;
use crate::superseded::Superseded;
use crate::watches::{self, Ready, Watches};

/// So many guests are seen to at a time.
const CONCURRENCY: u16 = 32;
/// After a conflict, where the newer version doesn't come by itself.
const STALE: Duration = Duration::from_secs(2);

/// After a watch that failed at once.
const RETRY: Duration = Duration::from_secs(10);

/// All guests.
#[derive(Debug)]
pub(super) struct Guests {
    pub(super) context: Context,
    pub(super) events: Events,
    pub(super) instances: Store<VirtualMachineInstance>,
    /// Empty where CDI isn't installed.
    pub(super) data_volumes: Store<DynamicObject>,
    pub(super) claims: Store<PersistentVolumeClaim>,
    pub(super) retries: Retries<ObjectRef<VirtualMachine>>,
    pub(super) superseded: Superseded,
    pub(super) ready: Ready,
}

/// Keeps every `VirtualMachine` of the cluster as its spec wants it, for as long as it is polled, once `watches` run.
pub fn run(context: Context, watches: &mut Watches) -> impl Future<Output = ()> + Send + use<> {
    let client = context.client.clone();
    let (guests, instances, claims) = (watches.guests.store(), watches.instances.store(), watches.claims.store());
    let writer = Writer::new(data_volume::resource());
    let data_volumes = writer.as_reader();
    let data_volumes_changes = data_volumes_of(client.clone()).reflect(writer).touched_objects();
    let settings = stream::unfold(context.settings.clone(), |mut settings| async move {
        settings.changed().await;
        Some(((), settings))
    });
    let events = Events::new(&context);
    let state = Guests {
        events,
        context,
        instances,
        data_volumes,
        claims,
        retries: Retries::default(),
        superseded: Superseded::default(),
        ready: watches.ready(),
    };
    let (using_claims, using_data_volumes) = (guests.clone(), guests.clone());
    Controller::for_shared_stream(watches.guests.follow(), guests)
        .owns_shared_stream(watches.instances.follow())
        .watches_shared_stream(watches.claims.follow(), move |claim| users(&using_claims, &*claim))
        .watches_stream_with(
            data_volumes_changes,
            move |volume| users(&using_data_volumes, &volume),
            data_volume::resource(),
        )
        .reconcile_all_on(settings)
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .run(reconcile, failed, Arc::new(state))
        .for_each(|done| async move {
            match done {
                Ok(_) | Err(controller::Error::ReconcilerFailed(..) | controller::Error::ObjectNotFound(_)) => {}
                Err(error) => warn!("guests: {error}"),
            }
        })
}

#[allow(clippy::needless_pass_by_value, reason = "kube's signature")]
fn failed(vm: Arc<VirtualMachine>, error: &Error, guests: Arc<Guests>) -> controller::Action {
    let key = ObjectRef::from_obj(&*vm);
    match error {
        Error::Stale => {
            debug!("{key}: {error}");
            controller::Action::requeue(STALE)
        }
        Error::Failed(_) | Error::Api(_) => {
            warn!("{key}: {error}");
            guests.context.metrics.work.retried(Queue::Guests);
            controller::Action::requeue(guests.retries.failed(key))
        }
    }
}

/// DataVolumes, from when CDI is there on.
fn data_volumes_of(client: Client) -> impl Stream<Item = watcher::Result<watcher::Event<DynamicObject>>> + Send {
    let is_there = stream::once({
        let client = client.clone();
        async move {
            let definitions: Api<CustomResourceDefinition> = Api::all(client);
            while let Err(error) = await_condition(definitions.clone(), data_volume::CRD, is_crd_established()).await {
                warn!("can't watch for {}: {error}", data_volume::CRD);
                tokio::time::sleep(RETRY).await;
            }
        }
    });
    is_there.flat_map(move |()| {
        let volumes: Api<DynamicObject> = Api::all_with(client.clone(), &data_volume::resource());
        watcher(volumes, watches::config()).default_backoff().modify(|volume| {
            volume.metadata.managed_fields = None;
            volume.data = json!({"status": volume.data.get("status")});
        })
    })
}

/// Guests one of whose volumes, or templates of volumes, is of this name.
fn users(guests: &Store<VirtualMachine>, volume: &impl ResourceExt) -> Vec<ObjectRef<VirtualMachine>> {
    let (namespace, name) = (volume.namespace(), volume.name_any());
    let uses = |vm: &VirtualMachine| {
        vm.metadata.namespace == namespace && vm.unread.may_name(&name) && names(&vm.unread.value(), &name)
    };
    guests.state_filter(uses).iter().map(|vm| ObjectRef::from_obj(&**vm)).collect()
}

/// Whether a guest's spec, which may be anything, names a claim or a DataVolume.
fn names(spec: &Value, name: &str) -> bool {
    let list = |path| spec.pointer(path).and_then(Value::as_array).into_iter().flatten();
    let paths = ["/persistentVolumeClaim/claimName", "/dataVolume/name", "/ephemeral/persistentVolumeClaim/claimName"];
    let is = |value: Option<&Value>| value.and_then(Value::as_str) == Some(name);
    list("/template/spec/volumes").any(|volume| paths.iter().any(|path| is(volume.pointer(path))))
        || list("/dataVolumeTemplates").any(|template| is(template.pointer("/metadata/name")))
}

impl Guests {
    pub(super) fn guests_of(&self, namespace: &str) -> Api<VirtualMachine> {
        Api::namespaced(self.context.client.clone(), namespace)
    }

    pub(super) fn instances_of(&self, namespace: &str) -> Api<VirtualMachineInstance> {
        Api::namespaced(self.context.client.clone(), namespace)
    }

    pub(super) fn revisions(&self, namespace: &str) -> Revisions {
        Revisions(Api::<ControllerRevision>::namespaced(self.context.client.clone(), namespace))
    }

    /// What is seen of a guest's volumes.
    pub(super) fn storage(&self, namespace: &str, spec: &VirtualMachineSpec) -> Storage {
        let volume =
            |name: &str| self.data_volumes.get(&ObjectRef::new_with(name, data_volume::resource()).within(namespace));
        let is_bound = |name: &str| {
            let claim = self.claims.get(&ObjectRef::new(name).within(namespace))?;
            Some(claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound"))
        };
        data_volume::storage(&spec.template.spec.machine.volumes, volume, is_bound)
    }

    /// What a spec of before names.
    pub(super) async fn sizing_at(&self, namespace: &str, spec: &VirtualMachineSpec) -> Result<Sizing, FindError> {
        let client = &self.context.client;
        Ok(Sizing {
            instancetype: instancetype::instancetype(client, namespace, spec.instancetype.as_ref(), None).await?,
            preference: instancetype::preference(client, namespace, spec.preference.as_ref(), None).await?,
            ..Sizing::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_looked_at_again_when_a_volume_of_its_changes() {
        let spec = json!({
            "template": {"spec": {"volumes": [
                {"name": "v", "persistentVolumeClaim": {"claimName": "a"}}, {"name": "w", "dataVolume": {"name": "b"}},
                {"name": "x", "ephemeral": {"persistentVolumeClaim": {"claimName": "c"}}},
            ]}},
            "dataVolumeTemplates": [{"metadata": {"name": "d"}}],
        });
        for name in ["a", "b", "c", "d"] {
            assert!(names(&spec, name), "{name}");
        }
        for name in ["v", "w", "x", "e", ""] {
            assert!(!names(&spec, name), "{name}");
        }
        assert!(!names(&json!({"template": 3, "dataVolumeTemplates": [null]}), "a"));
    }
}
