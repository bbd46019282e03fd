//! Nodes whose agents are silent take no more guests.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use vireo_runtimeclass::node::{HEARTBEAT, SCHEDULABLE, SILENCE};

use super::{Scope, Test, tests};
use crate::{cluster::scope::LIMIT, kubernetes::until};

pub(super) const TESTS: &[Test] = tests![Together: a_silent_node_takes_no_guests_until_its_agent_is_back];

/// The age of a heartbeat whose time is not over yet: the controller has to wait for its end.
const ALMOST: Duration = Duration::from_secs(SILENCE.as_secs() - 3);

/// A heartbeat that was written so long ago.
fn beat(ago: Duration) -> Result<Value> {
    Ok(json!({HEARTBEAT: Timestamp::now().checked_sub(ago)?.to_string()}))
}

async fn takes_guests(nodes: &Api<Node>, name: &str) -> Result<String> {
    Ok(nodes.get_metadata(name).await?.labels().get(SCHEDULABLE).cloned().unwrap_or_default())
}

async fn a_silent_node_takes_no_guests_until_its_agent_is_back(scope: Scope) -> Result<()> {
    let nodes: Api<Node> = Api::all(scope.client().clone());
    let [falls_silent, by_hand, long_silent] =
        ["falls-silent", "by-hand", "long-silent"].map(|name| format!("{}-{name}", scope.namespace()));
    // Nothing fits on them.
    let make = async |name: &str, annotations: Value| {
        let labels = json!({SCHEDULABLE: "true"});
        let metadata = json!({"name": name, "namespace": "", "labels": labels, "annotations": annotations});
        scope.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata})).await
    };
    let is = async |name: &str, expected: &str| {
        let what = format!("{name} has {SCHEDULABLE}={expected}");
        until(&what, LIMIT, async || Ok(takes_guests(&nodes, name).await? == expected)).await
    };
    make(&by_hand, json!({})).await?;
    make(&falls_silent, beat(ALMOST)?).await?;
    ensure!(takes_guests(&nodes, &falls_silent).await? == "true", "its time was not over");
    is(&falls_silent, "false").await?;
    // As its agent says it.
    let back = json!({"metadata": {"labels": {SCHEDULABLE: "true"}, "annotations": beat(Duration::ZERO)?}});
    nodes.patch(&falls_silent, &PatchParams::default(), &Patch::Merge(back)).await?;
    make(&long_silent, beat(SILENCE * 2)?).await?;
    is(&long_silent, "false").await?;
    for (name, why) in [(&falls_silent, "its agent is back"), (&by_hand, "it has no agent that could be silent")] {
        ensure!(takes_guests(&nodes, name).await? == "true", "{name}: {why}");
    }
    for name in [&falls_silent, &by_hand, &long_silent] {
        nodes.delete(name, &DeleteParams::default()).await?;
    }
    Ok(())
}
