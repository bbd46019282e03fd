//! What is to be done, made, and said.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::{Resource as _, ResourceExt as _};
use vireo_runtimeclass::cluster::{
    Condition, ConditionStatus, InstancePhase, ReplicaSetSpec, ReplicaSetStatus, VirtualMachineInstance,
    VirtualMachineInstanceReplicaSet,
};

/// So many instances are made or deleted at most in one go.
const BURST: usize = 250;

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan<'a> {
    /// So many are to be made.
    pub missing: usize,
    /// These are to be deleted: there are too many, or they have ended.
    pub surplus: Vec<&'a VirtualMachineInstance>,
}

/// What is to be done with a replica set's own instances.
pub fn plan<'a>(spec: &ReplicaSetSpec, instances: &'a [VirtualMachineInstance]) -> Plan<'a> {
    if spec.paused == Some(true) {
        return Plan::default();
    }
    let wanted = spec.replicas.unwrap_or(1) as usize;
    let mut active: Vec<_> = instances.iter().filter(|instance| is_active(instance)).collect();
    let ended = instances.iter().filter(|instance| has_ended(instance) && !is_deleted(instance));
    // Those that have done least go first; of them the newest.
    active.sort_by_key(|instance| {
        (is_ready(instance), is_running(instance), std::cmp::Reverse(instance.metadata.creation_timestamp.clone()))
    });
    let surplus = active.len().saturating_sub(wanted);
    Plan {
        missing: wanted.saturating_sub(active.len()).min(BURST),
        surplus: active.into_iter().take(surplus).chain(ended).take(BURST).collect(),
    }
}

