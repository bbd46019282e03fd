//! What is made many times: a VirtualMachine as users have them, and beside it a ReplicaSet of one pod.

use serde_json::{Value, json};

/// The namespace of both.
pub const NAMESPACE: &str = "many";

/// The name of the one with a number.
pub fn name(number: usize) -> String {
    format!("many-{number:05}")
}

/// A guest with a disk, cloud-init and the pod's network.
pub fn guest(name: &str) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": name, "labels": {"app": "many"}},
        "spec": {
            "runStrategy": "Always",
            "template": {
                "metadata": {"labels": {"app": "many", "kubevirt.io/domain": name}},
                "spec": {
                    "domain": {
                        "cpu": {"cores": 1},
                        "memory": {"guest": "128Mi"},
                        "devices": {
                            "disks": [
                                {"name": "root", "disk": {"bus": "virtio"}}, {"name": "init", "disk": {"bus": "virtio"}},
                            ],
                            "interfaces": [{"name": "default", "masquerade": {}}],
                            "rng": {},
                        },
                    },
                    "networks": [{"name": "default", "pod": {}}],
                    "volumes": [
                        {"name": "root", "containerDisk": {"image": "example.com/guest:1"}},
                        {"name": "init", "cloudInitNoCloud": {"userData": "#cloud-config\nhostname: many\n"}},
                    ],
                },
            },
        },
    })
}

/// A pod of about the same wants, with the same RuntimeClass.
pub fn replica_set(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name, "labels": {"app": "many"}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"of": name}},
            "template": {
                "metadata": {"labels": {"app": "many", "of": name}},
                "spec": {
                    "runtimeClassName": "vireo",
                    "automountServiceAccountToken": false,
                    "containers": [{
                        "name": "compute", "image": "example.com/guest:1",
                        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
                    }],
                },
            },
        },
    })
}
