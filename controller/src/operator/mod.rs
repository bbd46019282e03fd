//! The operator: from one `KubeVirt` object, everything that Vireo is in a cluster, and nothing when the object goes.
//!
//! ```text
//!   KubeVirt ──> release ─┐
//!   certificates ─────────┼─> desired ──> plan ──> applied, removed        while it is there
//!   what is there ────────┘      (observe)  └────> status
//!                └──────────────> removal ──> removed, stage by stage      when it goes
//! ```
//!
//! `rbac`, `crds`, `workloads`, `front`, `monitoring` and `desired` are objects as data; `plan`, `removal` and `status` are pure too.
//! `observe` watches all that bears the operator's label, and `reconcile` alone writes. An object is applied where it isn't
//! as it was applied last (its hash, and its generation or resource version), so that nothing is written twice and what others
//! change is put right; what bears the label and is no longer desired is removed.
//!
//! What the controller answers (webhooks, API services) is applied when the controller is there, and goes before it does.

mod crds;
mod desired;
mod front;
mod monitoring;
mod observe;
mod plan;
mod rbac;
mod reconcile;
mod release;
mod removal;
mod status;
#[cfg(test)]
mod tests;
mod workloads;

pub use reconcile::{Options, run};

/// The controller's account in a namespace with all that it may do, as the operator makes them: for who runs a controller without an
/// operator.
pub fn controller_s_account(namespace: &str) -> Vec<serde_json::Value> {
    rbac::controller(namespace)
}

/// The operator's Deployment and account.
const OPERATOR: &str = "vireo-operator";
/// The controller's Deployment, Service, account and roles.
const CONTROLLER: &str = "vireo-controller";
/// The agents' DaemonSet, account and roles, and the policy that keeps each to its own node.
const AGENT: &str = "vireo-agent";
/// The aggregated API's versions.
const API_SERVICES: [&str; 2] = ["v1.subresources.kubevirt.io", "v1alpha3.subresources.kubevirt.io"];
/// The class of pods that Vireo can't do without (KubeVirt's).
const PRIORITY_CLASS: &str = "kubevirt-cluster-critical";
/// The label, and its value, of all that the operator has made.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", OPERATOR);
/// Keeps the KubeVirt object until everything is gone (KubeVirt's).
const FINALIZER: &str = "kubevirt.io/foregroundDeleteKubeVirt";
/// Where the controller answers the API server.
const PORT: u16 = 8443;
/// Where the controller, the operator and the agents answer probes.
const HEALTH_PORT: u16 = 8081;
