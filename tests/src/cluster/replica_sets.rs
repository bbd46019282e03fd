//! Replica sets.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{VirtualMachineInstance, VirtualMachineInstanceReplicaSet};

use super::{Scope, Test, scope::LIMIT, tests};
use crate::kubernetes::eventually;

pub(super) const TESTS: &[Test] = tests![Together: a_replica_set_keeps_its_instances];

type Set = VirtualMachineInstanceReplicaSet;

fn set(replicas: u32) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceReplicaSet", "metadata": {"name": "set"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"of": "set"}},
            "template": {
                "metadata": {"labels": {"of": "set"}},
                "spec": {"domain": {"devices": {}, "memory": {"guest": "64Mi"}}, "terminationGracePeriodSeconds": 0},
            },
        },
    })
}

/// Its instances, once there are so many, and none that is going.
async fn instances(scope: &Scope, count: usize) -> Result<BTreeSet<String>> {
    let api = scope.api::<VirtualMachineInstance>();
    eventually(&format!("{count} instances"), LIMIT, async || {
        let seen = api.list(&ListParams::default().labels("of=set")).await?.items;
        let live: BTreeSet<_> = seen
            .iter()
            .filter(|seen| seen.metadata.deletion_timestamp.is_none())
            .map(kube::ResourceExt::name_any)
            .collect();
        Ok((live.len() == count && seen.len() == count).then_some(live))
    })
    .await
}

async fn a_replica_set_keeps_its_instances(scope: Scope) -> Result<()> {
    scope.create(set(3)).await?;
    let first = instances(&scope, 3).await?;
    ensure!(first.iter().all(|name| name.starts_with("set")), "{first:?}");
    let counts = |count| {
        move |set: &Set| {
            set.status.as_ref().is_some_and(|status| {
                status.replicas == Some(count) && status.label_selector.as_deref() == Some("of=set")
            })
        }
    };
    scope.wait("set", "it counts three", counts(3)).await?;
    scope.event("set", "SuccessfulCreate").await?;

    let lost = first.first().cloned().unwrap_or_default();
    scope.delete::<VirtualMachineInstance>(&lost).await?;
    scope.wait_gone::<VirtualMachineInstance>(&lost).await?;
    ensure!(!instances(&scope, 3).await?.contains(&lost), "another takes its place");

    let ended = instances(&scope, 3).await?.last().cloned().unwrap_or_default();
    let phase = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    scope.api::<VirtualMachineInstance>().patch_status(&ended, &PatchParams::default(), &phase).await?;
    scope.wait_gone::<VirtualMachineInstance>(&ended).await?;
    instances(&scope, 3).await?;

    // As autoscalers and `kubectl scale` do.
    scope.suite().kubectl(&["-n", scope.namespace(), "scale", "vmirs", "set", "--replicas=5"]).await?;
    instances(&scope, 5).await?;
    scope.suite().kubectl(&["-n", scope.namespace(), "scale", "vmirs", "set", "--replicas=1"]).await?;
    let only = instances(&scope, 1).await?;
    scope.event("set", "SuccessfulDelete").await?;

    scope.patch::<Set>("set", json!({"spec": {"paused": true, "replicas": 2}})).await?;
    scope.event("set", "SuccessfulPaused").await?;
    ensure!(instances(&scope, 1).await? == only, "it is paused");
    scope.patch::<Set>("set", json!({"spec": {"paused": false}})).await?;
    scope.event("set", "SuccessfulResumed").await?;
    instances(&scope, 2).await?;
    scope.wait("set", "it counts two", counts(2)).await?;
    // What it made goes with it.
    scope.delete::<Set>("set").await?;
    instances(&scope, 0).await.map(drop)
}
