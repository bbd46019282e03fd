use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use vireo_runtimeclass::cluster::RoleAggregationStrategy;

use super::reference::TABLE;
use super::{agent, controller, operator, users};
use crate::operator::crds;

/// What may be done, for each role, group and resource, by objects' names (none: by any).
type Rights = BTreeMap<(String, String), BTreeSet<String>>;

fn strings(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

fn rights(role: &Value) -> Rights {
    let mut rights = Rights::new();
    for rule in role["rules"].as_array().unwrap() {
        for resource in strings(&rule["resources"]) {
            let names = strings(&rule["resourceNames"]);
            let names = if names.is_empty() { vec![String::new()] } else { names };
            for name in names {
                let key = (strings(&rule["apiGroups"]).concat(), format!("{resource}:{name}"));
                assert!(
                    rights.entry(key).or_default().is_disjoint(&strings(&rule["verbs"]).into_iter().collect()),
                    "{resource} twice"
                );
                let key = (strings(&rule["apiGroups"]).concat(), format!("{resource}:{name}"));
                rights.entry(key).or_default().extend(strings(&rule["verbs"]));
            }
        }
    }
    rights
}

fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name).unwrap()
}

/// KubeVirt's table, as far as its kinds exist here.
fn reference(of: &str) -> Rights {
    let edit = ["get", "delete", "create", "update", "patch", "list", "watch"];
    let kinds = crds::names();
    let mut rights = Rights::new();
    for line in TABLE.lines().filter(|line| !line.is_empty()) {
        let words: Vec<_> = line.split(' ').collect();
        let [role, group, resource, verbs @ ..] = words.as_slice() else { panic!("{line}") };
        if *role != of
            || (*group != "subresources.kubevirt.io"
                && !kinds.contains(&format!("{resource}.{group}"))
                && *resource != "kubevirts")
        {
            continue;
        }
        let verbs = match verbs {
            ["*"] => edit.to_vec(),
            ["+"] => [&edit[..], &["deletecollection"]].concat(),
            ["r"] => vec!["get", "list", "watch"],
            verbs => verbs.to_vec(),
        };
        rights.insert(((*group).to_owned(), format!("{resource}:")), verbs.into_iter().map(str::to_owned).collect());
    }
    rights
}

#[test]
fn users_may_what_kubevirt_s_may() {
    let objects = users(RoleAggregationStrategy::AggregateToDefault);
    for (name, of) in [
        ("kubevirt.io:admin", "admin"),
        ("kubevirt.io:edit", "edit"),
        ("kubevirt.io:view", "view"),
        ("kubevirt.io:migrate", "migrate"),
        ("kubevirt.io:default", "default"),
        ("instancetype.kubevirt.io:view", "instancetype"),
    ] {
        let expected = reference(of);
        assert!(!expected.is_empty());
        assert_eq!(rights(named(&objects, "ClusterRole", name)), expected, "{name}");
    }
}

#[test]
fn the_cluster_s_own_roles_include_ours_unless_told_otherwise() {
    let labels = |strategy, name: &str| {
        named(&users(strategy), "ClusterRole", name)["metadata"]["labels"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    let (default, manual) = (RoleAggregationStrategy::AggregateToDefault, RoleAggregationStrategy::Manual);
    for own in ["admin", "edit", "view"] {
        let name = format!("kubevirt.io:{own}");
        assert_eq!(
            labels(default, &name),
            ["kubevirt.io".to_owned(), format!("rbac.authorization.k8s.io/aggregate-to-{own}")]
        );
        assert_eq!(labels(manual, &name), ["kubevirt.io"]);
    }
    assert_eq!(labels(default, "kubevirt.io:migrate"), ["kubevirt.io"], "nobody may migrate who isn't told");
}

/// Or the API server refuses what the operator writes.
#[test]
fn the_operator_has_every_right_that_it_gives() {
    let own = operator("kubevirt");
    let everywhere = rights(named(&own, "ClusterRole", "vireo-operator"));
    let at_home = rights(
        own.iter().find(|object| object["kind"] == "Role" && object["metadata"]["namespace"] == "kubevirt").unwrap(),
    );
    let given = [users(RoleAggregationStrategy::Manual), controller("kubevirt"), agent("kubevirt")].concat();
    for role in given.iter().filter(|object| object.get("rules").is_some()) {
        for ((group, resource), verbs) in rights(role) {
            let all = format!("{}:", resource.split(':').next().unwrap());
            let mut held = BTreeSet::new();
            for rights in [&everywhere, &at_home].into_iter().take(if role["kind"] == "Role" { 2 } else { 1 }) {
                for resource in [&resource, &all] {
                    held.extend(rights.get(&(group.clone(), resource.clone())).cloned().unwrap_or_default());
                }
            }
            assert!(verbs.is_subset(&held), "{group} {resource}: {verbs:?} of {held:?}");
        }
    }
}

/// Vireo's accounts can't read the cluster's secrets, give themselves rights, or take over nodes.
#[test]
fn accounts_are_small() {
    for objects in [operator("kubevirt"), controller("kubevirt"), agent("kubevirt")] {
        for role in objects.iter().filter(|object| object["kind"] == "ClusterRole") {
            for ((group, resource), verbs) in rights(role) {
                let (resource, name) = resource.split_once(':').unwrap();
                assert!(![group.as_str(), resource].contains(&"*") && !verbs.contains("*"), "{group} {resource}");
                assert!(group != "kubevirt.io" || resource != "*");
                assert!(
                    !["secrets", "configmaps", "serviceaccounts", "serviceaccounts/token"].contains(&resource),
                    "{resource}"
                );
                assert!(
                    verbs.is_disjoint(&["escalate", "bind", "impersonate"].map(str::to_owned).into()),
                    "{resource}"
                );
                if group == "rbac.authorization.k8s.io" && name.is_empty() {
                    assert!(verbs.is_disjoint(&["update", "patch", "delete"].map(str::to_owned).into()), "{resource}");
                }
            }
        }
    }
    let agent = agent("kubevirt");
    let rights = [rights(named(&agent, "ClusterRole", "vireo-agent")), rights(named(&agent, "Role", "vireo-agent"))];
    let named: Vec<_> =
        rights.iter().flatten().map(|((_, resource), verbs)| (resource.as_str(), verbs.len())).collect();
    assert_eq!(named, [("events:", 1), ("nodes:", 1), ("kubevirts:", 1)], "an agent may do no more than it does");
}
