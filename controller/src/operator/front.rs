//! How the API server reaches the controller, and who else may.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::workloads::LABEL;
use super::{AGENT, API_SERVICES, CONTROLLER, HEALTH_PORT, OPERATOR, PORT, observe};
use crate::admission::configurations::{self, Server};

/// The controller's Service.
pub(super) fn service(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": CONTROLLER, "namespace": namespace, "labels": {LABEL: CONTROLLER}},
        "spec": {
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": PORT}],
            "selector": {LABEL: CONTROLLER},
            "type": "ClusterIP",
        },
    })
}

/// The names that the controller's certificate is for.
pub(super) fn server_names(namespace: &str) -> Vec<String> {
    vec![format!("{CONTROLLER}.{namespace}.svc"), format!("{CONTROLLER}.{namespace}.svc.cluster.local")]
}

/// The aggregated API, whose server's authorities are in `bundle`.
pub(super) fn api_services(namespace: &str, bundle: &str) -> Vec<Value> {
    let service = |name: &str| {
        let (version, group) = name.split_once('.').unwrap_or((name, ""));
        json!({
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": name},
            "spec": {
                "caBundle": BASE64_STANDARD.encode(bundle),
                "group": group,
                "groupPriorityMinimum": 1000,
                "service": {"name": CONTROLLER, "namespace": namespace, "port": 443},
                "version": version,
                "versionPriority": 15,
            },
        })
    };
    API_SERVICES.iter().map(|name| service(name)).collect()
}

/// What may reach Vireo's own pods: the API server the controller, kubelets all of them, Prometheus the controller and the operator. All may
/// reach out, where the namespace's other policies would keep them from the API server.
pub(super) fn network_policies(namespace: &str) -> Vec<Value> {
    let policy = |name: &str, ingress: Value| {
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "podSelector": {"matchLabels": {LABEL: name}},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": ingress,
                "egress": [{}],
            },
        })
    };
    let on = |ports: &[u16]| {
        let ports: Vec<_> = ports.iter().map(|port| json!({"port": port, "protocol": "TCP"})).collect();
        json!([{ "ports": ports }])
    };
    vec![
        policy(CONTROLLER, on(&[PORT, HEALTH_PORT])),
        policy(OPERATOR, on(&[PORT, HEALTH_PORT])),
        policy(AGENT, on(&[HEALTH_PORT])),
    ]
}

/// What lets an agent change nothing but its own node's labels and annotations, by the node that its pod's token is for. Roles can't
/// tell agents apart.
pub(super) fn agents_policy(namespace: &str) -> Vec<Value> {
    const NODE: &str = "authentication.kubernetes.io/node-name";
    const VERSION: &str = "admissionregistration.k8s.io/v1";
    let own_node =
        format!("'{NODE}' in request.userInfo.extra && request.userInfo.extra['{NODE}'][0] == object.metadata.name");
    let validation =
        |expression: &str, message: &str| json!({"expression": expression, "message": message, "reason": "Forbidden"});
    let policy = json!({
        "apiVersion": VERSION,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": AGENT},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["UPDATE"],
                "resources": ["nodes"],
            }]},
            "matchConditions": [{
                "name": "is-an-agent",
                "expression": format!("request.userInfo.username == 'system:serviceaccount:{namespace}:{AGENT}'"),
            }],
            "validations": [
                validation(&own_node, "an agent of Vireo's may change its own node only"),
                validation("object.spec == oldObject.spec", "an agent of Vireo's may change labels and annotations only"),
            ],
        },
    });
    let binding = json!({
        "apiVersion": VERSION,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": AGENT},
        "spec": {"policyName": AGENT, "validationActions": ["Deny"]},
    });
    vec![policy, binding]
}

/// The webhooks, whose server's authorities are in `bundle`. What is said of the KubeVirt object itself is taken where nobody judges it:
/// who repairs or removes Vireo can't need Vireo for that.
pub(super) fn webhooks(namespace: &str, bundle: &str, api: observe::Server) -> Vec<Value> {
    let server = Server::Service { namespace: namespace.to_owned(), name: CONTROLLER.to_owned() };
    let mutating = json!(configurations::mutating(&server, bundle.as_bytes()));
    let mut validating = json!(configurations::validating(&server, bundle.as_bytes()));
    for webhook in validating["webhooks"].as_array_mut().into_iter().flatten() {
        let resource = webhook["rules"][0]["resources"][0].as_str().unwrap_or_default();
        if resource == "kubevirts" || resource.starts_with("kubevirts/") {
            webhook["failurePolicy"] = json!("Ignore");
        }
        if let Some(webhook) = webhook.as_object_mut().filter(|_| !api.match_conditions) {
            webhook.remove("matchConditions");
        }
    }
    vec![mutating, validating]
}
