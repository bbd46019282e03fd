//! What a change of a running guest's template does: whether it takes a restart.

use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{InstanceTemplate, RolloutStrategy};

/// What a running instance takes over as it is: where its guest may go.
pub(super) const LIVE: [&str; 3] = ["nodeSelector", "affinity", "tolerations"];

/// Whether `now`, which is expanded, differs from `started`, which its instance was made from, in what takes a restart.
/// `uuid`: the instance's, which is no change where it was written down afterwards.
pub fn restart_required(
    started: &InstanceTemplate,
    now: &InstanceTemplate,
    uuid: Option<&str>,
    strategy: RolloutStrategy,
) -> bool {
    let compared = |template: &InstanceTemplate| {
        let mut spec = json!(template.spec);
        let written = template.spec.machine.domain.firmware.as_ref().and_then(|firmware| firmware.uuid.as_deref());
        if let (None, Some(uuid)) = (written, uuid) {
            spec["domain"]["firmware"]["uuid"] = json!(uuid);
        }
        if strategy == RolloutStrategy::LiveUpdate {
            for field in LIVE {
                spec[field] = Value::Null;
            }
        }
        spec
    };
    compared(started) != compared(now)
}

/// A merge patch that makes an instance's spec go where `now` says; none where it does already.
pub fn live_update(instance: &Value, now: &InstanceTemplate) -> Option<Value> {
    let spec = json!(now.spec);
    let changed: serde_json::Map<_, _> = LIVE
        .into_iter()
        .filter(|field| spec.get(field) != instance.get(field))
        .map(|field| (field.to_owned(), spec.get(field).cloned().unwrap_or_default()))
        .collect();
    (!changed.is_empty()).then(|| json!({ "spec": changed }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::needless_pass_by_value, reason = "rows are written where they are used")]
    fn template(spec: Value) -> InstanceTemplate {
        let mut whole = json!({"domain": {"devices": {}}});
        json_patch::merge(&mut whole, &spec);
        serde_json::from_value(json!({ "spec": whole })).unwrap()
    }

    #[test]
    fn what_takes_a_restart() {
        use RolloutStrategy::{LiveUpdate, Stage};
        let uuid = "11111111-2222-4333-8444-555555555555";
        let firmware = |uuid: &str| json!({"domain": {"firmware": {"uuid": uuid}}});
        // What was, what is, and whether each strategy wants a restart.
        let rows = [
            (json!({}), json!({}), [false, false]),
            (json!({}), json!({"nodeSelector": {"a": "b"}}), [true, false]),
            (json!({"nodeSelector": {"a": "b"}}), json!({}), [true, false]),
            (json!({}), json!({"affinity": {}}), [true, false]),
            (json!({}), json!({"tolerations": [{"key": "a"}]}), [true, false]),
            (json!({}), json!({"domain": {"cpu": {"sockets": 2}}}), [true, true]),
            (json!({}), json!({"domain": {"memory": {"guest": "2Gi"}}}), [true, true]),
            (json!({}), json!({"hostname": "other"}), [true, true]),
            (json!({}), json!({"terminationGracePeriodSeconds": 5}), [true, true]),
            (json!({}), firmware(uuid), [false, false]),
            (json!({}), firmware("00000000-2222-4333-8444-555555555555"), [true, true]),
        ];
        for (started, now, expected) in rows {
            let required = [Stage, LiveUpdate].map(|strategy| {
                restart_required(&template(started.clone()), &template(now.clone()), Some(uuid), strategy)
            });
            assert_eq!(required, expected, "{started} {now}");
        }
    }

    #[test]
    fn where_a_guest_may_go_is_taken_over() {
        let now = template(json!({"nodeSelector": {"a": "b"}}));
        assert_eq!(live_update(&json!({"nodeSelector": {"a": "b"}, "hostname": "x"}), &now), None);
        let patch = json!({"spec": {"nodeSelector": {"a": "b"}, "tolerations": null}});
        assert_eq!(live_update(&json!({"tolerations": [{"key": "a"}]}), &now), Some(patch));
    }
}
