//! The roles of users: KubeVirt's, as far as the kinds exist.

use serde_json::{Value, json};
use vireo_runtimeclass::cluster::RoleAggregationStrategy;

use super::{GROUP, Rule, cluster_binding, cluster_role, rule};

const SUBRESOURCES: &str = "subresources.kubevirt.io";
const KUBEVIRT: &str = "kubevirt.io";
const INSTANCETYPE: &str = "instancetype.kubevirt.io";
const MIGRATIONS: &str = "migrations.kubevirt.io";

const READ: &[&str] = &["get", "list", "watch"];
const EDIT: &[&str] = &["get", "delete", "create", "update", "patch", "list", "watch"];
const ADMIN: &[&str] = &["get", "delete", "create", "update", "patch", "list", "watch", "deletecollection"];

const MACHINES: &[&str] = &["virtualmachines", "virtualmachineinstances", "virtualmachineinstancereplicasets"];
const MOVES: &[&str] = &["virtualmachineinstancemigrations"];
const POLICIES: &[&str] = &["migrationpolicies"];
const SIZES: &[&str] = &[
    "virtualmachineinstancetypes",
    "virtualmachineclusterinstancetypes",
    "virtualmachinepreferences",
    "virtualmachineclusterpreferences",
];
const SIZES_OF_ALL: &[&str] = &["virtualmachineclusterinstancetypes", "virtualmachineclusterpreferences"];

/// What a guest and its machine tell.
const LOOKS: &[&str] = &[
    "virtualmachines/objectgraph",
    "virtualmachineinstances/guestosinfo",
    "virtualmachineinstances/filesystemlist",
    "virtualmachineinstances/userlist",
    "virtualmachineinstances/sev/fetchcertchain",
    "virtualmachineinstances/sev/querylaunchmeasurement",
    "virtualmachineinstances/objectgraph",
    "virtualmachines/expand-spec",
];
/// Ways into a guest.
const ENTRIES: &[&str] = &[
    "virtualmachineinstances/console",
    "virtualmachineinstances/vnc",
    "virtualmachineinstances/portforward",
    "virtualmachineinstances/usbredir",
    "virtualmachines/portforward",
];
/// What changes a machine.
const CHANGES: &[&str] = &[
    "virtualmachineinstances/pause",
    "virtualmachineinstances/unpause",
    "virtualmachineinstances/addvolume",
    "virtualmachineinstances/removevolume",
    "virtualmachineinstances/freeze",
    "virtualmachineinstances/unfreeze",
    "virtualmachineinstances/softreboot",
    "virtualmachineinstances/reset",
    "virtualmachineinstances/sev/setupsession",
    "virtualmachineinstances/sev/injectlaunchsecret",
    "virtualmachineinstances/evacuate/cancel",
    "virtualmachines/start",
    "virtualmachines/stop",
    "virtualmachines/restart",
    "virtualmachines/addvolume",
    "virtualmachines/removevolume",
    "virtualmachines/memorydump",
    "virtualmachines/removememorydump",
    "virtualmachines/evacuate/cancel",
];

fn admin() -> Vec<Rule> {
    vec![
        rule(SUBRESOURCES, LOOKS, &["get"]),
        rule(SUBRESOURCES, ENTRIES, &["get"]),
        rule(SUBRESOURCES, &["virtualmachineinstances/vnc/screenshot"], &["get"]),
        rule(SUBRESOURCES, CHANGES, &["update"]),
        rule(SUBRESOURCES, &["expand-vm-spec"], &["update"]),
        rule(KUBEVIRT, MACHINES, ADMIN),
        rule(KUBEVIRT, MOVES, READ),
        rule(INSTANCETYPE, SIZES, ADMIN),
        rule(MIGRATIONS, POLICIES, READ),
    ]
}

fn edit() -> Vec<Rule> {
    vec![
        rule(SUBRESOURCES, LOOKS, &["get"]),
        rule(SUBRESOURCES, ENTRIES, &["get"]),
        rule(SUBRESOURCES, CHANGES, &["update"]),
        rule(SUBRESOURCES, &["expand-vm-spec"], &["update"]),
        rule(KUBEVIRT, MACHINES, EDIT),
        rule(KUBEVIRT, MOVES, READ),
        rule(KUBEVIRT, &["kubevirts"], &["get", "list"]),
        rule(INSTANCETYPE, SIZES, EDIT),
        rule(MIGRATIONS, POLICIES, READ),
    ]
}

fn view() -> Vec<Rule> {
    vec![
        rule(SUBRESOURCES, LOOKS, &["get"]),
        rule(SUBRESOURCES, &["expand-vm-spec"], &["update"]),
        rule(KUBEVIRT, MACHINES, READ),
        rule(KUBEVIRT, MOVES, READ),
        rule(KUBEVIRT, &["kubevirts"], &["get", "list"]),
        rule(INSTANCETYPE, SIZES, READ),
        rule(MIGRATIONS, POLICIES, READ),
    ]
}

fn migrate() -> Vec<Rule> {
    vec![rule(SUBRESOURCES, &["virtualmachines/migrate"], &["update"]), rule(KUBEVIRT, MOVES, ADMIN)]
}

/// What everybody may who has a name.
fn default() -> Vec<Rule> {
    vec![
        rule(KUBEVIRT, &["kubevirts"], &["get", "list"]),
        rule(SUBRESOURCES, &["version", "guestfs"], &["get", "list"]),
    ]
}

/// Every role: its name, the cluster's own role that includes it, and its rules.
pub(super) fn roles() -> Vec<(&'static str, Option<&'static str>, Vec<Rule>)> {
    vec![
        ("kubevirt.io:admin", Some("admin"), admin()),
        ("kubevirt.io:edit", Some("edit"), edit()),
        ("kubevirt.io:view", Some("view"), view()),
        ("kubevirt.io:migrate", None, migrate()),
        (DEFAULT, None, default()),
        (INSTANCETYPE_VIEW, None, vec![rule(INSTANCETYPE, SIZES_OF_ALL, READ)]),
    ]
}

const DEFAULT: &str = "kubevirt.io:default";
const INSTANCETYPE_VIEW: &str = "instancetype.kubevirt.io:view";
/// The roles that everybody has who has a name.
pub(super) const EVERYBODY_S: [&str; 2] = [DEFAULT, INSTANCETYPE_VIEW];

/// The roles of users, and the bindings of those that everybody has.
pub(in crate::operator) fn users(strategy: RoleAggregationStrategy) -> Vec<Value> {
    let mut objects = Vec::new();
    for (name, aggregates_to, rules) in roles() {
        let mut role = cluster_role(name, &rules);
        if let Some(own) = aggregates_to.filter(|_| strategy == RoleAggregationStrategy::AggregateToDefault) {
            role["metadata"]["labels"][format!("{GROUP}/aggregate-to-{own}")] = json!("true");
        }
        objects.push(role);
    }
    let everybody = json!({"apiGroup": GROUP, "kind": "Group", "name": "system:authenticated"});
    objects.extend(EVERYBODY_S.map(|name| cluster_binding(name, &everybody)));
    objects
}
