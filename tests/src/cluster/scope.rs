//! What a test works with.

use std::{fmt::Debug, rc::Rc, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use futures_util::StreamExt as _;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Event, Namespace, Pod, ServiceAccount},
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    runtime::watcher::watch_object,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{
    pin,
    time::{Instant, timeout_at},
};
use vireo_runtimeclass::cluster::{InstancePhase, VirtualMachine, VirtualMachineInstance};

use super::{Suite, objects::beside};
use crate::kubernetes::{FakeKubelet, eventually};

/// How long anything may take that takes a moment, on a machine under load.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A namespace of a test's own, and what it is in; clones are the same.
#[derive(Clone)]
pub struct Scope {
    suite: Rc<Suite>,
    client: Client,
    namespace: String,
}

impl Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scope").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Scope {
    /// Makes the namespace; comes back when pods can be made in it.
    pub(super) async fn make(suite: &Rc<Suite>, namespace: String) -> Result<Self> {
        let client = suite.client().await;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object = json!({"metadata": {"name": namespace}});
        namespaces.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        let scope = Self { suite: Rc::clone(suite), client, namespace };
        // With the token that this Kubernetes' pods are given.
        scope.wait("default", "it has a token", |account: &ServiceAccount| account.secrets.is_some()).await?;
        Ok(scope)
    }

    /// Everything else: the controller, users, `kubectl`.
    pub fn suite(&self) -> &Suite {
        &self.suite
    }

    /// What runs pods.
    pub fn kubelet(&self) -> &FakeKubelet {
        self.suite.kubelet()
    }

    /// The namespace's name.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The administrator's client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Objects of a kind in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes an object of any kind; what is stored, or the API server's refusal. Its namespace is this one unless it says another;
    /// an object of a kind without namespaces says an empty one.
    pub async fn create(&self, object: Value) -> Result<Value, kube::Error> {
        let object: DynamicObject = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
        let stored =
            beside(self.client.clone(), &object, Some(&self.namespace)).create(&PostParams::default(), &object).await?;
        serde_json::to_value(stored).map_err(kube::Error::SerdeError)
    }

    /// Makes an object that the API server must refuse; what it says.
    pub async fn refused(&self, object: Value) -> Result<String> {
        match self.create(object).await {
            Err(kube::Error::Api(status)) => Ok(status.message),
            Err(error) => Err(error.into()),
            Ok(object) => bail!("it was not refused: {object:#}"),
        }
    }

    /// Changes an object of this namespace by a merge patch.
    pub async fn patch<K>(&self, name: &str, patch: Value) -> Result<K, kube::Error>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
    }

    /// Deletes an object of this namespace; comes back at once.
    pub async fn delete<K>(&self, name: &str) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        self.api::<K>().delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Waits until an object is there and something holds of it; fails with what was seen last.
    pub async fn wait<K>(&self, name: &str, what: &str, holds: impl FnMut(&K) -> bool) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
        K::DynamicType: Default,
    {
        let mut holds = holds;
        let found = self.watch(name, what, |object: Option<&K>| object.is_some_and(&mut holds)).await?;
        found.context("what holds of it is there")
    }

    /// Waits until an object is gone.
    pub async fn wait_gone<K>(&self, name: &str) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
        K::DynamicType: Default,
    {
        self.watch(name, "it is gone", |object: Option<&K>| object.is_none()).await.map(drop)
    }

    async fn watch<K>(&self, name: &str, what: &str, mut holds: impl FnMut(Option<&K>) -> bool) -> Result<Option<K>>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
        K::DynamicType: Default,
    {
        let end = Instant::now() + LIMIT;
        let changes = watch_object(self.api::<K>(), name);
        pin!(changes);
        let mut last = None;
        while let Ok(Some(change)) = timeout_at(end, changes.next()).await {
            // Watches end when the API server does, and are made anew.
            let Ok(object) = change else { continue };
            if holds(object.as_ref()) {
                return Ok(object);
            }
            last = object;
        }
        let kind = K::kind(&K::DynamicType::default()).into_owned();
        let seen = last.map_or(Ok("it isn't there".to_owned()), |object| serde_json::to_string_pretty(&object))?;
        Err(anyhow!("{kind} {name}: {what}: not within {} s; seen last:\n{seen}", LIMIT.as_secs()))
    }

    /// Waits for a VirtualMachine of which something holds.
    pub async fn vm(
        &self,
        name: &str,
        what: &str,
        holds: impl FnMut(&VirtualMachine) -> bool,
    ) -> Result<VirtualMachine> {
        self.wait(name, what, holds).await
    }

    /// Waits for a VirtualMachineInstance in a phase.
    pub async fn vmi(&self, name: &str, phase: InstancePhase) -> Result<VirtualMachineInstance> {
        self.wait(name, &format!("{phase:?}"), |instance: &VirtualMachineInstance| {
            instance.status.as_ref().and_then(|status| status.phase) == Some(phase)
        })
        .await
    }

    /// The pod of an instance, once there is one.
    pub async fn pod(&self, instance: &VirtualMachineInstance) -> Result<Pod> {
        let uid = instance.uid().context("a stored object has a uid")?;
        let listed = ListParams::default().labels(&format!("kubevirt.io/created-by={uid}"));
        let pods = self.api::<Pod>();
        eventually("the instance's pod", LIMIT, async || Ok(pods.list(&listed).await?.items.pop())).await
    }

    /// Waits for an event about an object; what it says.
    pub async fn event(&self, object: &str, reason: &str) -> Result<String> {
        let selected = ListParams::default().fields(&format!("involvedObject.name={object},reason={reason}"));
        let events = self.api::<Event>();
        eventually(&format!("an event {reason} of {object}"), LIMIT, async || {
            Ok(events.list(&selected).await?.items.pop().and_then(|event| event.message))
        })
        .await
    }
}
