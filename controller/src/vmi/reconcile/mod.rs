//! Carries out what is planned for instances. Alone here speaks to the API server.
//!
//! It may die between any two requests, and two of it may be at work for a moment: an instance's pod has one name, so that the
//! API server lets nobody make it twice; that a pod is gone is asked of the API server and not of what was last seen; statuses
//! are written over the version that they were made of, and no other.

mod triggers;

use std::collections::BTreeMap;
use std::future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::Controller;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client};
use serde_json::{Value, json};
use tracing::{info, warn};
use vireo_runtimeclass::cluster::{
    InstancePhase, InstanceSpec, InstanceStatus, VirtualMachine, VirtualMachineInstance,
};

use super::guests::Guests;
use super::plan::{self, FINALIZER, difference, gate, node_label, plan};
use super::pod::{self, CREATED_BY_LABEL, NODE_NAME_LABEL, PodError, pod_name};
use super::reasons;
use super::status::{Seen, Trouble, are_filled, is_running, status};
use crate::Context;
use crate::context::NAME;
use crate::events::Events;
use crate::metrics::Queue;
use crate::retry::Retries;
use crate::superseded::Superseded;
use crate::watches::{Ready, Watches};

/// Instances that are worked on at a time: what they wait for is the API server.
const AT_A_TIME: u16 = 32;
/// Keeps an instance until its `VirtualMachine` has seen its end.
const OWNERS_FINALIZER: &str = "kubevirt.io/virtualMachineControllerFinalize";

type Result<T> = std::result::Result<T, Box<kube::Error>>;

struct Shared {
    context: Context,
    launcher_image: String,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    mounts: Store<Event>,
    ready: Ready,
    guests: Arc<Guests>,
    superseded: Superseded,
    retries: Retries<ObjectRef<VirtualMachineInstance>>,
    events: Events,
}

/// Looks after all instances for as long as it is polled, once `watches` run. Pods whose instance names no image have
/// `launcher_image`.
pub fn run(context: Context, launcher_image: String, watches: &mut Watches) -> impl Future<Output = ()> + Send + use<> {
    let (instances, pods, claims) = (watches.instances.store(), watches.pods.store(), watches.claims.store());
    let (guests, told) = Guests::new(&context);
    let events = Events::new(&context);
    let (superseded, retries) = (Superseded::default(), Retries::default());
    let (mounts, by_claim, by_event) = (watches.mounts.store(), instances.clone(), pods.clone());
    let ready = watches.ready();
    let shared = Shared { context, launcher_image, pods, claims, mounts, ready, guests, superseded, retries, events };
    Controller::for_shared_stream(watches.instances.follow(), instances)
        .owns_shared_stream(watches.pods.follow())
        .watches_shared_stream(watches.claims.follow(), move |claim| triggers::with_claim(&by_claim, &claim))
        .watches_shared_stream(watches.mounts.follow(), move |event| triggers::of_event(&by_event, &event))
        .reconcile_on(triggers::told(told))
        .with_config(Config::default().concurrency(AT_A_TIME))
        .run(reconcile, failed, Arc::new(shared))
        // What a reconciliation says of itself is said by `failed`, and what a watch does by the watch.
        .for_each(|_| future::ready(()))
}

#[allow(clippy::borrowed_box, clippy::needless_pass_by_value, reason = "as the runtime calls it")]
fn failed(vmi: Arc<VirtualMachineInstance>, error: &Box<kube::Error>, shared: Arc<Shared>) -> Action {
    let reference = ObjectRef::from_obj(vmi.as_ref());
    warn!("instance {reference}: {error}");
    shared.context.metrics.work.retried(Queue::Instances);
    Action::requeue(shared.retries.failed(reference))
}

async fn reconcile(vmi: Arc<VirtualMachineInstance>, shared: Arc<Shared>) -> Result<Action> {
    shared.ready.wait().await;
    if shared.superseded.contains(vmi.as_ref()) {
        return Ok(Action::await_change());
    }
    let reference = ObjectRef::from_obj(vmi.as_ref());
    let _piece = shared.context.metrics.work.begin(Queue::Instances);
    let outcome = Box::pin(Instance::new(&shared, &vmi).reconcile()).await;
    match outcome {
        // Somebody has written a newer one, which the watch brings.
        Err(error) if is(&error, 409) => Ok(Action::await_change()),
        Err(error) => Err(error),
        Ok(After { wait, has_trouble: false }) => {
            shared.retries.succeeded(&reference);
            Ok(wait.map_or_else(Action::await_change, Action::requeue))
        }
        Ok(After { has_trouble: true, .. }) => {
            shared.context.metrics.work.retried(Queue::Instances);
            Ok(Action::requeue(shared.retries.failed(reference)))
        }
    }
}

