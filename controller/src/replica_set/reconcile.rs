//! Reads, plans, applies.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{Controller, controller};
use kube::{Api, ResourceExt as _};
use tracing::warn;
use vireo_runtimeclass::cluster::{
    ReplicaSetSpec, ReplicaSetStatus, VirtualMachineInstance, VirtualMachineInstanceReplicaSet,
};

use super::plan::{Plan, make, plan, status};
use crate::Context;
use crate::context::NAME;
use crate::events::Events;
use crate::metrics::Queue;
use crate::retry::Retries;
use crate::watches::{self, Ready, Watches};

/// So many requests of one replica set are under way at a time.
const AT_ONCE: usize = 16;

/// All replica sets.
struct Sets {
    context: Context,
    events: Events,
    instances: Store<VirtualMachineInstance>,
    retries: Retries<ObjectRef<VirtualMachineInstanceReplicaSet>>,
    ready: Ready,
}

/// Why a reconciliation isn't done.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// Its spec isn't one.
    #[error("its spec can't be read: {0}")]
    Spec(String),
    /// An instance can't be made or deleted; its condition says so too.
    #[error("{0}: {1}")]
    Failed(&'static str, String),
    /// The API server's.
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// Keeps every replica set of the cluster, for as long as it is polled, once `watches` run.
pub fn run(context: Context, watches: &mut Watches) -> impl Future<Output = ()> + Send + use<> {
    let client = context.client.clone();
    let instances = watches.instances.store();
    let (events, ready) = (Events::new(&context), watches.ready());
    let sets = Sets { events, context, instances, retries: Retries::default(), ready };
    Controller::new(Api::<VirtualMachineInstanceReplicaSet>::all(client), watches::config())
        .owns_shared_stream(watches.instances.follow())
        .run(reconcile, failed, Arc::new(sets))
        .for_each(|done| async move {
            if let Err(error @ (controller::Error::QueueError(_) | controller::Error::RunnerError(_))) = done {
                warn!("replica sets: {error}");
            }
        })
}

#[allow(clippy::needless_pass_by_value, reason = "kube's signature")]
fn failed(set: Arc<VirtualMachineInstanceReplicaSet>, error: &Error, sets: Arc<Sets>) -> controller::Action {
    let key = ObjectRef::from_obj(&*set);
    warn!("{key}: {error}");
    sets.context.metrics.work.retried(Queue::ReplicaSets);
    controller::Action::requeue(sets.retries.failed(key))
}

async fn reconcile(set: Arc<VirtualMachineInstanceReplicaSet>, sets: Arc<Sets>) -> Result<controller::Action, Error> {
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(controller::Action::await_change());
    }
    sets.ready.wait().await;
    let _piece = sets.context.metrics.work.begin(Queue::ReplicaSets);
    let spec = set.spec().map_err(|problems| Error::Spec(problems.to_string()))?;
    let known = sets.instances.state_filter(|instance| is_owned(instance, &set));
    let mut instances: Vec<_> = known.iter().map(|instance| (**instance).clone()).collect();
    let mut failure = None;
    if plan(&spec, &instances) != Plan::default() {
        instances = sets.look(&set).await?;
        failure = sets.apply(&set, &spec, &plan(&spec, &instances)).await.err();
    }
    let said = failure.as_ref().map(|(reason, message)| (*reason, message.as_str()));
    sets.say(&set, &spec, &instances, said).await?;
    if let Some((reason, message)) = failure {
        return Err(Error::Failed(reason, message));
    }
    sets.retries.succeeded(&ObjectRef::from_obj(&*set));
    Ok(controller::Action::await_change())
}

impl Sets {
    fn api(&self, set: &VirtualMachineInstanceReplicaSet) -> Api<VirtualMachineInstance> {
        Api::namespaced(self.context.client.clone(), &set.namespace().unwrap_or_default())
    }

    /// Its instances as they are, whatever their labels are by now.
    async fn look(&self, set: &VirtualMachineInstanceReplicaSet) -> kube::Result<Vec<VirtualMachineInstance>> {
        let all = self.api(set).list(&ListParams::default()).await?;
        Ok(all.items.into_iter().filter(|instance| is_owned(instance, set)).collect())
    }

