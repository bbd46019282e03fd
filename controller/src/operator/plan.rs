//! From what there should be and what there is to what is to be written.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::release::hash;

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) kind: String,
    /// Empty where its kind has none.
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    pub(super) fn of(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        Self { kind: text(&object["kind"]), namespace: text(&metadata["namespace"]), name: text(&metadata["name"]) }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// An object as it was seen: all of it that decides anything.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    /// Which content it has: its generation, where its kind counts them, for a status has its own life; else the resource version.
    pub(super) content: String,
    /// It is on its way out.
    pub(super) is_going: bool,
    /// Where its kind counts them.
    pub(super) generation: Option<i64>,
    /// `spec.replicas`, where its kind has them.
    pub(super) replicas: Option<i64>,
    pub(super) status: Value,
}

impl Seen {
    pub(super) fn of(object: &Value) -> Self {
        let metadata = &object["metadata"];
        let generation = metadata["generation"].as_i64();
        let version = metadata["resourceVersion"].as_str().unwrap_or_default();
        Self {
            content: generation.map_or_else(|| version.to_owned(), |generation| format!("generation {generation}")),
            is_going: metadata["deletionTimestamp"].is_string(),
            generation,
            replicas: object["spec"]["replicas"].as_i64(),
            status: object["status"].clone(),
        }
    }
}

/// Everything that bears the operator's label.
pub(super) type Observed = BTreeMap<Key, Seen>;

/// What was applied last: its hash, and which content the object had then.
pub(super) type Applied = BTreeMap<Key, (String, String)>;

/// What is to be written.
#[derive(Debug, PartialEq)]
pub(super) struct Plan<'a> {
    /// To be applied, in this order, each with its hash.
    pub(super) apply: Vec<(Key, String, &'a Value)>,
    /// To be removed.
    pub(super) remove: Vec<Key>,
}

/// What is to be written for `desired`.
pub(super) fn plan<'a>(desired: &'a [Value], observed: &Observed, applied: &Applied) -> Plan<'a> {
    let keys: BTreeSet<_> = desired.iter().map(Key::of).collect();
    let apply = desired.iter().filter_map(|object| {
        let (key, hash) = (Key::of(object), hash(object));
        let is_as_applied = observed
            .get(&key)
            .zip(applied.get(&key))
            .is_some_and(|(seen, (then, content))| *then == hash && (seen.content == *content || seen.is_going));
        (!is_as_applied).then_some((key, hash, object))
    });
    let unwanted = observed.iter().filter(|(key, seen)| !keys.contains(key) && !seen.is_going);
    Plan { apply: apply.collect(), remove: unwanted.map(|(key, _)| key.clone()).collect() }
}
