//! Rules on selectors and affinities: what Kubernetes would refuse in a pod is refused where it was written.

use k8s_openapi::api::core::v1::{Affinity, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::names::{label_key, label_value, labels};
use crate::admission::verdict::Found;

pub(crate) fn label_selector(selector: &LabelSelector, path: &str, found: &mut Found) {
    if let Some(map) = &selector.match_labels {
        labels(map, &format!("{path}.matchLabels"), found);
    }
    for (index, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        let LabelSelectorRequirement { key, operator, values } = requirement;
        let at = format!("{path}.matchExpressions[{index}]");
        expression(key, operator, values.as_deref().unwrap_or_default(), false, &at, found);
    }
}

/// One requirement; those of nodes know two operators more.
fn expression(key: &str, operator: &str, values: &[String], of_node: bool, path: &str, found: &mut Found) {
    found.refuse_if(format_args!("{path}.key"), label_key(key));
    let what = match operator {
        "In" | "NotIn" if values.is_empty() => "missing; In and NotIn need some",
        "Exists" | "DoesNotExist" if !values.is_empty() => "must be left out with Exists and DoesNotExist",
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {
            for (index, value) in values.iter().enumerate() {
                found.refuse_if(format_args!("{path}.values[{index}]"), label_value(value));
            }
            return;
        }
        "Gt" | "Lt" if of_node => match values {
            [value] if value.parse::<i64>().is_ok() => return,
            _ => "must be one whole number with Gt and Lt",
        },
        _ => {
            let more = if of_node { ", Gt, Lt" } else { "" };
            let what = format!("{operator:?} is no operator; In, NotIn, Exists, DoesNotExist{more} are");
            return found.refuse(format_args!("{path}.operator"), what);
        }
    };
    found.refuse(format_args!("{path}.values"), what);
}

fn node_term(term: &NodeSelectorTerm, path: &str, found: &mut Found) {
    let requirements = |list: &Option<Vec<NodeSelectorRequirement>>| list.clone().unwrap_or_default();
    for (index, one) in requirements(&term.match_expressions).iter().enumerate() {
        let at = format!("{path}.matchExpressions[{index}]");
        expression(&one.key, &one.operator, one.values.as_deref().unwrap_or_default(), true, &at, found);
    }
    for (index, one) in requirements(&term.match_fields).iter().enumerate() {
        let at = format!("{path}.matchFields[{index}]");
        if one.key != "metadata.name" {
            found.refuse(format_args!("{at}.key"), format!("{:?} can't be selected by; metadata.name can", one.key));
        } else if !matches!(one.operator.as_str(), "In" | "NotIn") || one.values.as_ref().is_none_or(|v| v.len() != 1) {
            found.refuse(at, "must be In or NotIn with one value");
        }
    }
}

fn pod_term(term: &PodAffinityTerm, path: &str, found: &mut Found) {
    if let Some(selector) = &term.label_selector {
        label_selector(selector, &format!("{path}.labelSelector"), found);
    }
    if let Some(selector) = &term.namespace_selector {
        label_selector(selector, &format!("{path}.namespaceSelector"), found);
    }
    found.refuse_if(format_args!("{path}.topologyKey"), label_key(&term.topology_key));
}

fn weight(weight: i32, path: &str, found: &mut Found) {
    if !(1..=100).contains(&weight) {
        found.refuse(format_args!("{path}.weight"), format!("{weight} is not within 1 to 100"));
    }
}

pub(crate) fn affinity(affinity: &Affinity, path: &str, found: &mut Found) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    if let Some(node) = &affinity.node_affinity {
        let path = format!("{path}.nodeAffinity");
        if let Some(selector) = &node.required_during_scheduling_ignored_during_execution {
            let at = format!("{path}.{REQUIRED}.nodeSelectorTerms");
            if selector.node_selector_terms.is_empty() {
                found.refuse(&at, "missing; one term at least is needed");
            }
            for (index, term) in selector.node_selector_terms.iter().enumerate() {
                node_term(term, &format!("{at}[{index}]"), found);
            }
        }
        let preferred = node.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        for (index, term) in preferred.enumerate() {
            let at = format!("{path}.{PREFERRED}[{index}]");
            weight(term.weight, &at, found);
            node_term(&term.preference, &format!("{at}.preference"), found);
        }
    }
    let near = affinity.pod_affinity.as_ref().map(|pod| {
        let required = &pod.required_during_scheduling_ignored_during_execution;
        ("podAffinity", required, &pod.preferred_during_scheduling_ignored_during_execution)
    });
    let far = affinity.pod_anti_affinity.as_ref().map(|pod| {
        let required = &pod.required_during_scheduling_ignored_during_execution;
        ("podAntiAffinity", required, &pod.preferred_during_scheduling_ignored_during_execution)
    });
    for (name, required, preferred) in near.into_iter().chain(far) {
        for (index, term) in required.iter().flatten().enumerate() {
            pod_term(term, &format!("{path}.{name}.{REQUIRED}[{index}]"), found);
        }
        for (index, term) in preferred.iter().flatten().enumerate() {
            let at = format!("{path}.{name}.{PREFERRED}[{index}]");
            weight(term.weight, &at, found);
            pod_term(&term.pod_affinity_term, &format!("{at}.podAffinityTerm"), found);
        }
    }
}
