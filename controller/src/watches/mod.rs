//! What of the cluster is remembered: each kind is watched once, for all reconcilers, and kept without what nobody here reads.
//!
//! ```text
//!   feed   one kind: its store, and who is told of its changes
//!   slim   what of each object is kept
//! ```
//!
//! [`Watches::new`] begins nothing: reconcilers ask for the stores and follow the changes first, then [`Watches::run`] keeps the
//! stores up to date for as long as it is polled.

mod feed;
mod slim;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::SetOnce;
use vireo_runtimeclass::cluster::{VirtualMachine, VirtualMachineInstance};

pub use feed::Feed;

use crate::vmi::pod::{APP_LABEL, LAUNCHER};
use crate::vmi::reasons;

/// Objects of a page of a list: what is read at a start is in memory as text, as values and as objects at the same time.
const PAGE: u32 = 100;

/// What the reconcilers look at.
#[derive(Debug)]
pub struct Watches {
    /// All of the cluster.
    pub guests: Feed<VirtualMachine>,
    /// All of the cluster, with their specs.
    pub instances: Feed<VirtualMachineInstance>,
    /// Those of instances: where they are, how they are, whose they are.
    pub pods: Feed<Pod>,
    /// All of the cluster.
    pub claims: Feed<PersistentVolumeClaim>,
    /// What kubelets say of volumes that they can't mount: of every pod, for events can't be chosen by their objects' labels. Nobody waits
    /// for it.
    pub mounts: Feed<Event>,
}

impl Watches {
    /// Nothing is seen yet.
    pub fn new(client: &Client) -> Self {
        let all = || config();
        Self {
            guests: Feed::new(Api::all(client.clone()), all(), slim::guest),
            instances: Feed::new(Api::all(client.clone()), all(), slim::instance),
            pods: Feed::new(Api::all(client.clone()), all().labels(&format!("{APP_LABEL}={LAUNCHER}")), slim::pod),
            claims: Feed::new(Api::all(client.clone()), all(), slim::claim),
            mounts: Feed::new(
                Api::all(client.clone()),
                all().fields(&format!("involvedObject.kind=Pod,reason={}", reasons::FAILED_MOUNT)),
                slim::mount,
            ),
        }
    }

    /// What tells when the stores are to be relied on.
    pub fn ready(&self) -> Ready {
        let Self { guests, instances, pods, claims, mounts: _ } = self;
        Ready([guests.seen(), instances.seen(), pods.seen(), claims.seen()])
    }

    /// Keeps the stores up to date and tells those who follow, for as long as it is polled.
    pub async fn run(self) {
        let Self { guests, instances, pods, claims, mounts } = self;
        tokio::join!(guests.run(), instances.run(), pods.run(), claims.run(), mounts.run());
    }
}

/// Tells when everything that there is has been seen; clones are the same.
#[derive(Debug, Clone)]
pub struct Ready([Arc<SetOnce<()>>; 4]);

impl Ready {
    /// Comes back once every kind has been listed. A watch that ends afterwards leaves what was seen last.
    pub async fn wait(&self) {
        for seen in &self.0 {
            seen.wait().await;
        }
    }
}

/// How everything is watched.
pub(crate) fn config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE)
}
