//! Watches the nodes that take guests, and keeps guests away from those that are silent.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::sleep;
use tracing::warn;
use vireo_runtimeclass::node::{SCHEDULABLE, SILENCE};

use super::hearts::Hearts;
use crate::Context;

/// Of nodes no more is asked than this.
type Nodes = Api<PartialObjectMeta<Node>>;

/// After a write that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps guests away from silent nodes for as long as it is polled.
pub async fn run(context: Context) {
    let nodes = Nodes::all(Client::clone(&context.client));
    let config = watcher::Config::default().labels(&format!("{SCHEDULABLE}=true"));
    let mut changes = pin!(watcher(nodes.clone(), config).default_backoff());
    let mut hearts = Hearts::default();
    loop {
        let next = hearts.next(Timestamp::now());
        tokio::select! {
            Some(change) = changes.next() => match change {
                Ok(watcher::Event::Init) => hearts.forget_all(),
                Ok(watcher::Event::InitApply(node) | watcher::Event::Apply(node)) => {
                    hearts.see(&node.metadata, Timestamp::now());
                }
                Ok(watcher::Event::Delete(node)) => hearts.forget(&node.metadata.name.unwrap_or_default()),
                Ok(watcher::Event::InitDone) => {}
                Err(error) => warn!("can't watch nodes: {error}"),
            },
            () = after(next) => end_patience(&nodes, &mut hearts).await,
        }
    }
}

async fn after(wait: Option<Duration>) {
    match wait {
        Some(wait) => sleep(wait).await,
        None => std::future::pending().await,
    }
}

async fn end_patience(nodes: &Nodes, hearts: &mut Hearts) {
    for (name, version) in hearts.silent(Timestamp::now()) {
        // Of the version that was seen: its agent may be saying just now that it lives.
        let patch = json!({"metadata": {"resourceVersion": version, "labels": {SCHEDULABLE: "false"}}});
        match nodes.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => {
                warn!("node {name} takes no more guests: its agent has been silent for {} s", SILENCE.as_secs());
                hearts.forget(&name);
            }
            // The watch tells what it is now.
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => hearts.forget(&name),
            Err(error) => {
                warn!("can't keep guests away from the silent node {name}: {error}");
                hearts.postpone(&name, Timestamp::now(), RETRY);
            }
        }
    }
}
