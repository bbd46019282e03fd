//! Nodes that run nothing: pods bound to them are said to run, to be ready as their readiness gates allow, and are gone once
//! they are deleted, as kubelets would say it. In a namespace that is [held](FakeKubelet::hold) a test says it all.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use futures_util::StreamExt as _;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, Pod},
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};

use super::{
    HOST,
    pod_status::{State, is_ready, status},
};

/// Its nodes.
pub const FAKE_NODES: [&str; 2] = ["fake-1", "fake-2"];
/// The node controller waits for 40 seconds at most.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Pods that it serves at once.
const AT_ONCE: usize = 32;
/// How often a pod is attended to, and what lies between, while the API server is away.
const ATTEMPTS: u32 = 30;
const PAUSE: Duration = Duration::from_secs(1);

/// The kubelets of [`FAKE_NODES`]; clones are the same.
#[derive(Clone)]
pub struct FakeKubelet {
    client: Client,
    held: Arc<Mutex<HashSet<String>>>,
    /// How long a pod's start takes.
    takes: Duration,
    /// The uids of those that are starting.
    starting: Arc<Mutex<HashSet<String>>>,
}

impl std::fmt::Debug for FakeKubelet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeKubelet").field("held", &self.held).finish_non_exhaustive()
    }
}

impl FakeKubelet {
    /// Makes its nodes, and goes on in a task of this runtime's.
    pub async fn start(client: Client) -> Result<Self> {
        Self::start_slow(client, Duration::ZERO).await
    }

    /// Likewise; a pod runs so long after it was bound.
    pub async fn start_slow(client: Client, takes: Duration) -> Result<Self> {
        let kubelet = Self { client, held: Arc::default(), takes, starting: Arc::default() };
        for name in FAKE_NODES {
            kubelet.make_node(name).await.with_context(|| format!("make node {name}"))?;
        }
        tokio::spawn(kubelet.clone().serve());
        tokio::spawn(kubelet.clone().beat());
        Ok(kubelet)
    }

    /// From now on what pods of a namespace do is what a test says, their end included.
    pub fn hold(&self, namespace: &str) {
        self.held().insert(namespace.to_owned());
    }

    /// From now on what this one pod does is what a test says, until its namespace is released.
    pub fn hold_pod(&self, pod: &Pod) {
        self.held().insert(key(pod));
    }

