//! What is to be done for an instance. Pure.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{InstancePhase, InstanceStatus, VirtualMachineInstance};

use super::pod::{GRACE_PADDING, GRACE_PERIOD, NODE_NAME_LABEL, UNPAUSED};
use super::status::{is_finished, is_paused};

/// Keeps an instance until its pod is gone.
pub const FINALIZER: &str = "kubevirt.io/foregroundDeleteVirtualMachine";

/// What is to be done for an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing but to look on.
    Nothing,
    /// Keep it: without [`FINALIZER`] it would go before its pod does.
    Hold,
    /// Make its pod.
    Create,
    /// Tell its pod to go, within so many seconds if not within the pod's own.
    Delete {
        /// Seconds, from 1 on: within none the API server would forget a pod that still runs.
        within: Option<u32>,
    },
    /// Let it go.
    Release,
}

/// What is to be done for an instance that has this pod.
pub fn plan(vmi: &VirtualMachineInstance, pod: Option<&Pod>) -> Action {
    let phase = vmi.status.as_ref().and_then(|status| status.phase);
    let is_unprocessed = matches!(phase, None | Some(InstancePhase::Pending));
    match pod {
        None if vmi.metadata.deletion_timestamp.is_some() => Action::Release,
        Some(pod) if vmi.metadata.deletion_timestamp.is_some() => delete(vmi, pod),
        None if is_unprocessed && !has(vmi, FINALIZER) => Action::Hold,
        None if is_unprocessed => Action::Create,
        _ => Action::Nothing,
    }
}

/// Whether an object has a finalizer.
pub fn has(vmi: &VirtualMachineInstance, finalizer: &str) -> bool {
    vmi.metadata.finalizers.iter().flatten().any(|name| name == finalizer)
}

fn delete(vmi: &VirtualMachineInstance, pod: &Pod) -> Action {
    let wanted =
        vmi.unread.value().get("terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(GRACE_PERIOD);
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    // A shorter time than the pod was made with: somebody doesn't want to wait that long any more.
    let is_shorter = own.is_some_and(|own| wanted + GRACE_PADDING < own);
    let within = is_shorter.then(|| u32::try_from(wanted).unwrap_or(u32::MAX).max(1));
    let going = pod.metadata.deletion_timestamp.is_some();
    let left = pod.metadata.deletion_grace_period_seconds;
    match within {
        Some(within) if going && left.is_some_and(|left| left <= i64::from(within)) => Action::Nothing,
        Some(_) => Action::Delete { within },
        None if going => Action::Nothing,
        None => Action::Delete { within: None },
    }
}

/// What of a pod's status is the controller's, where that differs: whether its guest goes on. The label with the node comes
/// along, which the status' own path takes as well.
pub fn gate(pod: &Pod, status: &InstanceStatus, now: Timestamp) -> Option<Value> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty())?;
    if is_finished(pod) || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let (wanted, reason, message) = if is_paused(status) {
        ("False", "Paused", "the virtual machine is paused")
    } else {
        ("True", "NotPaused", "the virtual machine is not paused")
    };
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let is = conditions.into_iter().flatten().find(|condition| condition.type_ == UNPAUSED);
    if is.is_some_and(|condition| condition.status == wanted) {
        return None;
    }
    Some(json!({
        "metadata": {"labels": {NODE_NAME_LABEL: node}},
        "status": {"conditions": [{
            "type": UNPAUSED, "status": wanted, "reason": reason, "message": message, "lastTransitionTime": now,
        }]},
    }))
}

/// The node that an instance's label is to name, where it doesn't.
pub fn node_label<'a>(vmi: &VirtualMachineInstance, status: &'a InstanceStatus) -> Option<&'a str> {
    let node = status.node_name.as_deref().filter(|_| status.phase == Some(InstancePhase::Running))?;
    let label = vmi.metadata.labels.as_ref().and_then(|labels| labels.get(NODE_NAME_LABEL));
    (label.map(String::as_str) != Some(node)).then_some(node)
}