/// A new instance of a replica set.
///
/// # Errors
/// None with this crate's types.
pub fn make(
    set: &VirtualMachineInstanceReplicaSet,
    spec: &ReplicaSetSpec,
) -> serde_json::Result<VirtualMachineInstance> {
    let template = spec.template.clone();
    let metadata = ObjectMeta {
        generate_name: template.metadata.name.clone().or_else(|| set.metadata.name.clone()),
        namespace: set.namespace(),
        labels: Some(template.metadata.labels),
        annotations: Some(template.metadata.annotations),
        owner_references: Some(vec![OwnerReference {
            api_version: VirtualMachineInstanceReplicaSet::api_version(&()).into_owned(),
            kind: VirtualMachineInstanceReplicaSet::kind(&()).into_owned(),
            name: set.name_any(),
            uid: set.uid().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    };
    VirtualMachineInstance::new(metadata, &template.spec)
}

/// What a replica set's status is to be at `now`; `failure`: a reason and a message.
pub fn status(
    before: &ReplicaSetStatus,
    spec: &ReplicaSetSpec,
    instances: &[VirtualMachineInstance],
    failure: Option<(&str, &str)>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let active = instances.iter().filter(|instance| is_active(instance));
    let count = |count: usize| i64::try_from(count).ok();
    let since = |kind: &str, reason: &str, message: &str| {
        let same = before.conditions.iter().find(|condition| condition.kind == kind);
        Condition {
            kind: kind.to_owned(),
            status: ConditionStatus::True,
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: None,
            last_transition_time: same.and_then(|condition| condition.last_transition_time.clone()).or(Some(Time(now))),
        }
    };
    let paused = (spec.paused == Some(true)).then(|| since("ReplicaPaused", "Paused", "Controller got paused"));
    let failure = failure.map(|(reason, message)| since("ReplicaFailure", reason, message));
    ReplicaSetStatus {
        replicas: count(active.clone().count()),
        ready_replicas: count(active.filter(|instance| is_ready(instance)).count()),
        label_selector: Some(text(&spec.selector)),
        conditions: paused.into_iter().chain(failure).collect(),
    }
}

/// A selector as API servers read it in queries.
fn text(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let expressions = selector.match_expressions.iter().flatten().map(|expression| {
        let (key, values) =
            (&expression.key, expression.values.iter().flatten().cloned().collect::<Vec<_>>().join(","));
        match expression.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.clone(),
        }
    });
    labels.chain(expressions).collect::<Vec<_>>().join(",")
}

fn is_deleted(instance: &VirtualMachineInstance) -> bool {
    instance.metadata.deletion_timestamp.is_some()
}

fn phase(instance: &VirtualMachineInstance) -> Option<InstancePhase> {
    instance.status.as_ref().and_then(|status| status.phase)
}

fn has_ended(instance: &VirtualMachineInstance) -> bool {
    matches!(phase(instance), Some(InstancePhase::Succeeded | InstancePhase::Failed))
}

fn is_running(instance: &VirtualMachineInstance) -> bool {
    phase(instance) == Some(InstancePhase::Running)
}

fn ready(instance: &VirtualMachineInstance) -> Option<&Condition> {
    instance.status.as_ref()?.conditions.iter().find(|condition| condition.kind == "Ready")
}

fn is_ready(instance: &VirtualMachineInstance) -> bool {
    ready(instance).is_some_and(|ready| ready.status == ConditionStatus::True)
}

/// It counts: it has not ended, and nobody ends it.
fn is_active(instance: &VirtualMachineInstance) -> bool {
    let ends = ready(instance).is_some_and(|ready| {
        ready.status == ConditionStatus::False && ready.reason.as_deref() == Some("PodTerminating")
    });
    !has_ended(instance) && !is_deleted(instance) && !ends
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(replicas: Option<u32>, paused: bool) -> ReplicaSetSpec {
        serde_json::from_value(json!({
            "replicas": replicas, "paused": paused, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"domain": {"devices": {}}}},
        }))
        .unwrap()
    }

    fn instance(name: &str, phase: &str, ready: &Value, is_deleted: bool) -> VirtualMachineInstance {
        let mut instance: VirtualMachineInstance = serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "spec": {},
            "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"phase": phase, "conditions": [ready]},
        }))
        .unwrap();
        instance.metadata.deletion_timestamp = is_deleted.then_some(Time(Timestamp::UNIX_EPOCH));
        instance
    }

    fn some() -> Vec<VirtualMachineInstance> {
        let yes = json!({"type": "Ready", "status": "True"});
        let no = json!({"type": "Ready", "status": "False"});
        let ends = json!({"type": "Ready", "status": "False", "reason": "PodTerminating"});
        vec![
            instance("ready", "Running", &yes, false),
            instance("running", "Running", &no, false),
            instance("new", "Scheduling", &no, false),
            instance("ends", "Running", &ends, false),
            instance("deleted", "Running", &yes, true),
            instance("succeeded", "Succeeded", &no, false),
            instance("gone", "Failed", &no, true),
        ]
    }

    #[test]
    fn replicas_are_kept() {
        let instances = some();
        // Replicas; missing, surplus.
        let rows: [(Option<u32>, usize, &[&str]); 6] = [
            (Some(5), 2, &["succeeded"]),
            (Some(3), 0, &["succeeded"]),
            (Some(2), 0, &["new", "succeeded"]),
            (None, 0, &["new", "running", "succeeded"]),
            (Some(0), 0, &["new", "running", "ready", "succeeded"]),
            (Some(100_000), BURST, &["succeeded"]),
        ];
        for (replicas, missing, surplus) in rows {
            let plan = plan(&spec(replicas, false), &instances);
            let names: Vec<_> = plan.surplus.iter().map(|instance| instance.name_any()).collect();
            assert_eq!(
                (plan.missing, &names[..]),
                (missing, &surplus.iter().map(ToString::to_string).collect::<Vec<_>>()[..])
            );
        }
        assert_eq!(plan(&spec(Some(0), true), &instances), Plan::default());
    }

    #[test]
    fn a_status_counts_those_that_are_active() {
        let before = ReplicaSetStatus::default();
        let said =
            status(&before, &spec(Some(3), true), &some(), Some(("FailedCreate", "no room")), Timestamp::UNIX_EPOCH);
        assert_eq!((said.replicas, said.ready_replicas), (Some(3), Some(1)));
        assert_eq!(said.label_selector.as_deref(), Some("a=b"));
        let kinds: Vec<_> = said.conditions.iter().map(|condition| condition.kind.as_str()).collect();
        assert_eq!(kinds, ["ReplicaPaused", "ReplicaFailure"]);
        let later = Timestamp::from_second(60).unwrap();
        assert_eq!(status(&said, &spec(Some(3), true), &some(), Some(("FailedCreate", "no room")), later), said);
        assert!(status(&said, &spec(Some(3), false), &some(), None, later).conditions.is_empty());
    }

    #[test]
    fn selectors_are_written_as_queries() {
        let selector: LabelSelector = serde_json::from_value(json!({
            "matchLabels": {"a": "b"},
            "matchExpressions": [
                {"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "NotIn", "values": ["g"]},
                {"key": "h", "operator": "Exists"}, {"key": "i", "operator": "DoesNotExist"},
            ],
        }))
        .unwrap();
        assert_eq!(text(&selector), "a=b,c in (d,e),f notin (g),h,!i");
    }
}
