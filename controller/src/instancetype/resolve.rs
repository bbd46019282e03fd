//! What a guest's instancetype and preference are, and what its spec and status are to say of them.

use kube::Client;
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{
    InstancetypeRef, InstancetypeSpec, Matcher, PreferenceSpec, ReferencePolicy, VirtualMachine, VirtualMachineSpec,
    kind,
};

use super::find::{FindError, Found, Shape, find};
use super::{expand, infer, revision};

/// What a guest's instancetype and preference are.
#[derive(Debug, Clone, Default)]
pub struct Sizing {
    /// The instancetype.
    pub instancetype: Option<InstancetypeSpec>,
    /// What `status.instancetypeRef` is to say.
    pub instancetype_ref: Option<InstancetypeRef>,
    /// The preference.
    pub preference: Option<PreferenceSpec>,
    /// What `status.preferenceRef` is to say.
    pub preference_ref: Option<InstancetypeRef>,
}

/// What comes first.
#[derive(Debug, Clone)]
pub enum Resolved {
    /// This merge patch of the guest's spec: what a volume names, or the size itself in the place of its name.
    Rewrite(Value),
    /// Nothing.
    Sizing(Box<Sizing>),
}

/// Finds what a guest names, and makes revisions of what it uses for the first time.
///
/// # Errors
/// What it names isn't there, or can't be stored.
pub async fn resolve(
    client: &Client,
    vm: &VirtualMachine,
    spec: &VirtualMachineSpec,
    policy: ReferencePolicy,
) -> Result<Resolved, FindError> {
    for (field, named) in [("instancetype", spec.instancetype.as_ref()), ("preference", spec.preference.as_ref())] {
        if let Some(named) = named.filter(|named| named.infer_from_volume.is_some()) {
            return infer::infer(client, vm, spec, field, named).await.map(Resolved::Rewrite);
        }
    }
    let status = vm.status.as_ref();
    let used = status.and_then(|status| status.instancetype_ref.as_ref());
    let used_preference = status.and_then(|status| status.preference_ref.as_ref());
    let namespace = vm.metadata.namespace.as_deref().unwrap_or_default();
    let size = find::<kind::VirtualMachineInstancetype>(client, namespace, spec.instancetype.as_ref(), used).await?;
    let preference =
        find::<kind::VirtualMachinePreference>(client, namespace, spec.preference.as_ref(), used_preference).await?;
    let is_used = |used: Option<&InstancetypeRef>| used.and_then(revision::name).is_some();
    let expands = match policy {
        ReferencePolicy::Reference => false,
        ReferencePolicy::Expand => !is_used(used) && !is_used(used_preference),
        ReferencePolicy::ExpandAll => true,
    };
    if expands && (size.is_some() || preference.is_some()) {
        let mut template = spec.template.clone();
        let (size, preference) = (size.map(|found| found.spec), preference.map(|found| found.spec));
        expand(&mut template, size.as_ref(), preference.as_ref(), "spec.template.spec").map_err(|problems| {
            let message = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            FindError { reason: "FailedCreate", message, is_transient: false }
        })?;
        return Ok(Resolved::Rewrite(json!({"instancetype": null, "preference": null, "template": template})));
    }
    let instancetype_ref =
        stored::<kind::VirtualMachineInstancetype>(client, vm, spec.instancetype.as_ref(), used, size.as_ref()).await?;
    let preference_ref = stored::<kind::VirtualMachinePreference>(
        client,
        vm,
        spec.preference.as_ref(),
        used_preference,
        preference.as_ref(),
    )
    .await?;
    Ok(Resolved::Sizing(Box::new(Sizing {
        instancetype: size.map(|found| found.spec),
        instancetype_ref,
        preference: preference.map(|found| found.spec),
        preference_ref,
    })))
}

/// What the status is to say of what is used; a revision is made of what is used for the first time.
async fn stored<K: Shape>(
    client: &Client,
    vm: &VirtualMachine,
    named: Option<&Matcher>,
    used: Option<&InstancetypeRef>,
    found: Option<&Found<K::Spec>>,
) -> Result<Option<InstancetypeRef>, FindError> {
    let Some(named) = named else { return Ok(None) };
    let mut reference = revision::reference(named, used);
    if revision::name(&reference).is_none()
        && let Some(object) = found.and_then(|found| found.object.as_ref())
    {
        let made = revision::store(client, vm, object).await.map_err(|error| FindError {
            reason: "FailedCreate",
            message: format!("error encountered while storing instancetype.kubevirt.io controllerRevisions: {error}"),
            is_transient: true,
        })?;
        reference.controller_revision_ref = Some(made);
    }
    Ok(Some(reference))
}
