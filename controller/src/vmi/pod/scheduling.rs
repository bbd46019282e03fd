//! Which nodes a pod may run on.

use std::collections::BTreeMap;

use vireo_runtimeclass::cluster::{InstanceSpec, KubeVirtConfiguration};
use vireo_runtimeclass::node::SCHEDULABLE;

const ARCHITECTURE: &str = "kubernetes.io/arch";

/// As in KubeVirt, an instance's own word goes before the cluster's.
pub(super) fn node_selector(spec: &InstanceSpec, configuration: &KubeVirtConfiguration) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([(SCHEDULABLE.to_owned(), "true".to_owned())]);
    if let Some(architecture) = &spec.machine.architecture {
        labels.insert(ARCHITECTURE.to_owned(), architecture.to_lowercase());
    }
    let switches = configuration.developer_configuration.as_ref();
    labels.extend(switches.map(|switches| switches.node_selectors.clone()).unwrap_or_default());
    labels.extend(spec.pod.node_selector.clone());
    labels
}
