//! One guest: reads, plans, applies.
//!
//! What is decided from is a watch's memory, which lags behind. Before anything is created, deleted or requested, the guest and
//! its instance are read anew and the decision is made again; an instance has its guest's name, is deleted by its uid, and a guest is
//! written at the version that was read. So there is never a second instance, whoever else writes, and wherever a controller dies.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::runtime::controller;
use kube::runtime::reflector::ObjectRef;
use vireo_runtimeclass::cluster::{RunStrategy, VirtualMachine, VirtualMachineInstance, VirtualMachineStatus};

use super::carry_out::Pass;
use super::{Action, Failure, Findings, Guest, Guests, plan, status, strategy};
use crate::instancetype::Sizing;
use crate::metrics::Queue;

/// Why a reconciliation isn't done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// What was read is old; what is newer comes, or has come.
    #[error("it changed meanwhile")]
    Stale,
    /// The guest's condition says so too.
    #[error("{}: {}", .0.reason, .0.message)]
    Failed(Failure),
    /// The API server's.
    #[error(transparent)]
    Api(kube::Error),
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 409 => Self::Stale,
            error => Self::Api(error),
        }
    }
}

impl Error {
    pub(super) fn failed(reason: &str, message: &dyn ToString) -> Self {
        Self::Failed(Failure { reason: reason.to_owned(), message: message.to_string() })
    }
}

/// How a pass over a guest ended.
enum Passed {
    /// Nothing is left to do, until this.
    Done(controller::Action),
    /// There is something to do, if what is seen is so.
    LooksAgain,
}

pub(super) async fn reconcile(vm: Arc<VirtualMachine>, guests: Arc<Guests>) -> Result<controller::Action, Error> {
    guests.ready.wait().await;
    if guests.superseded.contains(&*vm) {
        return Ok(controller::Action::await_change());
    }
    let _piece = guests.context.metrics.work.begin(Queue::Guests);
    let (namespace, name) = (vm.namespace().unwrap_or_default(), vm.name_any());
    let seen = guests.instances.get(&ObjectRef::new(&name).within(&namespace));
    let done = match Box::pin(guests.pass(&vm, seen.as_deref(), false)).await? {
        Passed::Done(done) => done,
        Passed::LooksAgain => {
            let (vm, instance) = (guests.guests_of(&namespace), guests.instances_of(&namespace));
            let (vm, instance) = tokio::try_join!(vm.get_opt(&name), instance.get_opt(&name))?;
            let Some(vm) = vm else { return Ok(controller::Action::await_change()) };
            match Box::pin(guests.pass(&vm, instance.as_ref(), true)).await? {
                Passed::Done(done) => done,
                Passed::LooksAgain => return Err(Error::Stale),
            }
        }
    };
    guests.retries.succeeded(&ObjectRef::from_obj(&*vm));
    Ok(done)
}

impl Guests {
    /// `is_live`: both were just read.
    async fn pass(
        &self,
        vm: &VirtualMachine,
        named: Option<&VirtualMachineInstance>,
        is_live: bool,
    ) -> Result<Passed, Error> {
        let now = Timestamp::now();
        let lets_go =
            vm.finalizers().iter().any(|finalizer| finalizer == "orphan") && vm.metadata.deletion_timestamp.is_some();
        let instance = named.filter(|instance| !lets_go && is_owned(instance, vm));
        let spec = vm.spec();
        // A guest that can't be read is left as it is.
        let guest = Guest::new(vm, spec.as_ref().map_or(RunStrategy::Manual, strategy), instance);
        let action = plan(&guest, now);
        if !is_live && !matches!(action, Action::Nothing | Action::Wait(_)) {
            return Ok(Passed::LooksAgain);
        }
        let mut pass = Pass {
            guests: self,
            vm: vm.clone(),
            findings: Findings { action: Some(action), generation: vm.metadata.generation, ..Findings::default() },
            sizing: Sizing::default(),
        };
        let made = match Box::pin(pass.carry_out(spec, named, instance, action)).await {
            Ok(made) => made,
            Err(Error::Failed(failure)) => {
                pass.findings.failure = Some(failure);
                None
            }
            Err(Error::Api(kube::Error::Api(status)))
                if status.code == 404 && vm.metadata.deletion_timestamp.is_some() =>
            {
                return Ok(Passed::Done(controller::Action::await_change()));
            }
            Err(error) => return Err(error),
        };
        if action == Action::Release {
            return Ok(Passed::Done(controller::Action::await_change()));
        }
        let guest = Guest { instance: made.as_ref().or(instance).map(super::Instance::new), ..guest };
        if pass.findings.failure.is_none() && guest.instance.is_some_and(|instance| instance.is_new()) {
            // What there is to say of it comes at once, and is written with this.
            return Ok(Passed::Done(controller::Action::await_change()));
        }
        let after = status(&guest, &pass.findings, now, rand::random());
        pass.say(VirtualMachineStatus {
            instancetype_ref: pass.sizing.instancetype_ref.clone().or_else(|| guest.status.instancetype_ref.clone()),
            preference_ref: pass.sizing.preference_ref.clone().or_else(|| guest.status.preference_ref.clone()),
            ..after
        })
        .await?;
        if let Some(instance) = instance {
            pass.let_go(instance).await?;
        }
        match (pass.findings.failure, action) {
            (Some(failure), _) => Err(Error::Failed(failure)),
            (None, Action::Wait(wait)) => Ok(Passed::Done(controller::Action::requeue(wait))),
            (None, _) => Ok(Passed::Done(controller::Action::await_change())),
        }
    }
}

fn is_owned(instance: &VirtualMachineInstance, vm: &VirtualMachine) -> bool {
    let owners = instance.owner_references().iter();
    owners.filter(|owner| owner.controller == Some(true)).any(|owner| Some(&owner.uid) == vm.metadata.uid.as_ref())
}
