//! Rules on labels and annotations: those that only the controller writes, and those that ask for what isn't there.

use std::collections::BTreeMap;

use vireo_runtimeclass::{ParseError, parse_rate_limits, pod};

use super::names::{label_key, labels};
use crate::admission::verdict::Found;

/// Labels by which the controller knows things: a user's instance has none of them (KubeVirt's list).
const RESERVED: [&str; 6] = [
    "kubevirt.io/created-by",
    "kubevirt.io/migrationJobUID",
    "kubevirt.io/nodeName",
    "kubevirt.io/migrationTargetNodeName",
    "kubevirt.io/schedulable",
    "kubevirt.io/install-strategy",
];
/// Annotations of KubeVirt's that change a machine, and that Vireo would have to ignore.
const UNSUPPORTED: [&str; 2] = ["hooks.kubevirt.io/hookSidecars", "kubevirt.io/ignitiondata"];

type Map = BTreeMap<String, String>;

/// The labels and annotations of an instance, or of the template of one, at `path`; `is_own` says that the controller writes it.
pub(crate) fn metadata(own_labels: &Map, annotations: &Map, is_own: bool, path: &str, found: &mut Found) {
    labels(own_labels, &format!("{path}.labels"), found);
    if !is_own {
        for label in reserved(own_labels).keys() {
            let what = "is the controller's own label; leave it out";
            found.refuse(format_args!("{path}.labels.{label}"), what);
        }
    }
    for (key, value) in annotations {
        let path = format!("{path}.annotations.{key}");
        // Keys of annotations may have capitals in their domain.
        found.refuse_if(&path, label_key(&key.to_lowercase()));
        if UNSUPPORTED.contains(&key.as_str()) {
            found.refuse(path, "not supported by vireo");
        } else if key == pod::ANNOTATION_RATE_LIMITS {
            match parse_rate_limits(value) {
                Ok(_) => {}
                Err(ParseError::Refused(problems)) => {
                    problems.0.iter().for_each(|problem| found.refuse(&path, problem.to_string()));
                }
                Err(error) => found.refuse(path, error.to_string()),
            }
        } else if key.starts_with(pod::ANNOTATION_PREFIX) && !is_own {
            found.refuse(path, format!("not supported by vireo; {} is", pod::ANNOTATION_RATE_LIMITS));
        }
    }
}

/// Those labels that are the controller's own.
pub(crate) fn reserved(labels: &Map) -> BTreeMap<&str, &str> {
    let reserved = labels.iter().filter(|(key, _)| RESERVED.contains(&key.as_str()));
    reserved.map(|(key, value)| (key.as_str(), value.as_str())).collect()
}
