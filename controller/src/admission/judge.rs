//! Judges one write of an object: a pure function of what is written, what was there, who writes, and the configuration.
//!
//! A spec that isn't changed isn't judged: whatever an older version let in can still be labelled, finalized and deleted. One
//! that is being deleted isn't judged at all.

use serde_json::Value;
use vireo_runtimeclass::ParseError;
use vireo_runtimeclass::cluster::{Kind, KubeVirtConfiguration, Object, kind};

use super::defaults;
use super::review::Request;
use super::rules;
use super::verdict::{Found, Verdict};

/// What is written, by whom and where.
pub(super) struct Write<'a, K: Kind> {
    object: &'a Object<K>,
    old: Option<&'a Object<K>>,
    is_own: bool,
    namespace: Option<&'a str>,
    configuration: &'a KubeVirtConfiguration,
}

/// The rules of a kind.
pub(super) trait Judged: Kind {
    /// Why a spec can't be changed once it is there, if it can't.
    fn sealed(_is_own: bool) -> Option<&'static str> {
        None
    }

    /// A spec that is new or has changed.
    fn spec(spec: Spec<Self>, write: &Write<'_, Self>, found: &mut Found);

    /// What else there is to an object, also where its spec stays as it was.
    fn metadata(_write: &Write<'_, Self>, _found: &mut Found) {}
}

/// A kind's spec.
type Spec<K> = <K as Kind>::Spec;

/// What is said of a write of any kind that Vireo has.
pub fn judge(request: &Request, is_own: bool, configuration: &KubeVirtConfiguration) -> Verdict {
    let judge = match request.resource.resource.as_str() {
        "virtualmachines" => of::<kind::VirtualMachine>,
        "virtualmachineinstances" => of::<kind::VirtualMachineInstance>,
        "virtualmachineinstancemigrations" => of::<kind::VirtualMachineInstanceMigration>,
        "virtualmachineinstancereplicasets" => of::<kind::VirtualMachineInstanceReplicaSet>,
        "kubevirts" => of::<kind::KubeVirt>,
        "virtualmachineinstancetypes" => of::<kind::VirtualMachineInstancetype>,
        "virtualmachineclusterinstancetypes" => of::<kind::VirtualMachineClusterInstancetype>,
        "virtualmachinepreferences" => of::<kind::VirtualMachinePreference>,
        "virtualmachineclusterpreferences" => of::<kind::VirtualMachineClusterPreference>,
        "migrationpolicies" => of::<kind::MigrationPolicy>,
        other => return Verdict::refuse(400, "BadRequest", format_args!("{other} is no resource of Vireo's")),
    };
    judge(request, is_own, configuration)
}

fn of<K: Judged>(request: &Request, is_own: bool, configuration: &KubeVirtConfiguration) -> Verdict {
    let Some(document) = request.document() else {
        return Verdict::refuse(400, "BadRequest", "the request has no object");
    };
    if document.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null()) {
        return Verdict::Admit(Vec::new());
    }
    let old = request.old_document();
    let stays = old.as_ref().is_some_and(|old| old.get("spec") == document.get("spec"));
    let mut found = Found::default();
    if old.is_some()
        && !stays
        && let Some(why) = K::sealed(is_own)
    {
        found.refuse("spec", why);
        return Verdict::of(found);
    }
    let read = if stays { stored(document) } else { Object::<K>::parse(document) };
    let object = match read {
        Ok(object) => object,
        Err(ParseError::Refused(problems)) => return Verdict::of(Found { problems: problems.0, warnings: Vec::new() }),
        Err(error) => return Verdict::refuse(400, "BadRequest", error),
    };
    // What was there may be what an older version let in: then there is nothing to compare with.
    let old = old.and_then(|old| stored::<K>(old).ok());
    let namespace = request.namespace.as_deref();
    let write = Write { object: &object, old: old.as_ref(), is_own, namespace, configuration };
    if !stays {
        match object.spec() {
            Ok(spec) => K::spec(spec, &write, &mut found),
            Err(error) => return Verdict::refuse(422, "Invalid", error),
        }
    }
    K::metadata(&write, &mut found);
    Verdict::of(found)
}

fn stored<K: Kind>(document: Value) -> Result<Object<K>, ParseError> {
    serde_json::from_value(document).map_err(ParseError::Json)
}

/// What defaults are like where only rules look at them.
fn any_uuid() -> String {
    String::new()
}

