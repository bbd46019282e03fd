//! Rules on where a pod runs: what Kubernetes would refuse in it is refused where it was written.

use k8s_openapi::api::core::v1::{Toleration, TopologySpreadConstraint};
use vireo_runtimeclass::cluster::PodSettings;

use super::names::{dns_name, label_key, label_value, labels};
use super::selectors::{affinity, label_selector};
use crate::admission::verdict::Found;

pub(crate) fn scheduling(pod: &PodSettings, path: &str, found: &mut Found) {
    labels(&pod.node_selector, &format!("{path}.nodeSelector"), found);
    if let Some(one) = &pod.affinity {
        affinity(one, &format!("{path}.affinity"), found);
    }
    tolerations(&pod.tolerations, &format!("{path}.tolerations"), found);
    for (index, constraint) in pod.topology_spread_constraints.iter().enumerate() {
        spread(constraint, &format!("{path}.topologySpreadConstraints[{index}]"), found);
    }
    for (field, name) in [("schedulerName", &pod.scheduler_name), ("priorityClassName", &pod.priority_class_name)] {
        found.refuse_if(format_args!("{path}.{field}"), name.as_deref().and_then(dns_name));
    }
}

pub(crate) fn tolerations(tolerations: &[Toleration], path: &str, found: &mut Found) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let Toleration { effect, key, operator, toleration_seconds, value } = toleration;
        let at = format!("{path}[{index}]");
        let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        let key = key.as_deref().unwrap_or_default();
        if !key.is_empty() {
            found.refuse_if(format_args!("{at}.key"), label_key(key));
        }
        match operator.as_deref().unwrap_or_default() {
            "Exists" if given(value) => found.refuse(format_args!("{at}.value"), "must be left out with Exists"),
            "Exists" => {}
            "" | "Equal" if key.is_empty() => {
                found.refuse(format_args!("{at}.operator"), "must be Exists where no key is named");
            }
            "" | "Equal" => found.refuse_if(format_args!("{at}.value"), value.as_deref().and_then(label_value)),
            other => {
                found.refuse(format_args!("{at}.operator"), format!("{other:?} is no operator; Equal and Exists are"));
            }
        }
        match effect.as_deref().unwrap_or_default() {
            "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute" => {}
            other => {
                let what = format!("{other:?} is no effect; NoSchedule, PreferNoSchedule and NoExecute are");
                found.refuse(format_args!("{at}.effect"), what);
            }
        }
        if toleration_seconds.is_some() && effect.as_deref() != Some("NoExecute") {
            found.refuse(format_args!("{at}.effect"), "must be NoExecute where tolerationSeconds is named");
        }
    }
}

fn spread(constraint: &TopologySpreadConstraint, path: &str, found: &mut Found) {
    if constraint.max_skew < 1 {
        found.refuse(format_args!("{path}.maxSkew"), format!("{} is not at least 1", constraint.max_skew));
    }
    found.refuse_if(format_args!("{path}.topologyKey"), label_key(&constraint.topology_key));
    let waits = constraint.when_unsatisfiable == "DoNotSchedule";
    if !waits && constraint.when_unsatisfiable != "ScheduleAnyway" {
        let what = format!("{:?} is not known; DoNotSchedule and ScheduleAnyway are", constraint.when_unsatisfiable);
        found.refuse(format_args!("{path}.whenUnsatisfiable"), what);
    }
    if constraint.min_domains.is_some_and(|domains| domains < 1 || !waits) {
        found.refuse(format_args!("{path}.minDomains"), "must be at least 1, and only with DoNotSchedule");
    }
    for (field, policy) in
        [("nodeAffinityPolicy", &constraint.node_affinity_policy), ("nodeTaintsPolicy", &constraint.node_taints_policy)]
    {
        if let Some(policy) = policy.as_deref().filter(|policy| !matches!(*policy, "Honor" | "Ignore")) {
            found.refuse(format_args!("{path}.{field}"), format!("{policy:?} is not known; Honor and Ignore are"));
        }
    }
    if let Some(selector) = &constraint.label_selector {
        label_selector(selector, &format!("{path}.labelSelector"), found);
    }
}
