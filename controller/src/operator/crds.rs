//! The kinds.

use serde_json::Value;

/// The CRD of the object that the operator acts on: whoever installs the operator brings it.
const OWN: &str = "kubevirts.kubevirt.io";

fn read() -> Vec<Value> {
    const ALL: &str = include_str!(concat!(env!("OUT_DIR"), "/crds.json"));
    // A test reads them.
    serde_json::from_str(ALL).unwrap_or_default()
}

/// The CRDs that the operator applies.
pub(super) fn all() -> Vec<Value> {
    read().into_iter().filter(|crd| crd["metadata"]["name"] != OWN).collect()
}

/// Their names.
#[cfg(test)]
pub(super) fn names() -> Vec<String> {
    all().iter().filter_map(|crd| crd["metadata"]["name"].as_str().map(str::to_owned)).collect()
}

/// The CRD that the operator acts on.
#[cfg(test)]
pub(super) fn own() -> Value {
    read().into_iter().find(|crd| crd["metadata"]["name"] == OWN).unwrap()
}
