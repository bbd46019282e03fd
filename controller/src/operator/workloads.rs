//! What runs: the controller and the nodes' agents, and what keeps them running.

use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{ComponentConfig, KubeVirtSpec};
use vireo_runtimeclass::node::SCHEDULABLE;
use vireo_runtimeclass::pod::RUNTIME_CLASS;

use super::release::{Image, Release};
use super::{AGENT, CONTROLLER, HEALTH_PORT, PORT, PRIORITY_CLASS, monitoring};

/// The user of the controller and of the operator: nobody in particular.
const USER: u32 = 65532;
/// The controller's replicas: one reconciles, all answer.
const REPLICAS: u32 = 2;
/// Seconds for which a replica that was told to end answers still: an API server may take as long to hear that it goes.
const LINGER: u32 = 5;

/// Pods of Vireo's own bear this label, which tells them apart.
pub(super) const LABEL: &str = "kubevirt.io";

/// The controller.
pub(super) fn controller(namespace: &str, release: &Release, spec: &KubeVirtSpec) -> Value {
    let replicas = spec.infra.as_ref().and_then(|infra| infra.replicas).unwrap_or(REPLICAS);
    let linger = format!("--linger={LINGER}");
    let mut deployment = deployment(namespace, CONTROLLER, &release.controller, &["run", &linger]);
    deployment["spec"]["replicas"] = json!(replicas);
    let pod = &mut deployment["spec"]["template"]["spec"];
    if let Some(ports) = pod["containers"][0]["ports"].as_array_mut() {
        ports.push(json!({"name": "https", "containerPort": PORT, "protocol": "TCP"}));
    }
    // Pods of instances without an image of their own need one, and nothing of it runs: this one is there.
    if let Some(variables) = pod["containers"][0]["env"].as_array_mut() {
        variables.push(json!({"name": "VIREO_LAUNCHER_IMAGE", "value": release.controller.to_string()}));
    }
    pod["affinity"] = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
        "weight": 1,
        "podAffinityTerm": {
            "labelSelector": {"matchLabels": {LABEL: CONTROLLER}},
            "topologyKey": "kubernetes.io/hostname",
        },
    }]}});
    pull(pod, release, spec);
    place(pod, spec.infra.as_ref());
    deployment
}

/// The operator itself: one, for two would have two opinions. It answers nothing but probes and who reads metrics.
#[cfg(test)]
pub(super) fn operator(namespace: &str, image: &Image, agent: &Image) -> Value {
    let arguments = [
        "operator".to_owned(),
        format!("--image={image}"),
        format!("--agent-image={agent}"),
        format!("--metrics=0.0.0.0:{PORT}"),
    ];
    let mut operator = deployment(namespace, super::OPERATOR, image, &arguments.each_ref().map(String::as_str));
    if let Some(ports) = operator["spec"]["template"]["spec"]["containers"][0]["ports"].as_array_mut() {
        ports.push(json!({"name": "metrics", "containerPort": PORT, "protocol": "TCP"}));
    }
    operator["spec"]["replicas"] = json!(1);
    operator["spec"]["strategy"] = json!({"type": "Recreate"});
    operator
}

/// A Deployment of the controller's program.
fn deployment(namespace: &str, name: &str, image: &Image, arguments: &[&str]) -> Value {
    // A second, as where nothing is said, is too little on a busy node.
    let probe =
        |path: &str| json!({"httpGet": {"path": path, "port": HEALTH_PORT}, "periodSeconds": 5, "timeoutSeconds": 5});
    let health = format!("--health=0.0.0.0:{HEALTH_PORT}");
    let arguments: Vec<_> = arguments.iter().copied().chain([health.as_str()]).collect();
    let mut live = probe("/healthz");
    (live["initialDelaySeconds"], live["timeoutSeconds"]) = (json!(15), json!(20));
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": {LABEL: name}},
        "spec": {
            "selector": {"matchLabels": {LABEL: name}},
            "template": {
                "metadata": {"labels": {LABEL: name, monitoring::LABEL.0: monitoring::LABEL.1}},
                "spec": {
                    "containers": [{
                        "name": name,
                        "image": image.to_string(),
                        "args": arguments,
                        "env": [
                            from_field("POD_NAMESPACE", "metadata.namespace"),
                            from_field("POD_NAME", "metadata.name"),
                            // glibc gives each thread memory of its own, and keeps it: docs/benchmarks.md says how much.
                            {"name": "MALLOC_ARENA_MAX", "value": "1"},
                        ],
                        "ports": [{"name": "health", "containerPort": HEALTH_PORT, "protocol": "TCP"}],
                        "readinessProbe": probe("/readyz"),
                        "livenessProbe": live,
                        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
                        "securityContext": {
                            "allowPrivilegeEscalation": false,
                            "capabilities": {"drop": ["ALL"]},
                            "readOnlyRootFilesystem": true,
                        },
                    }],
                    "nodeSelector": {"kubernetes.io/os": "linux"},
                    "priorityClassName": PRIORITY_CLASS,
                    "securityContext": {
                        "runAsNonRoot": true,
                        "runAsUser": USER,
                        "runAsGroup": USER,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "serviceAccountName": name,
                    "tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}],
                },
            },
        },
    })
}