/// The merge patch that makes `new` of `old`; none where they are the same.
pub fn difference(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(fields)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = serde_json::Map::new();
    for name in old.keys().filter(|name| !fields.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in fields {
        let changed = match old.get(name) {
            Some(old) => difference(old, value),
            None => Some(value.clone()),
        };
        patch.extend(changed.map(|value| (name.clone(), value)));
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vmi(changes: &Value) -> VirtualMachineInstance {
        let mut vmi = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "web", "finalizers": [FINALIZER]}, "spec": {},
        });
        json_patch::merge(&mut vmi, changes);
        serde_json::from_value(vmi).unwrap()
    }

    fn pod(changes: &Value) -> Pod {
        let mut pod = json!({"metadata": {}, "spec": {"containers": [], "terminationGracePeriodSeconds": 45}});
        json_patch::merge(&mut pod, changes);
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn what_is_to_be_done() {
        let deleted = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        let going = |left: i64| json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": left}});
        let quickly = |seconds: u32| json!({"metadata": deleted, "spec": {"terminationGracePeriodSeconds": seconds}});
        let phase = |phase: &str| json!({"status": {"phase": phase}});
        for (instance, its_pod, expected) in [
            (json!({}), None, Action::Create),
            (phase("Pending"), None, Action::Create),
            (json!({"metadata": {"finalizers": null}}), None, Action::Hold),
            (phase("Scheduling"), None, Action::Nothing),
            (phase("Failed"), None, Action::Nothing),
            (phase("Pending"), Some(json!({})), Action::Nothing),
            (json!({"metadata": deleted}), None, Action::Release),
            (json!({"metadata": deleted}), Some(json!({})), Action::Delete { within: None }),
            (json!({"metadata": deleted}), Some(going(45)), Action::Nothing),
            (quickly(0), Some(json!({})), Action::Delete { within: Some(1) }),
            (quickly(5), Some(going(45)), Action::Delete { within: Some(5) }),
            (quickly(5), Some(going(5)), Action::Nothing),
            (quickly(600), Some(json!({})), Action::Delete { within: None }),
        ] {
            assert_eq!(plan(&vmi(&instance), its_pod.as_ref().map(pod).as_ref()), expected, "{instance} {its_pod:?}");
        }
    }

    #[test]
    fn the_gate_is_open_unless_the_guest_stands_still() {
        let running = InstanceStatus::default();
        let paused: InstanceStatus =
            serde_json::from_value(json!({"conditions": [{"type": "Paused", "status": "True"}]})).unwrap();
        let wanted = |pod: &Pod, status: &InstanceStatus| {
            let patch = gate(pod, status, Timestamp::UNIX_EPOCH)?;
            Some(patch["status"]["conditions"][0]["status"].as_str().unwrap().to_owned())
        };
        let on = |status: &str| {
            let conditions = json!([{"type": UNPAUSED, "status": status}]);
            pod(&json!({"spec": {"nodeName": "n"}, "status": {"conditions": conditions}}))
        };
        assert_eq!(wanted(&pod(&json!({})), &running), None, "no node has it yet");
        assert_eq!(wanted(&pod(&json!({"spec": {"nodeName": "n"}})), &running).as_deref(), Some("True"));
        assert_eq!(wanted(&pod(&json!({"spec": {"nodeName": "n"}})), &paused).as_deref(), Some("False"));
        assert_eq!(wanted(&on("True"), &running), None);
        assert_eq!(wanted(&on("True"), &paused).as_deref(), Some("False"));
        assert_eq!(wanted(&on("False"), &running).as_deref(), Some("True"));
        let over = pod(&json!({"spec": {"nodeName": "n"}, "status": {"phase": "Failed"}}));
        assert_eq!(wanted(&over, &running), None);
    }

    #[test]
    fn a_difference_makes_the_one_of_the_other() {
        for (old, new, expected) in [
            (json!({"a": 1}), json!({"a": 1}), None),
            (
                json!({"a": 1, "b": {"c": 2, "d": 3}}),
                json!({"b": {"c": 2, "d": 4}}),
                Some(json!({"a": null, "b": {"d": 4}})),
            ),
            (json!({"a": [1, 2]}), json!({"a": [1], "b": {}}), Some(json!({"a": [1], "b": {}}))),
        ] {
            let patch = difference(&old, &new);
            assert_eq!(patch, expected);
            let mut made = old;
            json_patch::merge(&mut made, &patch.unwrap_or_else(|| json!({})));
            assert_eq!(made, new);
        }
    }
}
