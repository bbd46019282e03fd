//! What of each object is kept: what a reconciler reads.

use k8s_openapi::api::core::v1::{Container, Event, PersistentVolumeClaim, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use vireo_runtimeclass::cluster::{VirtualMachine, VirtualMachineInstance};

use crate::vmi::pod::{CREATED_BY_LABEL, LAUNCHER, NODE_NAME_LABEL};
use crate::vmi::status::NETWORK_STATUS;

/// kubectl's copy of the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Who wrote what is as long as the object itself.
fn metadata(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

pub(super) fn guest(vm: &mut VirtualMachine) {
    metadata(&mut vm.metadata);
}

pub(super) fn instance(vmi: &mut VirtualMachineInstance) {
    metadata(&mut vmi.metadata);
}

pub(super) fn pod(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.retain(|name, _| name == NETWORK_STATUS);
    }
    if let Some(labels) = &mut pod.metadata.labels {
        labels.retain(|name, _| [CREATED_BY_LABEL, NODE_NAME_LABEL].contains(&name.as_str()));
    }
    pod.spec = pod.spec.take().map(|spec| PodSpec {
        containers: spec
            .containers
            .into_iter()
            .map(|Container { name, .. }| Container { name, ..Container::default() })
            .collect(),
        node_name: spec.node_name,
        overhead: spec.overhead,
        termination_grace_period_seconds: spec.termination_grace_period_seconds,
        ..PodSpec::default()
    });
    pod.status = pod.status.take().map(|status| PodStatus {
        conditions: status.conditions,
        container_statuses: status.container_statuses,
        message: status.message,
        phase: status.phase,
        pod_ip: status.pod_ip,
        pod_ips: status.pod_ips,
        qos_class: status.qos_class,
        reason: status.reason,
        ..PodStatus::default()
    });
}

pub(super) fn claim(claim: &mut PersistentVolumeClaim) {
    metadata(&mut claim.metadata);
    (claim.metadata.labels, claim.metadata.owner_references) = (None, None);
}

pub(super) fn mount(event: &mut Event) {
    metadata(&mut event.metadata);
    // Another's pod is none of ours.
    if !event.involved_object.name.as_ref().is_some_and(|name| name.starts_with(LAUNCHER)) {
        event.message = None;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_where_and_how_and_whose_it_is() {
        let mut seen: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "p", "uid": "u", "managedFields": [{"manager": "m"}],
                "labels": {CREATED_BY_LABEL: "v", "app": "web"},
                "annotations": {NETWORK_STATUS: "[]", "vireo.dev/vmi": "{}"},
            },
            "spec": {
                "nodeName": "n", "terminationGracePeriodSeconds": 45, "overhead": {"memory": "16Mi"},
                "containers": [{"name": "compute", "image": "i", "env": [{"name": "A", "value": "b"}]}],
                "tolerations": [{"key": "k"}], "volumes": [{"name": "v"}],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.1", "hostIP": "10.0.0.2"},
        }))
        .unwrap();
        pod(&mut seen);
        let expected = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "uid": "u", "labels": {CREATED_BY_LABEL: "v"}, "annotations": {NETWORK_STATUS: "[]"}},
            "spec": {
                "nodeName": "n", "terminationGracePeriodSeconds": 45, "overhead": {"memory": "16Mi"},
                "containers": [{"name": "compute"}],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.1"},
        });
        assert_eq!(serde_json::to_value(&seen).unwrap(), expected);
    }

    #[test]
    fn what_kubectl_notes_of_an_object_is_not_kept() {
        let mut seen: VirtualMachine = serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "spec": {"runStrategy": "Always"},
            "metadata": {"name": "a", "annotations": {LAST_APPLIED: "{}", "b": "c"}, "managedFields": [{"manager": "m"}]},
        }))
        .unwrap();
        guest(&mut seen);
        let expected = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "spec": {"runStrategy": "Always"},
            "metadata": {"name": "a", "annotations": {"b": "c"}},
        });
        assert_eq!(serde_json::to_value(&seen).unwrap(), expected);
    }
}