fn from_field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}

/// The nodes' agents. Setting a node up takes its root: an agent enters the mounts of the node's first process, which takes the node's
/// process ids, and opens the node's devices, which only privileged pods may. It has none of the node's folders, and its own are read-only.
pub(super) fn agent(namespace: &str, release: &Release, spec: &KubeVirtSpec) -> Value {
    let mut pod = json!({
        "containers": [{
            "name": AGENT,
            "image": release.agent.to_string(),
            "args": ["run", format!("--health=0.0.0.0:{HEALTH_PORT}")],
            "env": [
                from_field("NODE_NAME", "spec.nodeName"),
                from_field("POD_NAMESPACE", "metadata.namespace"),
            ],
            "ports": [{"name": "health", "containerPort": HEALTH_PORT, "protocol": "TCP"}],
            "readinessProbe": {"tcpSocket": {"port": HEALTH_PORT}, "periodSeconds": 5, "timeoutSeconds": 5},
            "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}},
            "securityContext": {"privileged": true, "readOnlyRootFilesystem": true, "runAsUser": 0},
            // Where it fails, its last words.
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }],
        "hostPID": true,
        "nodeSelector": {"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"},
        "priorityClassName": PRIORITY_CLASS,
        "serviceAccountName": AGENT,
        // At its end it may have to uninstall.
        "terminationGracePeriodSeconds": 120,
        "tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}],
    });
    pull(&mut pod, release, spec);
    place(&mut pod, spec.workloads.as_ref());
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": AGENT, "namespace": namespace, "labels": {LABEL: AGENT}},
        "spec": {
            "selector": {"matchLabels": {LABEL: AGENT}},
            "template": {"metadata": {"labels": {LABEL: AGENT}}, "spec": pod},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
        },
    })
}

fn pull(pod: &mut Value, release: &Release, spec: &KubeVirtSpec) {
    pod["containers"][0]["imagePullPolicy"] = json!(release.pull);
    if !spec.image_pull_secrets.is_empty() {
        pod["imagePullSecrets"] = json!(spec.image_pull_secrets);
    }
}

/// Puts a pod on the nodes that are configured, besides those that it needs.
fn place(pod: &mut Value, config: Option<&ComponentConfig>) {
    let Some(placement) = config.and_then(|config| config.node_placement.as_ref()) else { return };
    for (name, value) in &placement.node_selector {
        pod["nodeSelector"][name] = json!(value);
    }
    if let Some(affinity) = &placement.affinity {
        pod["affinity"] = json!(affinity);
    }
    if let Some(tolerations) = pod["tolerations"].as_array_mut() {
        tolerations.extend(placement.tolerations.iter().map(|toleration| json!(toleration)));
    }
}

/// What a node may take away of the controller at once. `v1` is Kubernetes' since 1.21, and alone since 1.25.
pub(super) fn disruption_budget(namespace: &str, v1: bool) -> Value {
    json!({
        "apiVersion": if v1 { "policy/v1" } else { "policy/v1beta1" },
        "kind": "PodDisruptionBudget",
        "metadata": {"name": CONTROLLER, "namespace": namespace},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {LABEL: CONTROLLER}}},
    })
}

/// The name by which pods ask for Vireo, on nodes that an agent has found fit.
pub(super) fn runtime_class(spec: &KubeVirtSpec) -> Value {
    const MANIFEST: &str = include_str!(concat!(env!("OUT_DIR"), "/runtimeclass.json"));
    let mut class: Value = serde_json::from_str(MANIFEST).unwrap_or_default();
    debug_assert_eq!(class["metadata"]["name"], RUNTIME_CLASS);
    class["scheduling"] = json!({"nodeSelector": {SCHEDULABLE: "true"}});
    let placement = spec.workloads.as_ref().and_then(|workloads| workloads.node_placement.as_ref());
    if let Some(tolerations) = placement.map(|placement| &placement.tolerations).filter(|all| !all.is_empty()) {
        class["scheduling"]["tolerations"] = json!(tolerations);
    }
    class
}

/// The class of pods that Vireo can't do without: the operator comes with it, for it needs it first.
#[cfg(test)]
pub(super) fn priority_class() -> Value {
    json!({
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": PRIORITY_CLASS},
        "value": 1_000_000_000,
        "globalDefault": false,
        "description": "For what VirtualMachines can't do without.",
    })
}
