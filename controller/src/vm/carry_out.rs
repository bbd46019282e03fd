//! What one look at a guest does: what is planned, with everything that it takes.

use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use vireo_runtimeclass::ParseError;
use vireo_runtimeclass::cluster::{
    ReferencePolicy, RolloutStrategy, VirtualMachine, VirtualMachineInstance, VirtualMachineSpec, VirtualMachineStatus,
};

use super::reconcile::Error;
use super::{Action, FINALIZER, Findings, Guests, make, rollout};
use crate::context::NAME;
use crate::data_volume::Ensure;
use crate::instancetype::{Resolved, Sizing, expand, resolve};

/// `false`: DataVolumes are made when the guest starts, not when it is made.
const LATE_VOLUMES: &str = "kubevirt.io/immediate-data-volume-creation";

/// One look at one guest.
pub(super) struct Pass<'a> {
    pub(super) guests: &'a Guests,
    /// As it was read, and as it was written since.
    pub(super) vm: VirtualMachine,
    pub(super) findings: Findings,
    pub(super) sizing: Sizing,
}

impl Pass<'_> {
    fn namespace(&self) -> String {
        self.vm.namespace().unwrap_or_default()
    }

    fn api(&self) -> Api<VirtualMachine> {
        self.guests.guests_of(&self.namespace())
    }

    fn instances(&self) -> Api<VirtualMachineInstance> {
        self.guests.instances_of(&self.namespace())
    }

    /// Does what is to be done; comes back with the instance that it made.
    pub(super) async fn carry_out(
        &mut self,
        spec: Result<VirtualMachineSpec, ParseError>,
        named: Option<&VirtualMachineInstance>,
        instance: Option<&VirtualMachineInstance>,
        action: Action,
    ) -> Result<Option<VirtualMachineInstance>, Error> {
        if action == Action::Release {
            self.remove_finalizer().await?;
            return Ok(None);
        }
        if let (Action::Stop, Some(instance)) = (action, instance) {
            self.stop(instance).await?;
        }
        if self.vm.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        if !(matches!(action, Action::Start { .. }) && spec.as_ref().is_ok_and(needs_nothing)) {
            self.keep().await?;
        }
        let spec = spec.map_err(|problems| Error::failed("InvalidSpec", &problems))?;
        if action == Action::RunAlways {
            let always =
                if spec.running.is_some() { json!({"running": true}) } else { json!({"runStrategy": "Always"}) };
            self.patch(json!({ "spec": always })).await?;
            return Ok(None);
        }
        if let Some(named) = named.filter(|named| instance.is_none() && named.metadata.deletion_timestamp.is_none()) {
            self.adopt(named).await?;
        }
        self.findings.storage = self.guests.storage(&self.namespace(), &spec);
        self.find_sizing(&spec).await?;
        let are_filled = self.ensure_volumes(&spec, action).await?;
        match (action, instance) {
            // It waits; what it waits for is seen.
            (Action::Start { .. }, None) if !are_filled => {
                self.findings.action = Some(Action::Nothing);
                Ok(None)
            }
            (Action::Start { paused }, None) => self.start(&spec, paused).await.map(Some),
            (_, Some(instance))
                if super::Instance::new(instance).is_final() || instance.metadata.deletion_timestamp.is_some() =>
            {
                self.findings.instance_generation = generation(instance);
                Ok(None)
            }
            (_, Some(instance)) => self.roll_out(&spec, instance).await.map(|()| None),
            (_, None) => Ok(None),
        }
    }

    /// Nobody takes the guest away before its instance is gone.
    async fn keep(&mut self) -> Result<(), Error> {
        if self.vm.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(());
        }
        let finalizers = [self.vm.finalizers(), &[FINALIZER.to_owned()]].concat();
        self.patch(json!({"metadata": {"finalizers": finalizers}})).await
    }

    /// What the guest's instancetype and preference are; what it uses for the first time is written down.
    async fn find_sizing(&mut self, spec: &VirtualMachineSpec) -> Result<(), Error> {
        if spec.instancetype.is_none() && spec.preference.is_none() {
            return Ok(());
        }
        let settings = self.guests.context.settings.now();
        let policy = settings.instancetype.as_ref().and_then(|instancetype| instancetype.reference_policy);
        let client = &self.guests.context.client;
        let found = resolve(client, &self.vm, spec, policy.unwrap_or(ReferencePolicy::Reference)).await;
        match found.map_err(|error| Error::failed(error.reason, &error))? {
            Resolved::Rewrite(spec) => {
                self.patch(json!({ "spec": spec })).await?;
                Err(Error::Stale)
            }
            Resolved::Sizing(sizing) => {
                self.sizing = *sizing;
                let before = self.vm.status.clone().unwrap_or_default();
                let after = VirtualMachineStatus {
                    instancetype_ref: self.sizing.instancetype_ref.clone().or_else(|| before.instancetype_ref.clone()),
                    preference_ref: self.sizing.preference_ref.clone().or_else(|| before.preference_ref.clone()),
                    ..before
                };
                self.say(after).await
            }
        }
    }

    /// Makes the guest's own DataVolumes; whether it may start.
    async fn ensure_volumes(&self, spec: &VirtualMachineSpec, action: Action) -> Result<bool, Error> {
        let is_late = self.vm.annotations().get(LATE_VOLUMES).is_some_and(|at_once| at_once == "false");
        if is_late && !matches!(action, Action::Start { .. }) {
            return Ok(false);
        }
        let Guests { context, events, data_volumes, .. } = self.guests;
        let ensured = Ensure { context, events, known: data_volumes }.all(&self.vm, spec).await;
        ensured.map_err(|error| {
            Error::failed("FailedCreate", &format!("Error encountered while creating DataVolumes: {error}"))
        })
    }

    async fn start(&mut self, spec: &VirtualMachineSpec, paused: bool) -> Result<VirtualMachineInstance, Error> {
        let made = self.create(spec, paused).await;
        let name = self.vm.name_any();
        match &made {
            Ok(_) => {
                let note = format!("Started the virtual machine by creating the new virtual machine instance {name}");
                self.guests.events.normal(&self.vm, "SuccessfulCreate", &note).await;
            }
            Err(Error::Failed(failure)) => {
                let note = format!("Error creating virtual machine instance: {}", failure.message);
                self.guests.events.warning(&self.vm, "FailedCreate", &note).await;
            }
            Err(_) => {}
        }
        made
    }

    async fn create(&mut self, spec: &VirtualMachineSpec, paused: bool) -> Result<VirtualMachineInstance, Error> {
        let failed = |error: &dyn ToString| {
            Error::failed("FailedCreate", &format!("failure attempting to create VMI: {}", error.to_string()))
        };
        let mut template = spec.template.clone();
        let Sizing { instancetype, preference, .. } = &self.sizing;
        expand(&mut template, instancetype.as_ref(), preference.as_ref(), "spec.template.spec")
            .map_err(|problems| failed(&problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
        let instance = make::instance(&self.vm, spec, template, paused).map_err(|error| failed(&error))?;
        let (revisions, vm) = (self.guests.revisions(&self.namespace()), self.vm.clone());
        let (kept, stored) = tokio::join!(self.keep(), revisions.store(&vm));
        kept?;
        stored?;
        match self.instances().create(&post(), &instance).await {
            Ok(made) => Ok(made),
            Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "AlreadyExists" => {
                Err(Error::Stale)
            }
            // A quota's, a webhook's, the schema's: its words are for the user.
            Err(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 429 => {
                Err(failed(&status.message))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn stop(&self, instance: &VirtualMachineInstance) -> Result<(), Error> {
        let (name, uid) = (instance.name_any(), instance.uid().unwrap_or_default());
        let this = kube::api::Preconditions { uid: Some(uid.clone()), resource_version: None };
        let parameters = kube::api::DeleteParams { preconditions: Some(this), ..Default::default() };
        match self.instances().delete(&name, &parameters).await {
            Ok(_) => {
                let note = format!("Stopped the virtual machine by deleting the virtual machine instance {uid}");
                self.guests.events.normal(&self.vm, "SuccessfulDelete", &note).await;
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Err(Error::Stale),
            Err(error) => {
                let note = format!("Error deleting virtual machine instance {name}: {error}");
                self.guests.events.warning(&self.vm, "FailedDelete", &note).await;
                Err(Error::failed("FailedDelete", &format!("Failure attempting to delete VMI: {error}")))
            }
        }
    }

    /// Takes an instance of the guest's name that is nobody's.
    async fn adopt(&self, named: &VirtualMachineInstance) -> Result<(), Error> {
        if named.owner_references().iter().any(|owner| owner.controller == Some(true)) {
            // It matters where one is to be started, which fails then.
            return Ok(());
        }
        let mut owners = named.owner_references().to_vec();
        owners.push(make::owner(&self.vm));
        let metadata = json!({"resourceVersion": named.metadata.resource_version, "ownerReferences": owners});
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        self.instances().patch(&named.name_any(), &manager(), &patch).await?;
        Err(Error::Stale)
    }

    /// What changed of the template since the instance was made.
    async fn roll_out(&mut self, spec: &VirtualMachineSpec, instance: &VirtualMachineInstance) -> Result<(), Error> {
        let made = generation(instance);
        self.findings.instance_generation = made;
        let (Some(made), now) = (made, self.vm.metadata.generation) else { return Ok(()) };
        if Some(made) == now {
            return Ok(());
        }
        let revisions = self.guests.revisions(&self.namespace());
        let Some(started) = revisions.get(&self.vm, made).await? else { return Ok(()) };
        if started.template == spec.template {
            self.findings.instance_generation = now;
        }
        let settings = self.guests.context.settings.now();
        let strategy = settings.vm_rollout_strategy.unwrap_or(RolloutStrategy::LiveUpdate);
        let (mut before, mut after) = (started.template.clone(), spec.template.clone());
        let then = self.guests.sizing_at(&self.namespace(), &started).await;
        let (Ok(then), Ok(())) = (then, {
            let Sizing { instancetype, preference, .. } = &self.sizing;
            expand(&mut after, instancetype.as_ref(), preference.as_ref(), "spec.template.spec")
        }) else {
            return Ok(());
        };
        if expand(&mut before, then.instancetype.as_ref(), then.preference.as_ref(), "spec.template.spec").is_err() {
            return Ok(());
        }
        // The whole instance: a watch's memory holds a part of it.
        let instance = self.instances().get(&instance.name_any()).await?;
        let own = instance.unread.value();
        let uuid = own.pointer("/domain/firmware/uuid").and_then(serde_json::Value::as_str);
        self.findings.restart_required = rollout::restart_required(&before, &after, uuid, strategy);
        if let (false, RolloutStrategy::LiveUpdate, Some(mut patch)) =
            (self.findings.restart_required, strategy, rollout::live_update(&own, &after))
        {
            patch["metadata"] = json!({"resourceVersion": instance.metadata.resource_version});
            self.instances().patch(&instance.name_any(), &manager(), &Patch::Merge(patch)).await?;
        }
        Ok(())
    }

    /// The guest's status is written where it says something else.
    pub(super) async fn say(&mut self, status: VirtualMachineStatus) -> Result<(), Error> {
        if self.vm.status.as_ref() == Some(&status) {
            return Ok(());
        }
        self.vm.status = Some(status);
        let written = self.api().replace_status(&self.vm.name_any(), &post(), &self.vm).await?;
        self.wrote(&written);
        Ok(())
    }

    fn wrote(&mut self, written: &VirtualMachine) {
        self.guests.superseded.wrote(self.vm.metadata.resource_version.as_deref(), written);
        self.vm.metadata.resource_version.clone_from(&written.metadata.resource_version);
    }

    /// A merge patch of the guest as it was read.
    async fn patch(&mut self, mut patch: serde_json::Value) -> Result<(), Error> {
        patch["metadata"]["resourceVersion"] = json!(self.vm.metadata.resource_version);
        let written = self.api().patch(&self.vm.name_any(), &manager(), &Patch::Merge(patch)).await?;
        self.wrote(&written);
        Ok(())
    }

    async fn remove_finalizer(&mut self) -> Result<(), Error> {
        if self.vm.finalizers().iter().all(|finalizer| finalizer != FINALIZER) {
            return Ok(());
        }
        let finalizers: Vec<_> = self.vm.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
        self.patch(json!({"metadata": {"finalizers": finalizers}})).await
    }

    /// An instance that ended may go, now that the guest's status says what became of it; so may one that nothing else keeps.
    pub(super) async fn let_go(&self, instance: &VirtualMachineInstance) -> Result<(), Error> {
        let finalizers = instance.finalizers();
        let is_last = instance.metadata.deletion_timestamp.is_some() && finalizers.len() == 1;
        if finalizers.iter().all(|finalizer| finalizer != FINALIZER)
            || !(super::Instance::new(instance).is_final() || is_last)
        {
            return Ok(());
        }
        if let Some(made) = generation(instance).filter(|made| Some(*made) != self.vm.metadata.generation) {
            self.guests.revisions(&self.namespace()).delete(&self.vm, made).await?;
        }
        let left: Vec<_> = finalizers.iter().filter(|finalizer| *finalizer != FINALIZER).collect();
        let metadata = json!({"resourceVersion": instance.metadata.resource_version, "finalizers": left});
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        match self.instances().patch(&instance.name_any(), &manager(), &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            patched => patched.map(drop).map_err(Error::from),
        }
    }
}

/// Nothing has to be found or made before a guest's instance is.
fn needs_nothing(spec: &VirtualMachineSpec) -> bool {
    spec.instancetype.is_none() && spec.preference.is_none() && spec.data_volume_templates.is_empty()
}

fn manager() -> PatchParams {
    PatchParams { field_manager: Some(NAME.to_owned()), ..PatchParams::default() }
}

fn post() -> PostParams {
    PostParams { field_manager: Some(NAME.to_owned()), ..PostParams::default() }
}

/// The generation of the guest that an instance was made from.
fn generation(instance: &VirtualMachineInstance) -> Option<i64> {
    instance.annotations().get(make::GENERATION)?.parse().ok()
}
