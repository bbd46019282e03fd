//! The accounts of the controller and of the agents.

use serde_json::Value;

use super::{
    FRONT_PROXY, READ, Rule, STATUS, WRITE, account, binding, cluster_binding, cluster_role, role, rule,
    service_account,
};
use crate::certificates::{SERVER, SIGNING_KEY};
use crate::context;
use crate::operator::{AGENT, CONTROLLER};

pub(super) fn controller_s() -> Vec<Rule> {
    const KUBEVIRT: &str = "kubevirt.io";
    vec![
        rule(
            KUBEVIRT,
            &["virtualmachines", "virtualmachineinstancereplicasets"],
            &["get", "list", "watch", "update", "patch"],
        ),
        rule(KUBEVIRT, &["virtualmachineinstances", "virtualmachineinstancemigrations"], WRITE),
        rule(
            KUBEVIRT,
            &[
                "virtualmachines/status",
                "virtualmachineinstances/status",
                "virtualmachineinstancereplicasets/status",
                "virtualmachineinstancemigrations/status",
            ],
            STATUS,
        ),
        // Owners whose deletion waits for what they own, where the API server checks who may make them wait.
        rule(
            KUBEVIRT,
            &[
                "virtualmachines/finalizers",
                "virtualmachineinstances/finalizers",
                "virtualmachineinstancereplicasets/finalizers",
            ],
            &["update"],
        ),
        rule(KUBEVIRT, &["kubevirts"], READ),
        rule(
            "instancetype.kubevirt.io",
            &[
                "virtualmachineinstancetypes",
                "virtualmachineclusterinstancetypes",
                "virtualmachinepreferences",
                "virtualmachineclusterpreferences",
            ],
            READ,
        ),
        rule("migrations.kubevirt.io", &["migrationpolicies"], READ),
        rule("", &["pods"], WRITE),
        rule("", &["pods/status"], STATUS),
        rule("", &["pods/exec"], &["create", "get"]),
        rule("", &["events"], &["get", "list", "watch", "create", "patch"]),
        rule("", &["namespaces", "persistentvolumeclaims"], READ),
        // Those whose agents are silent take no more guests.
        rule("", &["nodes"], &["get", "list", "watch", "patch"]),
        // Whether CDI is there, and when it comes.
        rule("apiextensions.k8s.io", &["customresourcedefinitions"], READ).named(["datavolumes.cdi.kubevirt.io"]),
        rule("apps", &["controllerrevisions"], WRITE),
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        rule("authorization.k8s.io", &["subjectaccessreviews"], &["create"]),
        rule("cdi.kubevirt.io", &["datavolumes"], WRITE),
        rule("cdi.kubevirt.io", &["datasources"], READ),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
        // What a disk that is made from one says of its guest's size.
        rule("snapshot.storage.k8s.io", &["volumesnapshots"], &["get"]),
        rule("storage.k8s.io", &["storageclasses"], READ),
    ]
}

/// What the controller may do in its own namespace.
pub(super) fn controller_s_own() -> Vec<Rule> {
    const LEASES: &str = "coordination.k8s.io";
    vec![
        rule("", &["secrets"], READ).named([SERVER, SIGNING_KEY]),
        rule(LEASES, &["leases"], &["create"]),
        rule(LEASES, &["leases"], &["get", "list", "watch", "update", "patch"]).named([context::NAME]),
    ]
}

/// Nodes are what an agent labels, and tells events of. Roles can't tell one node's agent from another's: a policy does, where there are any.
pub(super) fn agent_s() -> Vec<Rule> {
    vec![rule("", &["nodes"], &["patch"]), rule("", &["events"], &["create"])]
}

/// What an agent may do in its own namespace: see whether Vireo goes.
pub(super) fn agent_s_own() -> Vec<Rule> {
    vec![rule("kubevirt.io", &["kubevirts"], &["list"])]
}

/// The controller's account and what it may do.
pub(in crate::operator) fn controller(namespace: &str) -> Vec<Value> {
    let account = account(namespace, CONTROLLER);
    vec![
        service_account(namespace, CONTROLLER),
        cluster_role(CONTROLLER, &controller_s()),
        cluster_binding(CONTROLLER, &account),
        role(namespace, CONTROLLER, &controller_s_own()),
        binding(namespace, CONTROLLER, CONTROLLER, &account),
        binding(FRONT_PROXY.0, CONTROLLER, FRONT_PROXY.1, &account),
    ]
}

/// The agents' account and what it may do.
pub(in crate::operator) fn agent(namespace: &str) -> Vec<Value> {
    let account = account(namespace, AGENT);
    vec![
        service_account(namespace, AGENT),
        cluster_role(AGENT, &agent_s()),
        cluster_binding(AGENT, &account),
        role(namespace, AGENT, &agent_s_own()),
        binding(namespace, AGENT, AGENT, &account),
    ]
}
