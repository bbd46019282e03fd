//! Which instances are looked at when something else changes.

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube::runtime::reflector::{ObjectRef, Store};
use serde_json::Value;
use vireo_runtimeclass::cluster::VirtualMachineInstance;

use super::super::pod::claim;

/// Names of an instance's claims, whether or not the rest of its spec can be read.
pub(super) fn claims_of(vmi: &VirtualMachineInstance) -> impl Iterator<Item = String> {
    let volumes = match vmi.unread.value().get_mut("volumes").map(Value::take) {
        Some(Value::Array(volumes)) => volumes,
        _ => Vec::new(),
    };
    volumes
        .into_iter()
        .filter_map(|volume| serde_json::from_value::<vireo_runtimeclass::kubevirt::v1::Volume>(volume).ok())
        .filter_map(|volume| volume.sources().next().and_then(|shown| claim(&shown).map(|(name, _)| name.to_owned())))
}

/// The instances that have a claim.
pub(super) fn with_claim(
    instances: &Store<VirtualMachineInstance>,
    claim: &PersistentVolumeClaim,
) -> Vec<ObjectRef<VirtualMachineInstance>> {
    let (namespace, name) = (claim.metadata.namespace.as_deref(), claim.metadata.name.as_deref());
    let has = |vmi: &VirtualMachineInstance| {
        vmi.metadata.namespace.as_deref() == namespace
            // Of each claim every instance is asked.
            && name.is_some_and(|name| vmi.unread.may_name(name))
            && claims_of(vmi).any(|claim| Some(claim.as_str()) == name)
    };
    let instances = instances.state();
    instances.iter().filter(|vmi| has(vmi)).map(|vmi| ObjectRef::from_obj(vmi.as_ref())).collect()
}

/// Why a pod's volumes can't be mounted: what was said last.
pub(super) fn why_not_mounted(events: &Store<Event>, pod: &Pod) -> Option<String> {
    let uid = pod.metadata.uid.as_ref()?;
    let of = events.state_filter(|event| event.involved_object.uid.as_ref() == Some(uid));
    let said = |event: &Event| {
        let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
        let at = series.or(event.event_time.as_ref()).map(|time| time.0);
        event.last_timestamp.as_ref().map(|time| time.0).max(at)
    };
    of.iter().max_by_key(|event| said(event)).and_then(|event| event.message.clone())
}

/// The instance of the pod that an event is about.
pub(super) fn of_event(pods: &Store<Pod>, event: &Event) -> Option<ObjectRef<VirtualMachineInstance>> {
    let (name, namespace) = (event.involved_object.name.as_deref()?, event.involved_object.namespace.as_deref()?);
    let pod = pods.get(&ObjectRef::new(name).within(namespace))?;
    let mut owners = pod.metadata.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true) && owner.kind == "VirtualMachineInstance")?;
    Some(ObjectRef::new(&owner.name).within(namespace))
}

/// What comes out of a channel, as references to instances.
pub(super) fn told(
    mut channel: tokio::sync::mpsc::UnboundedReceiver<(String, String)>,
) -> impl Stream<Item = ObjectRef<VirtualMachineInstance>> + Send {
    futures_util::stream::poll_fn(move |context| channel.poll_recv(context))
        .map(|(namespace, name)| ObjectRef::new(&name).within(&namespace))
}
