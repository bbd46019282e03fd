//! Reads, plans, applies, and says what came of it.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};
use vireo_runtimeclass::cluster::{
    KubeVirt, KubeVirtSpec, KubeVirtStatus, UninstallStrategy, VirtualMachine, VirtualMachineInstance,
    VirtualMachineInstanceReplicaSet,
};
use vireo_runtimeclass::node::{HEARTBEAT, SCHEDULABLE, VERSION};

use super::desired::{Inputs, desired};
use super::observe::{Apis, Server, Watch};
use super::plan::{Applied, Key, Seen, plan};
use super::release::{Image, Release};
use super::removal::{Removal, removal};
use super::status::{Outcome, answers, status, waiting_for};
use super::{FINALIZER, OPERATOR, front, monitoring};
use crate::certificates::{self, Lifetimes};
use crate::health::Health;
use crate::words::words;

/// Changes come in swarms: what comes so shortly after another is looked at with it.
const SETTLE: Duration = Duration::from_millis(200);
/// After a failure, and while guests keep Vireo from going: the longest wait, and the first.
const RETRY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(1));

/// How the operator runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its namespace, and that of all that it makes.
    pub namespace: String,
    /// The controller's image.
    pub image: String,
    /// The agents' image.
    pub agent_image: String,
}

/// Acts on the KubeVirt object for as long as it is polled; `health` is ready when all that there is has been seen.
///
/// # Errors
/// Where the API server can't be asked what it has.
pub async fn run(client: Client, options: Options, health: Health) -> kube::Result<()> {
    let server = Server::ask(&client).await?;
    let apis = Apis { client: client.clone(), namespace: options.namespace.clone(), server };
    let mut watch = Watch::new(&apis);
    let mut operator = Operator {
        kubevirts: Api::namespaced(client, &options.namespace),
        images: (Image::parse(&options.image), Image::parse(&options.agent_image)),
        apis,
        applied: Applied::new(),
        health,
    };
    let objects = watcher(operator.kubevirts.clone(), watcher::Config::default()).default_backoff();
    let mut objects = pin!(objects.touched_objects());
    let (mut retry, mut next) = (RETRY.1, Some(Instant::now()));
    loop {
        let due = async {
            match next {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {
                next = match operator.act(&mut watch).await {
                    Ok(again) => {
                        retry = RETRY.1;
                        again
                    }
                    Err(error) => {
                        warn!("will try again: {error}");
                        let at = Instant::now() + retry;
                        retry = RETRY.0.min(retry * 2);
                        Some(at)
                    }
                };
            }
            () = watch.changed() => {
                let soon = Instant::now() + SETTLE;
                // A failure waits its time.
                if retry == RETRY.1 { next = Some(next.map_or(soon, |at| at.min(soon))); }
            }
            Some(object) = objects.next() => match object {
                Ok(_) => next = Some(Instant::now() + SETTLE),
                Err(error) => warn!("can't watch KubeVirt objects: {error}"),
            },
        }
    }
}

struct Operator {
    kubevirts: Api<KubeVirt>,
    images: (Image, Image),
    apis: Apis,
    applied: Applied,
    health: Health,
}

type Again = Option<Instant>;
type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Operator {
    /// Looks once, and says when to look again although nothing changes.
    async fn act(&mut self, watch: &mut Watch) -> Result<Again, Failure> {
        if watch.observed().is_none() {
            return Ok(None);
        }
        self.health.set_ready();
        let mut objects = self.kubevirts.list(&ListParams::default()).await?.items;
        // The oldest counts; where several are as old, the first by name.
        objects.sort_by_key(|object| (object.creation_timestamp(), object.name_any()));
        let mut objects = objects.into_iter();
        let Some(object) = objects.next() else { return Ok(None) };
        let spec = object.spec();
        let readable = spec.as_ref().cloned().unwrap_or_default();
        let target = Release::of(&readable, &self.apis.namespace, &self.images.0, &self.images.1);
        for second in objects {
            self.say(&second, &target, &Outcome::Second).await?;
        }
        if object.metadata.deletion_timestamp.is_some() {
            return self.remove(&object, &target, watch).await;
        }
        let spec = match spec {
            Ok(spec) => spec,
            Err(problems) => {
                self.say(&object, &target, &Outcome::Failed(problems.to_string())).await?;
                // What is wrong stays so until it is changed.
                return Ok(None);
            }
        };
        self.keep(&object).await?;
        let (outcome, again) = match self.deploy(&spec, &target, watch).await {
            Ok((waiting, again)) => (Outcome::Applied(waiting), Ok(again)),
            Err(error) => (Outcome::Failed(error.to_string()), Err(error)),
        };
        self.say(&object, &target, &outcome).await?;
        again
    }

    /// Applies all that isn't there, removes what shouldn't be; says what isn't ready.
    async fn deploy(
        &mut self,
        spec: &KubeVirtSpec,
        release: &Release,
        watch: &mut Watch,
    ) -> Result<(Vec<String>, Again), Failure> {
        let (client, namespace) = (self.apis.client.clone(), self.apis.namespace.clone());
        let lifetimes = Lifetimes::of(spec.certificate_rotate_strategy.as_ref())?;
        let (held, key) = certificates::read(&client, &namespace).await?;
        let now = Timestamp::now();
        let (held, renewal) = certificates::rotate(now, &lifetimes, &front::server_names(&namespace), &held)?;
        let has_kinds = watch.has(monitoring::GROUP);
        let reader = if has_kinds { monitoring::Reader::find(&client, spec).await? } else { None };
        let Some(observed) = watch.observed() else { return Ok((Vec::new(), None)) };
        let objects = desired(&Inputs {
            namespace: &namespace,
            release,
            spec,
            bundle: &held.bundle,
            secrets: &certificates::secrets(&held, &key),
            server: self.apis.server,
            answers: answers(observed, &namespace),
            reader: reader.as_ref(),
        });
        let plan = plan(&objects, observed, &self.applied);
        let observed_before: BTreeSet<Key> = observed.keys().cloned().collect();
        for (key, hash, object) in plan.apply {
            let api = self.apis.of(&key.kind, &key.namespace).ok_or_else(|| format!("{key}: unknown kind"))?;
            let applied = write(&api, &key, object, observed_before.contains(&key)).await;
            let mut applied = serde_json::to_value(applied.map_err(|error| format!("{key}: {error}"))?)?;
            applied["kind"] = json!(key.kind);
            let seen = Seen::of(&applied);
            info!("{key}: applied");
            self.applied.insert(key.clone(), (hash, seen.content.clone()));
            watch.note(key, seen);
        }
        let waiting = watch.observed().map(|observed| waiting_for(observed, &namespace)).unwrap_or_default();
        // An older version that runs still may need what the new one doesn't.
        if waiting.is_empty() {
            for key in plan.remove {
                self.delete(&key).await?;
            }
        }
        let in_time = renewal.duration_since(now);
        let wait = Duration::try_from(in_time).unwrap_or_default().max(Duration::from_millis(500));
        // Nothing tells that Prometheus' namespace comes.
        let wait = if has_kinds && reader.is_none() { wait.min(monitoring::LOOKS_EVERY) } else { wait };
        Ok((waiting, Some(Instant::now() + wait)))
    }

    /// Takes the next step of the way out.
    async fn remove(&mut self, object: &KubeVirt, release: &Release, watch: &mut Watch) -> Result<Again, Failure> {
        if !object.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(None);
        }
        let blocks = object
            .spec()
            .is_ok_and(|spec| spec.uninstall_strategy == Some(UninstallStrategy::BlockUninstallIfWorkloadsExist));
        if blocks && let Some(workload) = self.workload().await? {
            let message = format!("uninstallStrategy BlockUninstallIfWorkloadsExist: there still is {workload}");
            self.say(object, release, &Outcome::Deleting(message)).await?;
            // Nothing of the operator's own tells when they are gone.
            return Ok(Some(Instant::now() + RETRY.1 * 5));
        }
        let Some(observed) = watch.observed() else { return Ok(None) };
        let step = removal(observed);
        let (now, waiting) = match step {
            Removal::Done => {
                self.say(object, release, &Outcome::Deleted).await?;
                self.let_go(object).await?;
                self.applied.clear();
                info!("KubeVirt {}: everything is gone", object.name_any());
                return Ok(None);
            }
            Removal::Rest { now, waiting } => {
                self.unlabel_nodes().await?;
                (now, waiting)
            }
            Removal::Delete { now, waiting } => (now, waiting),
        };
        let names = now.iter().chain(&waiting).take(5).map(Key::to_string).collect::<Vec<_>>().join(", ");
        let outcome = Outcome::Deleting(format!("waiting for {} objects to go: {names}", now.len() + waiting.len()));
        self.say(object, release, &outcome).await?;
        for key in &now {
            if let Err(error) = self.delete(key).await {
                self.say(object, release, &Outcome::DeletionFailed(error.to_string())).await?;
                return Err(error);
            }
        }
        Ok(None)
    }

    /// Something that a user of Vireo's would lose.
    async fn workload(&self) -> Result<Option<String>, Failure> {
        async fn first<K>(client: &Client) -> Result<Option<String>, Failure>
        where
            K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
        {
            let found = Api::<K>::all(client.clone()).list_metadata(&ListParams::default().limit(1)).await;
            let found = match found {
                // A kind that is gone is told without a reason.
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
                found => found?,
            };
            let named = |object: &kube::core::PartialObjectMeta<K>| {
                format!("{} {}/{}", K::kind(&()), object.namespace().unwrap_or_default(), object.name_any())
            };
            Ok(found.items.first().map(named))
        }
        let client = &self.apis.client;
        if let Some(found) = first::<VirtualMachineInstance>(client).await? {
            return Ok(Some(found));
        }
        if let Some(found) = first::<VirtualMachine>(client).await? {
            return Ok(Some(found));
        }
        first::<VirtualMachineInstanceReplicaSet>(client).await
    }

    /// Deletes an object; one with pods goes after them.
    async fn delete(&mut self, key: &Key) -> Result<(), Failure> {
        let Some(api) = self.apis.of(&key.kind, &key.namespace) else { return Ok(()) };
        let has_pods = matches!(key.kind.as_str(), "DaemonSet" | "Deployment");
        let how = if has_pods { DeleteParams::foreground() } else { DeleteParams::default() };
        match api.delete(&key.name, &how).await {
            Ok(_) => info!("{key}: deleted"),
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(format!("{key}: {}", words(&error)).into()),
        }
        self.applied.remove(key);
        Ok(())
    }

    /// Takes off nodes what agents couldn't, whose pods somebody took away by force. A node that was labelled by hand is its admin's.
    async fn unlabel_nodes(&self) -> Result<(), Failure> {
        let nodes: Api<Node> = Api::all(self.apis.client.clone());
        for node in nodes.list_metadata(&ListParams::default().labels(VERSION)).await? {
            let labels = json!({SCHEDULABLE: null, VERSION: null});
            let patch = json!({"metadata": {"labels": labels, "annotations": {HEARTBEAT: null}}});
            nodes.patch_metadata(&node.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Ok(())
    }

    /// The object stays until everything is gone.
    async fn keep(&self, object: &KubeVirt) -> Result<(), Failure> {
        if object.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(());
        }
        let finalizers: Vec<_> = object.finalizers().iter().cloned().chain([FINALIZER.to_owned()]).collect();
        self.set_finalizers(object, finalizers).await
    }

    async fn let_go(&self, object: &KubeVirt) -> Result<(), Failure> {
        let left = object.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).cloned().collect();
        self.set_finalizers(object, left).await
    }

    async fn set_finalizers(&self, object: &KubeVirt, finalizers: Vec<String>) -> Result<(), Failure> {
        // Its uid: an object of the same name that is made meanwhile is another one.
        let patch = json!({"metadata": {"uid": object.uid(), "finalizers": finalizers}});
        self.kubevirts.patch_metadata(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Writes the object's status, where it says something else.
    async fn say(&self, object: &KubeVirt, release: &Release, outcome: &Outcome) -> Result<(), Failure> {
        let before = object.status.clone().unwrap_or_default();
        let after = status(&before, release, object.metadata.generation, &self.applied, outcome, Timestamp::now());
        if after == before {
            return Ok(());
        }
        let patch = json!({"status": replacement(&before, &after)?});
        self.kubevirts.patch_status(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }
}

/// Applies an object. Kubernetes 1.20 drops the connection of who applies an API service on the server's side: those are made, or
/// patched where they are there.
async fn write(api: &Api<DynamicObject>, key: &Key, object: &Value, is_there: bool) -> Result<DynamicObject, Failure> {
    let written = match key.kind.as_str() {
        "APIService" if is_there => api.patch(&key.name, &PatchParams::default(), &Patch::Merge(object)).await,
        "APIService" => api.create(&PostParams::default(), &serde_json::from_value(object.clone())?).await,
        _ => api.patch(&key.name, &PatchParams::apply(OPERATOR).force(), &Patch::Apply(object)).await,
    };
    Ok(written.map_err(|error| words(&error))?)
}

/// The merge patch that makes `after` of `before`: what is gone from it is null.
fn replacement(before: &KubeVirtStatus, after: &KubeVirtStatus) -> serde_json::Result<Value> {
    let (before, mut after) = (serde_json::to_value(before)?, serde_json::to_value(after)?);
    for name in before.as_object().into_iter().flat_map(|fields| fields.keys()) {
        if after.get(name).is_none() {
            after[name] = Value::Null;
        }
    }
    Ok(after)
}
