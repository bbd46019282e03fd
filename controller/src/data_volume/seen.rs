//! What is seen of a guest's volumes.

use kube::core::DynamicObject;
use serde_json::Value;
use vireo_runtimeclass::kubevirt::v1::Volume;

use crate::vm::Storage;

/// How far a DataVolume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// A pod may use it.
    Ready,
    /// It is being filled.
    Waiting,
    /// It failed; CDI tries again.
    Failed,
    /// There is no room for it, for this reason.
    NoQuota(String),
}

/// How far a DataVolume is.
pub fn state(volume: &DynamicObject) -> State {
    match phase(volume) {
        "Succeeded" | "WaitForFirstConsumer" | "PendingPopulation" => State::Ready,
        "Failed" => State::Failed,
        "Pending" => match condition(volume, "Bound") {
            Some(bound) if bound["status"] != "True" && bound["reason"] == "ErrExceededQuota" => {
                State::NoQuota(bound["message"].as_str().unwrap_or_default().to_owned())
            }
            _ => State::Waiting,
        },
        _ => State::Waiting,
    }
}

/// What a guest's status says of its volumes. `data_volume` is one by its name, `is_bound` a claim: none where there is none.
pub fn storage(
    volumes: &[Volume],
    data_volume: impl Fn(&str) -> Option<std::sync::Arc<DynamicObject>>,
    is_bound: impl Fn(&str) -> Option<bool>,
) -> Storage {
    let mut storage = Storage::default();
    for volume in volumes {
        if let Some(found) = volume.data_volume.as_ref().and_then(|source| data_volume(&source.name)) {
            storage.has_failed |= has_failed(&found);
            storage.is_provisioning |= is_provisioning(&found);
        }
        storage.is_unbound |= claim(volume).and_then(&is_bound) == Some(false);
    }
    storage
}

/// The claim that a volume is.
pub(crate) fn claim(volume: &Volume) -> Option<&str> {
    let claim = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.as_str());
    let ephemeral = || Some(volume.ephemeral.as_ref()?.persistent_volume_claim.as_ref()?.claim_name.as_str());
    claim.or_else(ephemeral).or_else(|| volume.data_volume.as_ref().map(|source| source.name.as_str()))
}

fn has_failed(volume: &DynamicObject) -> bool {
    let running = condition(volume, "Running");
    phase(volume) == "Failed"
        || running.is_some_and(|running| {
            running["status"] == "False" && (running["reason"] == "Error" || running["reason"] == "ImagePullFailed")
        })
}

fn is_provisioning(volume: &DynamicObject) -> bool {
    let is_bound = condition(volume, "Bound").is_some_and(|bound| bound["status"] == "True");
    match phase(volume) {
        "Succeeded" | "PendingPopulation" => false,
        "WaitForFirstConsumer" => is_bound,
        _ => true,
    }
}

fn phase(volume: &DynamicObject) -> &str {
    volume.data.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default()
}

fn condition<'a>(volume: &'a DynamicObject, kind: &str) -> Option<&'a Value> {
    let conditions = volume.data.pointer("/status/conditions").and_then(Value::as_array)?;
    conditions.iter().find(|condition| condition["type"] == kind)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn data_volume(status: &Value) -> DynamicObject {
        serde_json::from_value(json!({"metadata": {"name": "d"}, "status": status})).unwrap()
    }

    #[test]
    fn what_each_phase_means() {
        let is = |kind: &str, status: &str, reason: &str| json!([{"type": kind, "status": status, "reason": reason, "message": "m"}]);
        // Status; state; failed, provisioning.
        let rows = [
            (json!({}), State::Waiting, (false, true)),
            (json!({"phase": "Pending"}), State::Waiting, (false, true)),
            (
                json!({"phase": "Pending", "conditions": is("Bound", "False", "ErrExceededQuota")}),
                State::NoQuota("m".to_owned()),
                (false, true),
            ),
            (json!({"phase": "ImportInProgress"}), State::Waiting, (false, true)),
            (
                json!({"phase": "ImportInProgress", "conditions": is("Running", "False", "Error")}),
                State::Waiting,
                (true, true),
            ),
            (
                json!({"phase": "ImportScheduled", "conditions": is("Running", "False", "ImagePullFailed")}),
                State::Waiting,
                (true, true),
            ),
            (json!({"phase": "Failed"}), State::Failed, (true, true)),
            (json!({"phase": "WaitForFirstConsumer"}), State::Ready, (false, false)),
            (
                json!({"phase": "WaitForFirstConsumer", "conditions": is("Bound", "True", "Bound")}),
                State::Ready,
                (false, true),
            ),
            (json!({"phase": "PendingPopulation"}), State::Ready, (false, false)),
            (json!({"phase": "Succeeded"}), State::Ready, (false, false)),
        ];
        let volumes: Vec<Volume> =
            serde_json::from_value(json!([{"name": "a", "dataVolume": {"name": "d"}}, {"name": "b"}])).unwrap();
        for (status, expected, (has_failed, is_provisioning)) in rows {
            let seen = data_volume(&status);
            assert_eq!(state(&seen), expected, "{status}");
            let seen = Arc::new(seen);
            let told = storage(&volumes, |_| Some(Arc::clone(&seen)), |_| Some(true));
            assert_eq!(told, Storage { has_failed, is_provisioning, is_unbound: false }, "{status}");
        }
    }

    #[test]
    fn a_claim_that_is_not_there_is_not_unbound() {
        let volumes: Vec<Volume> = serde_json::from_value(json!([
            {"name": "a", "persistentVolumeClaim": {"claimName": "one"}},
            {"name": "b", "ephemeral": {"persistentVolumeClaim": {"claimName": "two"}}},
        ]))
        .unwrap();
        let unbound = |states: [Option<bool>; 2]| {
            storage(&volumes, |_| None, |name| if name == "one" { states[0] } else { states[1] }).is_unbound
        };
        assert!(!unbound([None, None]));
        assert!(!unbound([Some(true), None]));
        assert!(unbound([Some(true), Some(false)]));
        assert!(unbound([Some(false), None]));
    }
}
