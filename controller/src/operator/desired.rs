//! Everything that there should be, as data, in the order in which it is applied.

use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{KubeVirtSpec, RoleAggregationStrategy};

use super::observe::Server;
use super::release::Release;
use super::{MANAGED_BY, crds, front, monitoring, rbac, workloads};

/// What else decides about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) namespace: &'a str,
    pub(super) release: &'a Release,
    pub(super) spec: &'a KubeVirtSpec,
    /// The authorities to trust, PEM.
    pub(super) bundle: &'a str,
    /// The objects that hold certificates and keys.
    pub(super) secrets: &'a [Value],
    pub(super) server: Server,
    /// The controller can be asked.
    pub(super) answers: bool,
    /// Who reads metrics, where the cluster has a Prometheus operator.
    pub(super) reader: Option<&'a monitoring::Reader>,
}

/// Everything that there should be.
pub(super) fn desired(inputs: &Inputs) -> Vec<Value> {
    let &Inputs { namespace, release, spec, bundle, secrets, server, answers, reader } = inputs;
    let strategy = spec.configuration.as_ref().and_then(|configuration| configuration.role_aggregation_strategy);
    let mut objects = vec![workloads::runtime_class(spec)];
    objects.extend(crds::all());
    objects.extend(rbac::users(strategy.unwrap_or(RoleAggregationStrategy::AggregateToDefault)));
    objects.extend(rbac::controller(namespace));
    objects.extend(rbac::agent(namespace));
    if server.policies {
        objects.extend(front::agents_policy(namespace));
    }
    objects.extend(front::network_policies(namespace));
    objects.push(front::service(namespace));
    objects.push(monitoring::service(namespace));
    objects.extend(reader.into_iter().flat_map(|reader| monitoring::objects(namespace, reader)));
    // Who trusts a new authority does so before anything is signed by it.
    if answers {
        objects.extend(front::webhooks(namespace, bundle, server));
        objects.extend(front::api_services(namespace, bundle));
    }
    objects.extend(secrets.iter().cloned().map(|mut secret| {
        secret["metadata"]["namespace"] = json!(namespace);
        secret
    }));
    objects.push(workloads::disruption_budget(namespace, server.policy_v1));
    objects.push(workloads::controller(namespace, release, spec));
    objects.push(workloads::agent(namespace, release, spec));
    for object in &mut objects {
        label(object, spec);
    }
    objects
}

/// What all objects say of where they come from.
fn label(object: &mut Value, spec: &KubeVirtSpec) {
    let labels = &mut object["metadata"]["labels"];
    labels[MANAGED_BY.0] = json!(MANAGED_BY.1);
    labels["app.kubernetes.io/component"] = json!(spec.product_component.as_deref().unwrap_or("kubevirt"));
    for (name, value) in [("part-of", &spec.product_name), ("version", &spec.product_version)] {
        if let Some(value) = value {
            labels[format!("app.kubernetes.io/{name}")] = json!(value);
        }
    }
}
