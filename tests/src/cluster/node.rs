//! With a real kubelet, containerd and guests.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::{Scope, Test, tests};
use crate::kubernetes::eventually;

pub(super) const TESTS: &[Test] = tests![Node: a_pod_of_the_runtime_class_is_a_guest];

/// For a guest's start in an emulated node.
const BOOT: Duration = Duration::from_mins(2);

async fn a_pod_of_the_runtime_class_is_a_guest(scope: Scope) -> Result<()> {
    scope
        .create(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "guest"},
            "spec": {
                "runtimeClassName": "vireo",
                "automountServiceAccountToken": false,
                "containers": [{
                    "name": "compute",
                    "image": "docker.io/library/vireo-guest:1",
                    "imagePullPolicy": "Never",
                    "resources": {"limits": {"memory": "256Mi", "cpu": "1"}},
                }],
            },
        }))
        .await?;
    let suite = scope.suite();
    let of = |verb: &'static str| [verb, "guest", "--namespace", scope.namespace()];
    let log = eventually("the guest's last line of its start", BOOT, async || {
        // Until the container runs there is no log to be had.
        let log = suite.kubectl(&of("logs")).await.unwrap_or_default();
        Ok(log.contains("GUEST-UP").then_some(log))
    })
    .await?;
    ensure!(log.contains("GUEST kernel="), "{log}");
    let is_ready = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let pod = scope.wait("guest", "it is ready", is_ready).await?;
    let ip = pod.status.and_then(|status| status.pod_ip).unwrap_or_default();
    ensure!(ip.starts_with("10.88."), "the pod's address is {ip:?}");
    scope.delete::<Pod>("guest").await?;
    eventually("the pod's end", BOOT, async || Ok(scope.api::<Pod>().get_opt("guest").await?.is_none().then_some(())))
        .await
}
