//! An agent's life: a beat a minute; at its end the node is left as it is, unless Vireo goes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use vireo_runtimeclass::node::BEAT;

use super::events::Events;
use super::label::{beat, farewell, until_next_beat};
use super::set_up::{self, Fitness, is_due};

/// After a beat that the API server didn't take: the first wait. Each is twice as long as the one before, up to a beat.
const RETRY: Duration = Duration::from_secs(2);

/// The agent of one node.
pub(crate) struct Agent {
    name: String,
    nodes: Api<Node>,
    kubevirts: Api<DynamicObject>,
    events: Events,
    node: set_up::Node,
    /// How the node was, and when that was seen.
    last: Option<(Fitness, Instant)>,
    /// What was told of it.
    told: Option<Fitness>,
    retry: Duration,
    ready: Arc<Notify>,
}

impl Agent {
    /// The agent of `node`; `namespace` is that of the KubeVirt object. `ready` is told with each beat.
    pub(crate) fn new(client: Client, node: &str, namespace: &str, ready: Arc<Notify>) -> Self {
        let kind =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("kubevirt.io", "v1", "KubeVirt"), "kubevirts");
        Self {
            name: node.to_owned(),
            nodes: Api::all(client.clone()),
            kubevirts: Api::namespaced_with(client.clone(), namespace, &kind),
            events: Events::new(client, node),
            node: set_up::Node::default(),
            last: None,
            told: None,
            retry: RETRY,
            ready,
        }
    }

    /// Lives until `stop`.
    ///
    /// # Errors
    /// Where the node should be left clean and couldn't.
    pub(crate) async fn live(&mut self, stop: &CancellationToken) -> Result<()> {
        info!("version {} on node {}", env!("CARGO_PKG_VERSION"), self.name);
        while let Some(wait) = stop.run_until_cancelled(self.beat()).await {
            if stop.run_until_cancelled(sleep(wait)).await.is_none() {
                break;
            }
        }
        self.leave().await
    }

    /// Sees to the node where it is time, and says how it is; how long to wait then.
    async fn beat(&mut self) -> Duration {
        let seen = self.last.take().filter(|(fitness, at)| !is_due(fitness, at.elapsed()));
        let (fitness, at) = match seen {
            Some(seen) => seen,
            None => (self.node.set_up().await, Instant::now()),
        };
        self.last = Some((fitness.clone(), at));
        if let Err(error) = self.write(&beat(fitness == Fitness::Fit, Timestamp::now())).await {
            warn!("can't label node {}: {error}", self.name);
            let wait = self.retry;
            self.retry = BEAT.min(self.retry * 2);
            return wait;
        }
        self.retry = RETRY;
        self.tell(fitness).await;
        self.ready.notify_one();
        until_next_beat(rand::random())
    }

    /// Tells what is new of the node; with the next beat once more, where nobody heard it.
    async fn tell(&mut self, fitness: Fitness) {
        if self.told.as_ref() == Some(&fitness) {
            return;
        }
        let heard = match &fitness {
            Fitness::Fit => {
                let note = format!("guests may be placed here (Vireo {})", env!("CARGO_PKG_VERSION"));
                info!("{note}");
                self.events.tell(EventType::Normal, "VireoReady", &note).await
            }
            Fitness::Unfit(why) => {
                warn!("no guests are placed here: {why}");
                let note = format!("no guests are placed here: {why}");
                self.events.tell(EventType::Warning, "VireoNotReady", &note).await
            }
        };
        if heard {
            self.told = Some(fitness);
        }
    }

    /// Leaves the node: to the next agent, or, where Vireo goes, as it was before there was one.
    async fn leave(&self) -> Result<()> {
        let objects = self.kubevirts.list_metadata(&ListParams::default()).await;
        let objects = objects.context("see whether Vireo goes: the node stays as it is")?.items;
        if !goes(objects.iter().map(|object| object.metadata.deletion_timestamp.is_some())) {
            info!("the node stays as it is, for the next agent");
            return Ok(());
        }
        self.write(&farewell()).await.context("take the labels off the node, which stays set up")?;
        if let Err(error) = set_up::take_back().await {
            let note = format!("Vireo goes, and is left on this node: {error}");
            self.events.tell(EventType::Warning, "VireoLeft", &note).await;
            return Err(error).context("Vireo is left on this node; install.sh --uninstall takes it away there");
        }
        info!("nothing of Vireo's is left on this node");
        Ok(())
    }

    async fn write(&self, patch: &Value) -> kube::Result<()> {
        self.nodes.patch_metadata(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }
}

/// Whether Vireo goes, by whether each KubeVirt object does: the operator keeps the last one until the agents have gone.
fn goes(mut going: impl Iterator<Item = bool>) -> bool {
    going.next().is_some_and(|first| first && going.all(|is_going| is_going))
}

#[cfg(test)]
mod tests {
    use super::goes;

    #[test]
    fn a_node_is_cleaned_only_when_vireo_goes() {
        assert!(goes([true].into_iter()) && goes([true, true].into_iter()));
        assert!(!goes([].into_iter()), "an agent whose object nobody has seen go stays on the safe side");
        assert!(!goes([false].into_iter()) && !goes([true, false].into_iter()), "an upgrade, say");
    }
}
