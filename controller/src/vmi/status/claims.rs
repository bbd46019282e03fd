//! Whether claims have what they should before a guest sees them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use vireo_runtimeclass::cluster::InstanceSpec;

/// CDI's note on a claim that it fills: how far the pod that does is.
const FILLING: &str = "cdi.kubevirt.io/storage.pod.phase";

/// Names of the DataVolumes of an instance.
pub(super) fn data_volumes(spec: &InstanceSpec) -> impl Iterator<Item = &str> {
    spec.machine.volumes.iter().filter_map(|volume| Some(volume.data_volume.as_ref()?.name.as_str()))
}

/// No claim of a DataVolume that is there is still being filled.
pub fn are_filled(spec: &InstanceSpec, claims: &BTreeMap<String, PersistentVolumeClaim>) -> bool {
    data_volumes(spec).filter_map(|name| claims.get(name)).all(|claim| {
        let phase = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(FILLING));
        phase.is_none_or(|phase| phase == "Succeeded")
    })
}

/// All claims of DataVolumes are there, filled and bound.
pub(super) fn are_ready(spec: &InstanceSpec, claims: &BTreeMap<String, PersistentVolumeClaim>) -> bool {
    let is_bound = |claim: &PersistentVolumeClaim| {
        claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
    };
    are_filled(spec, claims) && data_volumes(spec).all(|name| claims.get(name).is_some_and(is_bound))
}
