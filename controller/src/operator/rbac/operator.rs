//! The operator's account, as its manifest has it.
//!
//! Kubernetes lets nobody give a right that he hasn't, so the operator has all that it gives: to users, to the controller and to
//! the agents. What else it may do it may do to its own objects alone, which are named.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use vireo_runtimeclass::pod::RUNTIME_CLASS;

use super::parts::{agent_s, agent_s_own, controller_s, controller_s_own};
use super::{
    FRONT_PROXY, READ, Rule, STATUS, WRITE, account, binding, cluster_binding, cluster_role, role, rule,
    service_account, users,
};
use crate::admission::configurations::{MUTATING, VALIDATING};
use crate::operator::{AGENT, API_SERVICES, CONTROLLER, OPERATOR, crds, monitoring};

/// Everybody who may make one of a kind may make any: making is not named. The rest is.
fn own(group: &'static str, resource: &'static str, names: impl IntoIterator<Item = String>) -> [Rule; 2] {
    [
        rule(group, &[resource], &["create", "list", "watch"]),
        rule(group, &[resource], &["get", "update", "patch", "delete"]).named(names),
    ]
}

fn operator_s() -> Vec<Rule> {
    let parts = [CONTROLLER, AGENT, monitoring::READER];
    let cluster_roles = users::roles().into_iter().map(|(name, ..)| name).chain(parts).map(str::to_owned);
    let bindings = users::EVERYBODY_S.into_iter().chain(parts).map(str::to_owned);
    let mut rules = vec![
        rule("kubevirt.io", &["kubevirts"], &["get", "list", "watch", "update", "patch"]),
        rule("kubevirt.io", &["kubevirts/status"], STATUS),
        // What its agents have left on nodes.
        rule("", &["nodes"], &["list", "patch"]),
    ];
    rules.extend(own("apiextensions.k8s.io", "customresourcedefinitions", crds::names()));
    rules.extend(own("apiregistration.k8s.io", "apiservices", API_SERVICES.map(str::to_owned)));
    rules.extend(own("admissionregistration.k8s.io", "mutatingwebhookconfigurations", [MUTATING.to_owned()]));
    rules.extend(own("admissionregistration.k8s.io", "validatingwebhookconfigurations", [VALIDATING.to_owned()]));
    rules.extend(own("admissionregistration.k8s.io", "validatingadmissionpolicies", [AGENT.to_owned()]));
    rules.extend(own("admissionregistration.k8s.io", "validatingadmissionpolicybindings", [AGENT.to_owned()]));
    rules.extend(own(super::GROUP, "clusterroles", cluster_roles));
    rules.extend(own(super::GROUP, "clusterrolebindings", bindings));
    rules.extend(own("node.k8s.io", "runtimeclasses", [RUNTIME_CLASS.to_owned()]));
    rules.extend(users::roles().into_iter().flat_map(|(_, _, rules)| rules));
    rules.extend(controller_s());
    rules.extend(agent_s());
    union(rules)
}

/// The same rights in as few rules: each resource once, with all that may be done to it.
fn union(rules: Vec<Rule>) -> Vec<Rule> {
    let mut rights = BTreeMap::<(&str, &str, Vec<String>), BTreeSet<&str>>::new();
    for Rule { group, resources, names, verbs } in rules {
        for resource in resources {
            rights.entry((group, resource, names.clone())).or_default().extend(&verbs);
        }
    }
    let mut united: Vec<Rule> = Vec::new();
    for ((group, resource, names), verbs) in rights {
        let verbs: Vec<_> = verbs.into_iter().collect();
        let same = united.iter_mut().find(|rule| rule.group == group && rule.names == names && rule.verbs == verbs);
        match same {
            Some(rule) if names.is_empty() => rule.resources.push(resource),
            _ => united.push(Rule { group, resources: vec![resource], names, verbs }),
        }
    }
    united
}

/// What the operator may do in its own namespace: there it is at home.
fn operator_s_own() -> Vec<Rule> {
    let mut rules = vec![
        rule("", &["configmaps", "secrets", "serviceaccounts", "services"], WRITE),
        rule("", &["endpoints"], READ),
        rule("discovery.k8s.io", &["endpointslices"], READ),
        rule("apps", &["daemonsets", "deployments"], WRITE),
        rule("coordination.k8s.io", &["leases"], WRITE),
        rule("monitoring.coreos.com", &["prometheusrules", "servicemonitors"], WRITE),
        rule("networking.k8s.io", &["networkpolicies"], WRITE),
        rule("policy", &["poddisruptionbudgets"], WRITE),
        rule(super::GROUP, &["rolebindings", "roles"], WRITE),
    ];
    rules.extend(controller_s_own());
    rules.extend(agent_s_own());
    union(rules)
}

/// Lets the operator give the controller the Role that Kubernetes has made for servers of aggregated APIs.
fn operator_s_in_kube_system() -> Vec<Rule> {
    vec![
        rule(super::GROUP, &["rolebindings"], &["create", "list", "watch"]),
        rule(super::GROUP, &["rolebindings"], &["get", "update", "patch", "delete"]).named([CONTROLLER]),
        rule(super::GROUP, &["roles"], &["bind"]).named([FRONT_PROXY.1]),
    ]
}

/// The operator's account and what it may do.
pub(in crate::operator) fn operator(namespace: &str) -> Vec<Value> {
    let account = account(namespace, OPERATOR);
    let mut role_everywhere = cluster_role(OPERATOR, &operator_s());
    if let Some(rules) = role_everywhere["rules"].as_array_mut() {
        rules.push(monitoring::reads());
    }
    vec![
        service_account(namespace, OPERATOR),
        role_everywhere,
        cluster_binding(OPERATOR, &account),
        role(namespace, OPERATOR, &operator_s_own()),
        binding(namespace, OPERATOR, OPERATOR, &account),
        role(FRONT_PROXY.0, OPERATOR, &operator_s_in_kube_system()),
        binding(FRONT_PROXY.0, OPERATOR, OPERATOR, &account),
    ]
}
