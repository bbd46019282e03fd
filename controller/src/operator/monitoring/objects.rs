//! The objects.

use serde_json::{Value, json};

use super::super::rbac::{READ, account, binding, cluster_binding, cluster_role, role, rule};
use super::super::{PORT, front};
use super::{GROUP, LABEL, READER, Reader};
use crate::certificates::{AUTHORITY, BUNDLE_KEY};
use crate::metrics;

/// The Service that leads to all pods that have metrics (KubeVirt's).
const SERVICE: &str = "kubevirt-prometheus-metrics";
/// Its port.
const METRICS: &str = "metrics";
/// The ServiceMonitor and the PrometheusRule.
const MONITOR: &str = "prometheus-kubevirt-rules";
/// The Role that lets Prometheus find the pods.
const FINDER: &str = "kubevirt-monitoring";

/// The Service that leads to all pods that have metrics.
pub(in crate::operator) fn service(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": SERVICE, "namespace": namespace, "labels": {"kubevirt.io": "", LABEL.0: LABEL.1}},
        "spec": {
            "clusterIP": "None",
            "ports": [{"name": METRICS, "port": 443, "protocol": "TCP", "targetPort": PORT}],
            "selector": {LABEL.0: LABEL.1},
            "type": "ClusterIP",
        },
    })
}

/// What a Prometheus operator and its Prometheus need.
pub(in crate::operator) fn objects(namespace: &str, reader: &Reader) -> Vec<Value> {
    let account = account(&reader.namespace, &reader.account);
    let found =
        [rule("", &["services", "endpoints", "pods"], READ), rule("discovery.k8s.io", &["endpointslices"], READ)];
    let mut reads_metrics = cluster_role(READER, &[]);
    reads_metrics["rules"] = json!([reads()]);
    vec![
        role(namespace, FINDER, &found),
        binding(namespace, FINDER, FINDER, &account),
        reads_metrics,
        cluster_binding(READER, &account),
        rules(namespace),
        monitor(namespace),
    ]
}

/// The right to read.
pub(in crate::operator) fn reads() -> Value {
    json!({"nonResourceURLs": [metrics::PATH], "verbs": ["get"]})
}

fn monitor(namespace: &str) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "ServiceMonitor",
        "metadata": {
            "name": MONITOR,
            "namespace": namespace,
            "labels": {"k8s-app": "kubevirt", "openshift.io/cluster-monitoring": "", LABEL.0: LABEL.1},
        },
        "spec": {
            "endpoints": [{
                "port": METRICS,
                "scheme": "https",
                // The namespaces that metrics name are those of machines.
                "honorLabels": true,
                "bearerTokenFile": "/var/run/secrets/kubernetes.io/serviceaccount/token",
                "tlsConfig": {
                    "ca": {"configMap": {"name": AUTHORITY, "key": BUNDLE_KEY}},
                    "serverName": front::server_names(namespace)[0],
                },
            }],
            "namespaceSelector": {"matchNames": [namespace]},
            "selector": {"matchLabels": {LABEL.0: LABEL.1}},
        },
    })
}

/// The rules and alerts of the manifest, for a namespace.
fn rules(namespace: &str) -> Value {
    const MANIFEST: &str = include_str!(concat!(env!("OUT_DIR"), "/prometheus-rules.json"));
    let text = MANIFEST.replace("namespace='kubevirt'", &format!("namespace='{namespace}'"));
    // A test reads them.
    let mut rules: Value = serde_json::from_str(&text).unwrap_or_default();
    rules["metadata"]["namespace"] = json!(namespace);
    let groups = rules["spec"]["groups"].as_array_mut().into_iter().flatten();
    for rule in groups.filter_map(|group| group["rules"].as_array_mut()).flatten() {
        if let Some(own) = rule["labels"].get_mut("namespace") {
            *own = json!(namespace);
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_those_of_the_namespace() {
        let rules = rules("vms").to_string();
        assert!(rules.contains("kubevirt_virt_controller_leading_status{namespace='vms'}"), "{rules}");
        assert!(rules.contains(r#""namespace":"vms""#));
        for left in ["namespace='kubevirt'", r#""namespace":"kubevirt""#] {
            assert!(!rules.contains(left), "{left}");
        }
    }

    /// Whoever is shown a token is verified first.
    #[test]
    fn prometheus_knows_whom_it_shows_its_token() {
        let endpoint = &monitor("vms")["spec"]["endpoints"][0];
        assert!(endpoint["bearerTokenFile"].is_string());
        assert_eq!(endpoint["tlsConfig"]["serverName"], "vireo-controller.vms.svc");
        assert_eq!(endpoint["tlsConfig"]["ca"]["configMap"], json!({"name": "kubevirt-ca", "key": "ca-bundle"}));
        assert!(endpoint["tlsConfig"].get("insecureSkipVerify").is_none());
    }
}