    async fn apply(
        &self,
        set: &VirtualMachineInstanceReplicaSet,
        spec: &ReplicaSetSpec,
        plan: &Plan<'_>,
    ) -> Result<(), (&'static str, String)> {
        let made = stream::iter(0..plan.missing).map(|_| self.create(set, spec)).buffer_unordered(AT_ONCE);
        let made: Vec<_> = made.collect().await;
        let surplus: Vec<_> = plan.surplus.iter().map(|instance| (*instance).clone()).collect();
        let deleted = stream::iter(surplus)
            .map(|instance| async move { self.delete(set, &instance).await })
            .buffer_unordered(AT_ONCE);
        let deleted: Vec<_> = deleted.collect().await;
        made.into_iter().chain(deleted).collect()
    }

    async fn create(
        &self,
        set: &VirtualMachineInstanceReplicaSet,
        spec: &ReplicaSetSpec,
    ) -> Result<(), (&'static str, String)> {
        let failed = |error: &dyn ToString| ("FailedCreate", error.to_string());
        let instance = make(set, spec).map_err(|error| failed(&error))?;
        let parameters = PostParams { field_manager: Some(NAME.to_owned()), ..PostParams::default() };
        match self.api(set).create(&parameters, &instance).await {
            Ok(made) => {
                let note = format!(
                    "Started the virtual machine by creating the new virtual machine instance {}",
                    made.name_any()
                );
                self.events.normal(set, "SuccessfulCreate", &note).await;
                Ok(())
            }
            Err(error) => {
                let note = format!("Error creating virtual machine instance: {error}");
                self.events.warning(set, "FailedCreate", &note).await;
                Err(failed(&error))
            }
        }
    }

    async fn delete(
        &self,
        set: &VirtualMachineInstanceReplicaSet,
        instance: &VirtualMachineInstance,
    ) -> Result<(), (&'static str, String)> {
        let (name, uid) = (instance.name_any(), instance.uid().unwrap_or_default());
        let this = Preconditions { uid: Some(uid.clone()), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
        match self.api(set).delete(&name, &parameters).await {
            Ok(_) => {
                let note = format!("Stopped the virtual machine by deleting the virtual machine instance {uid}");
                self.events.normal(set, "SuccessfulDelete", &note).await;
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => {
                let note = format!("Error deleting virtual machine instance {name}: {error}");
                self.events.warning(set, "FailedDelete", &note).await;
                Err(("FailedDelete", error.to_string()))
            }
        }
    }

    /// Its status is written where it says something else; a pause that begins or ends is an event.
    async fn say(
        &self,
        set: &VirtualMachineInstanceReplicaSet,
        spec: &ReplicaSetSpec,
        instances: &[VirtualMachineInstance],
        failure: Option<(&str, &str)>,
    ) -> kube::Result<()> {
        let before = set.status.clone().unwrap_or_default();
        let after = status(&before, spec, instances, failure, Timestamp::now());
        if set.status.as_ref() == Some(&after) {
            return Ok(());
        }
        let sets: Api<VirtualMachineInstanceReplicaSet> =
            Api::namespaced(self.context.client.clone(), &set.namespace().unwrap_or_default());
        let said = VirtualMachineInstanceReplicaSet { status: Some(after.clone()), ..set.clone() };
        match sets.replace_status(&set.name_any(), &PostParams::default(), &said).await {
            // It changed, or is gone: that is seen soon.
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => return Ok(()),
            written => drop(written?),
        }
        match (is_paused(&before), is_paused(&after)) {
            (false, true) => self.events.normal(set, "SuccessfulPaused", "Paused").await,
            (true, false) => self.events.normal(set, "SuccessfulResumed", "Resumed").await,
            (true, true) | (false, false) => {}
        }
        Ok(())
    }
}

fn is_paused(status: &ReplicaSetStatus) -> bool {
    status.conditions.iter().any(|condition| condition.kind == "ReplicaPaused")
}

fn is_owned(instance: &VirtualMachineInstance, set: &VirtualMachineInstanceReplicaSet) -> bool {
    let owners = instance.owner_references().iter();
    owners.filter(|owner| owner.controller == Some(true)).any(|owner| Some(&owner.uid) == set.metadata.uid.as_ref())
}
