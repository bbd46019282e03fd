//! Rules on replica sets.

use kube::core::{Selector, SelectorExt as _};
use vireo_runtimeclass::cluster::ReplicaSetSpec;

use super::selectors::label_selector;
use crate::admission::verdict::Found;

/// A set finds its own instances.
pub(crate) fn replicas(spec: &ReplicaSetSpec, found: &mut Found) {
    label_selector(&spec.selector, "spec.selector", found);
    match Selector::try_from(spec.selector.clone()) {
        // Which would take everybody's instances for the set's own.
        Ok(selector) if selector.selects_all() => found.refuse("spec.selector", "missing; matchLabels, for one"),
        Ok(selector) if !selector.matches(&spec.template.metadata.labels) => {
            found.refuse("spec.selector", "selector does not match labels: those of spec.template.metadata");
        }
        // What is wrong with the selector itself is said already.
        Ok(_) | Err(_) => {}
    }
}