fn is(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// What comes after.
#[derive(Debug, Default)]
struct After {
    /// Something is to be looked at then.
    wait: Option<Duration>,
    /// What failed is to be tried again.
    has_trouble: bool,
}

/// One instance, worked on.
struct Instance<'a> {
    shared: &'a Shared,
    vmi: &'a VirtualMachineInstance,
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
    instances: Api<VirtualMachineInstance>,
    pods: Api<Pod>,
}

impl<'a> Instance<'a> {
    fn new(shared: &'a Shared, vmi: &'a VirtualMachineInstance) -> Self {
        let namespace = vmi.metadata.namespace.as_deref().unwrap_or_default();
        let client: &Client = &shared.context.client;
        Self {
            shared,
            vmi,
            namespace,
            name: vmi.metadata.name.as_deref().unwrap_or_default(),
            uid: vmi.metadata.uid.as_deref().unwrap_or_default(),
            instances: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client.clone(), namespace),
        }
    }

    async fn reconcile(&self) -> Result<After> {
        let phase = self.vmi.status.as_ref().and_then(|status| status.phase);
        let is_deleted = self.vmi.metadata.deletion_timestamp.is_some();
        let expects_pod = !matches!(phase, None | Some(InstancePhase::Pending));
        let mut pod = self.seen_pod();
        if pod.is_none() && (expects_pod || is_deleted) {
            pod = self.stored_pod().await?;
        }
        let spec = self.vmi.spec();
        let claims = self.claims();
        let mut trouble = None;
        match plan(self.vmi, pod.as_ref()) {
            plan::Action::Nothing => {}
            plan::Action::Hold => return self.hold().await,
            plan::Action::Create => match &spec {
                Ok(spec) => (pod, trouble) = self.create(spec, &claims).await?,
                Err(problems) => {
                    trouble = Some(Trouble { reason: reasons::FAILED_CREATE, message: problems.to_string() });
                }
            },
            plan::Action::Delete { within } => self.delete(pod.as_ref(), within).await?,
            plan::Action::Release => return self.release().await,
        }
        let report = self.shared.guests.report(self.uid);
        let waiting = pod.as_ref().filter(|_| phase == Some(InstancePhase::Scheduling));
        let mounts = waiting.and_then(|pod| triggers::why_not_mounted(&self.shared.mounts, pod));
        let now = Timestamp::now();
        let status = status(&Seen {
            vmi: self.vmi,
            spec: spec.as_ref().ok(),
            pod: pod.as_ref(),
            claims: &claims,
            mounts: mounts.as_deref(),
            trouble: trouble.as_ref(),
            report: report.as_ref(),
            launcher_image: &self.shared.launcher_image,
            now,
        });
        let (opened, written) = tokio::join!(self.open_gate(pod.as_ref(), &status, now), self.write(&status));
        opened?;
        written?;
        if report.is_some() {
            self.shared.guests.written(self.uid);
        }
        self.tell(&status, trouble.as_ref()).await;
        // That a claim comes the watch tells.
        let has_trouble = trouble.is_some_and(|trouble| trouble.reason != reasons::NO_CLAIM);
        Ok(After { wait: self.look(&status, pod.as_ref()), has_trouble })
    }

    /// Its pod, as it was last seen.
    fn seen_pod(&self) -> Option<Pod> {
        let reference = ObjectRef::new(&pod_name(self.vmi)).within(self.namespace);
        self.shared.pods.get(&reference).filter(|pod| self.is_ours(pod)).map(|pod| pod.as_ref().clone())
    }

    /// Its pod, as the API server has it now.
    async fn stored_pod(&self) -> Result<Option<Pod>> {
        Ok(self.pods.get_opt(&pod_name(self.vmi)).await?.filter(|pod| self.is_ours(pod)))
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        let labels = pod.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(CREATED_BY_LABEL)).is_some_and(|uid| uid == self.uid)
    }

    fn claims(&self) -> BTreeMap<String, PersistentVolumeClaim> {
        let find = |name: String| {
            let claim = self.shared.claims.get(&ObjectRef::new(&name).within(self.namespace))?;
            Some((name, claim.as_ref().clone()))
        };
        triggers::claims_of(self.vmi).filter_map(find).collect()
    }

    async fn hold(&self) -> Result<After> {
        let finalizers: Vec<_> = self.vmi.metadata.finalizers.iter().flatten().map(String::as_str).collect();
        let finalizers: Vec<_> = finalizers.into_iter().chain([FINALIZER]).collect();
        self.patch(
            &json!({"metadata": {"finalizers": finalizers, "resourceVersion": self.vmi.metadata.resource_version}}),
        )
        .await?;
        Ok(After::default())
    }

    /// Makes its pod, or says why there is none.
    async fn create(
        &self,
        spec: &InstanceSpec,
        claims: &BTreeMap<String, PersistentVolumeClaim>,
    ) -> Result<(Option<Pod>, Option<Trouble>)> {
        if !are_filled(spec, claims) {
            return Ok((None, None));
        }
        let context = &self.shared.context;
        let made = pod::pod(&pod::Source {
            vmi: self.vmi,
            spec,
            configuration: &context.settings.now(),
            claims,
            controller_key: &context.signer.key().to_string(),
            launcher_image: &self.shared.launcher_image,
        });
        let trouble = |reason, message: String| Ok((None, Some(Trouble { reason, message })));
        let pod = match made {
            Ok(pod) => pod,
            Err(error) => {
                let reason =
                    if matches!(error, PodError::NoClaim(_)) { reasons::NO_CLAIM } else { reasons::FAILED_CREATE };
                return trouble(reason, format!("failed to render launch manifest: {error}"));
            }
        };
        match self
            .pods
            .create(&PostParams { field_manager: Some(NAME.to_owned()), ..PostParams::default() }, &pod)
            .await
        {
            Ok(pod) => {
                let note = format!("Created virtual machine pod {}", pod.metadata.name.as_deref().unwrap_or_default());
                info!("instance {}/{}: {note}", self.namespace, self.name);
                self.shared.events.normal(self.vmi, reasons::CREATED_POD, &note).await;
                Ok((Some(pod), None))
            }
            Err(error) if is(&error, 409) => match self.stored_pod().await? {
                Some(pod) => Ok((Some(pod), None)),
                None => trouble(reasons::FAILED_CREATE, format!("failed to create virtual machine pod: {error}")),
            },
            // What the API server refuses is for the user to see; that it can't be reached isn't.
            Err(error @ kube::Error::Api(_)) => {
                trouble(reasons::FAILED_CREATE, format!("failed to create virtual machine pod: {error}"))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn delete(&self, pod: Option<&Pod>, within: Option<u32>) -> Result<()> {
        let Some(pod) = pod else { return Ok(()) };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let parameters = DeleteParams {
            grace_period_seconds: within,
            preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        match self.pods.delete(name, &parameters).await {
            Ok(_) => {
                let note = format!("Deleted virtual machine pod {name}");
                self.shared.events.normal(self.vmi, reasons::DELETED_POD, &note).await;
                Ok(())
            }
            Err(error) if is(&error, 404) => Ok(()),
            Err(error) => {
                let note = format!("Failed to delete virtual machine pod {name}: {error}");
                self.shared.events.warning(self.vmi, reasons::FAILED_DELETE, &note).await;
                Err(error.into())
            }
        }
    }

    /// Lets it go: its pod is gone.
    async fn release(&self) -> Result<After> {
        self.shared.guests.forget(self.uid);
        let orphaned = plan::has(self.vmi, OWNERS_FINALIZER) && !self.has_owner().await?;
        let finalizers = self.vmi.metadata.finalizers.iter().flatten();
        let left: Vec<_> =
            finalizers.clone().filter(|name| *name != FINALIZER && !(orphaned && *name == OWNERS_FINALIZER)).collect();
        if left.len() < finalizers.count() {
            let patch =
                json!({"metadata": {"finalizers": left, "resourceVersion": self.vmi.metadata.resource_version}});
            match self.patch(&patch).await {
                Err(error) if is(&error, 404) => {}
                other => drop(other?),
            }
        }
        Ok(After::default())
    }

    /// The `VirtualMachine` that it is of is there.
    async fn has_owner(&self) -> Result<bool> {
        let owners = self.vmi.metadata.owner_references.iter().flatten();
        let mut owners = owners.filter(|owner| owner.controller == Some(true) && owner.kind == "VirtualMachine");
        let Some(owner) = owners.next() else { return Ok(false) };
        let machines: Api<VirtualMachine> = Api::namespaced(self.shared.context.client.clone(), self.namespace);
        let found = machines.get_opt(&owner.name).await?;
        Ok(found.is_some_and(|vm| vm.metadata.uid.as_ref() == Some(&owner.uid)))
    }

    async fn open_gate(&self, pod: Option<&Pod>, status: &InstanceStatus, now: Timestamp) -> Result<()> {
        let Some(pod) = pod.filter(|pod| !self.shared.superseded.contains(*pod)) else { return Ok(()) };
        let Some(patch) = gate(pod, status, now) else { return Ok(()) };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match self.pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(written) => self.shared.superseded.wrote(pod.metadata.resource_version.as_deref(), &written),
            Err(error) if is(&error, 404) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Writes down what is said of it, where that is something else.
    async fn write(&self, status: &InstanceStatus) -> Result<()> {
        let mut version = self.vmi.metadata.resource_version.clone();
        if let Some(node) = node_label(self.vmi, status) {
            let patch = json!({"metadata": {"labels": {NODE_NAME_LABEL: node}, "resourceVersion": version}});
            version = self.patch(&patch).await?.metadata.resource_version;
        }
        let value = |status| serde_json::to_value(status).map_err(kube::Error::SerdeError);
        let old = self.vmi.status.as_ref().map(value).transpose()?.unwrap_or_else(|| json!({}));
        let Some(changes) = difference(&old, &value(status)?) else { return Ok(()) };
        let patch = json!({"metadata": {"resourceVersion": version}, "status": changes});
        let written = self.instances.patch_status(self.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        self.shared.superseded.wrote(version.as_deref(), &written);
        self.shared.context.metrics.phases.written(self.vmi, status);
        Ok(())
    }

    async fn patch(&self, patch: &Value) -> Result<VirtualMachineInstance> {
        let written = self.instances.patch(self.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        self.shared.superseded.wrote(self.vmi.metadata.resource_version.as_deref(), &written);
        Ok(written)
    }

    /// Its status says so already.
    fn has_been_told(&self, trouble: &Trouble) -> bool {
        let conditions = self.vmi.status.iter().flat_map(|status| &status.conditions);
        let mut told = conditions.map(|condition| (condition.reason.as_deref(), condition.message.as_deref()));
        told.any(|told| told == (Some(trouble.reason), Some(trouble.message.as_str())))
    }

    /// Tells users what has happened.
    async fn tell(&self, status: &InstanceStatus, trouble: Option<&Trouble>) {
        let events = &self.shared.events;
        if let Some(Trouble { reason, message }) = trouble.filter(|trouble| !self.has_been_told(trouble)) {
            events.warning(self.vmi, reason, message).await;
        }
        let before = self.vmi.status.as_ref().and_then(|status| status.phase);
        let has_run = |status: &InstanceStatus| {
            let phases = status.phase_transition_timestamps.iter();
            phases.filter_map(|transition| transition.phase).any(|phase| phase == InstancePhase::Running)
        };
        if has_run(status) && !self.vmi.status.as_ref().is_some_and(has_run) {
            events.normal(self.vmi, reasons::CREATED, "VirtualMachineInstance defined.").await;
            events.normal(self.vmi, reasons::STARTED, "VirtualMachineInstance started.").await;
        }
        match status.phase {
            phase if phase == before => {}
            Some(InstancePhase::Succeeded) => {
                events.normal(self.vmi, reasons::STOPPED, "The VirtualMachineInstance was shut down.").await;
            }
            Some(InstancePhase::Failed) => {
                events.warning(self.vmi, reasons::STOPPED, "The VirtualMachineInstance crashed.").await;
            }
            _ => {}
        }
    }

    /// Asks its machine, if it is time to. Returns when it will be.
    fn look(&self, status: &InstanceStatus, pod: Option<&Pod>) -> Option<Duration> {
        let runs = status.phase == Some(InstancePhase::Running);
        let Some(pod) = pod.filter(|pod| runs && is_running(pod)) else {
            self.shared.guests.forget(self.uid);
            return None;
        };
        Some(self.shared.guests.look(self.uid, (self.namespace, self.name), pod))
    }
}