impl Judged for kind::VirtualMachine {
    fn spec(mut spec: Spec<Self>, write: &Write<'_, Self>, found: &mut Found) {
        rules::matchers(&spec, found);
        rules::data_volumes(&spec, write.namespace, found);
        if let Some(old) = write.old.and_then(|old| old.spec().ok()) {
            for (field, old, new) in [
                ("instancetype", &old.instancetype, &spec.instancetype),
                ("preference", &old.preference, &spec.preference),
            ] {
                rules::matcher_update(old.as_ref(), new.as_ref(), field, found);
            }
        }
        if spec.instancetype.is_none() {
            rules::has_memory(&spec.template.spec.machine.domain, "spec.template.spec", found);
        }
        if spec.running.is_some() {
            found.warn("spec.running is deprecated, please use spec.runStrategy instead.");
        }
        template(&mut spec.template, write, found);
    }
}

impl Judged for kind::VirtualMachineInstance {
    fn sealed(is_own: bool) -> Option<&'static str> {
        (!is_own).then_some("is changed only by the controller: update of VMI object is restricted")
    }

    fn spec(mut spec: Spec<Self>, write: &Write<'_, Self>, found: &mut Found) {
        rules::has_memory(&spec.machine.domain, "spec", found);
        defaults::instance(&mut spec, write.configuration, any_uuid);
        rules::instance(&spec, write.configuration, "spec", found);
    }

    fn metadata(write: &Write<'_, Self>, found: &mut Found) {
        let map = |map: &Option<_>| map.clone().unwrap_or_default();
        let new = map(&write.object.metadata.labels);
        match write.old {
            None => {
                let annotations = map(&write.object.metadata.annotations);
                rules::metadata(&new, &annotations, write.is_own, "metadata", found);
            }
            Some(old) => {
                let old = map(&old.metadata.labels);
                if !write.is_own && rules::reserved(&old) != rules::reserved(&new) {
                    let what =
                        "modification of the following reserved kubevirt.io/ labels on a VMI object is prohibited";
                    found.refuse("metadata.labels", what);
                }
            }
        }
    }
}

/// An instance that is yet to be made, in whatever makes it.
fn template<K: Kind>(
    template: &mut vireo_runtimeclass::cluster::InstanceTemplate,
    write: &Write<'_, K>,
    found: &mut Found,
) {
    let metadata = &template.metadata;
    rules::metadata(&metadata.labels, &metadata.annotations, write.is_own, "spec.template.metadata", found);
    defaults::instance(&mut template.spec, write.configuration, any_uuid);
    rules::instance(&template.spec, write.configuration, "spec.template.spec", found);
}

impl Judged for kind::VirtualMachineInstanceReplicaSet {
    fn spec(mut spec: Spec<Self>, write: &Write<'_, Self>, found: &mut Found) {
        rules::has_memory(&spec.template.spec.machine.domain, "spec.template.spec", found);
        rules::replicas(&spec, found);
        template(&mut spec.template, write, found);
    }
}

impl Judged for kind::VirtualMachineInstanceMigration {
    fn sealed(_: bool) -> Option<&'static str> {
        Some("update of Migration object's spec is restricted")
    }

    fn spec(spec: Spec<Self>, write: &Write<'_, Self>, found: &mut Found) {
        rules::migration(&spec, write.is_own, found);
    }
}

impl Judged for kind::KubeVirt {
    fn spec(spec: Spec<Self>, _: &Write<'_, Self>, found: &mut Found) {
        rules::kubevirt(&spec, found);
    }
}

impl Judged for kind::VirtualMachineInstancetype {
    fn spec(spec: Spec<Self>, _: &Write<'_, Self>, found: &mut Found) {
        rules::instancetype(&spec, found);
    }
}

impl Judged for kind::VirtualMachineClusterInstancetype {
    fn spec(spec: Spec<Self>, _: &Write<'_, Self>, found: &mut Found) {
        rules::instancetype(&spec, found);
    }
}

impl Judged for kind::VirtualMachinePreference {
    fn spec(spec: Spec<Self>, _: &Write<'_, Self>, found: &mut Found) {
        rules::preference(&spec, found);
    }
}

impl Judged for kind::VirtualMachineClusterPreference {
    fn spec(spec: Spec<Self>, _: &Write<'_, Self>, found: &mut Found) {
        rules::preference(&spec, found);
    }
}

impl Judged for kind::MigrationPolicy {
    fn spec(spec: Spec<Self>, _: &Write<'_, Self>, found: &mut Found) {
        rules::policy(&spec, found);
    }
}