    /// From now on this one pod runs by itself again.
    pub async fn release_pod(&self, pod: &Pod) -> Result<()> {
        self.held().remove(&key(pod));
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().context("a pod has a namespace")?);
        if let Some(now) = pods.get_opt(&pod.name_any()).await? {
            self.attend(now).await;
        }
        Ok(())
    }

    /// From now on pods of a namespace run by themselves again.
    pub async fn release(&self, namespace: &str) -> Result<()> {
        self.held().retain(|held| held != namespace && !held.starts_with(&format!("{namespace}/")));
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        for pod in pods.list(&ListParams::default()).await? {
            self.attend(pod).await;
        }
        Ok(())
    }

    /// Says what a pod's containers do.
    pub async fn say(&self, pod: &Pod, state: &State) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().context("a pod has a namespace")?);
        // Its own status would be of the time when the test saw it.
        let now = pods.get(&pod.name_any()).await?;
        pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(status(&now, state))).await?;
        Ok(())
    }

    /// Ends a pod that was deleted.
    pub async fn remove(&self, pod: &Pod) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().context("a pod has a namespace")?);
        let preconditions = Some(Preconditions { uid: pod.uid(), resource_version: None });
        let how = DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
        pods.delete(&pod.name_any(), &how).await?;
        Ok(())
    }

    /// Takes its nodes away, for real ones to come.
    pub async fn remove_nodes(&self) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        for name in FAKE_NODES {
            nodes.delete(name, &DeleteParams::default()).await?;
        }
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, HashSet<String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn starting(&self) -> MutexGuard<'_, HashSet<String>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn make_node(&self, name: &str) -> Result<()> {
        let amounts = json!({"cpu": "10k", "memory": "100Ti", "ephemeral-storage": "100Ti", "pods": "10k"});
        let now = Timestamp::now().to_string();
        let node = json!({
            "metadata": {"name": name, "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "kubevirt.io/schedulable": "true",
            }},
            "status": {
                "capacity": amounts,
                "allocatable": amounts,
                // Nobody listens there: who would speak to a pod is refused at once.
                "addresses": [{"type": "InternalIP", "address": HOST}, {"type": "Hostname", "address": name}],
                "conditions": [{
                    "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "it runs nothing",
                    "lastHeartbeatTime": now, "lastTransitionTime": now,
                }],
            },
        });
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
        Ok(())
    }

    async fn serve(self) {
        let pods = watcher(Api::<Pod>::all(self.client.clone()), watcher::Config::default()).default_backoff();
        pods.applied_objects()
            .for_each_concurrent(AT_ONCE, async |pod| {
                // Where there is none the API server is down, and the watch is made anew.
                match pod {
                    Ok(pod) if self.takes > Duration::ZERO && is_to_start(&pod) => self.attend_later(pod),
                    Ok(pod) => self.attend(pod).await,
                    Err(_) => {}
                }
            })
            .await;
    }

    /// Starts a pod, which takes a while; those that are starting don't wait for each other.
    fn attend_later(&self, pod: Pod) {
        let uid = pod.uid().unwrap_or_default();
        if !self.starting().insert(uid.clone()) {
            return;
        }
        let kubelet = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(kubelet.takes).await;
            kubelet.attend(pod).await;
            kubelet.starting().remove(&uid);
        });
    }

    /// Does what a pod, as it was seen, needs next, again where an API server is away. Seeing too little of it is made good by its next
    /// change.
    async fn attend(&self, pod: Pod) {
        // A pod that is gone, or another's by now, needs nothing.
        let gone = |error: &kube::Error| matches!(error, kube::Error::Api(status) if [404, 409].contains(&status.code));
        for _ in 0..ATTEMPTS {
            match self.attend_once(&pod).await {
                Err(error) if !error.downcast_ref().is_some_and(gone) => {
                    eprintln!("the fake kubelet failed: {error:#}");
                }
                _ => return,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn attend_once(&self, pod: &Pod) -> Result<()> {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        let is_held =
            |held: &HashSet<String>| held.contains(&pod.namespace().unwrap_or_default()) || held.contains(&key(pod));
        if !FAKE_NODES.contains(&node) || is_held(&self.held()) {
            return Ok(());
        }
        let seen = pod.status.clone().unwrap_or_default();
        let phase = seen.phase.as_deref().unwrap_or("Pending");
        if pod.metadata.deletion_timestamp.is_some() {
            if matches!(phase, "Pending" | "Running") {
                // Of no matter: the pod goes.
                let _ = self.say(pod, &State::ended(0)).await;
            }
            self.remove(pod).await
        } else if phase == "Pending" || (phase == "Running" && is_ready(&seen) != State::Running.makes_ready(pod)) {
            self.say(pod, &State::Running).await
        } else {
            Ok(())
        }
    }

    /// Says that the nodes live.
    async fn beat(self) {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        loop {
            for name in FAKE_NODES {
                if let Err(error) =
                    leases.patch(name, &PatchParams::apply("kubelet").force(), &Patch::Apply(lease(name))).await
                {
                    eprintln!("the fake kubelet's heartbeat failed: {error}");
                }
            }
            tokio::time::sleep(HEARTBEAT).await;
        }
    }
}

/// A pod that is bound and neither runs nor goes.
fn is_to_start(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    let is_bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    is_bound && phase == "Pending" && pod.metadata.deletion_timestamp.is_none()
}

fn key(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

fn lease(node: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": node},
        "spec": {"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": format!("{:.6}", Timestamp::now())},
    })
}
