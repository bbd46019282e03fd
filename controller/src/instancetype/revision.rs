//! ControllerRevisions: instancetypes and preferences as they were when they were first used.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::PostParams;
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::json;
use vireo_runtimeclass::cluster::{InstancetypeRef, Matcher, RevisionRef, VirtualMachine};

use crate::vm::owner;

/// The name of what a revision is of.
pub(super) const NAME_LABEL: &str = "instancetype.kubevirt.io/object-name";

/// The revision's name.
pub(super) fn name(used: &InstancetypeRef) -> Option<&str> {
    used.controller_revision_ref.as_ref()?.name.as_deref()
}

/// What a guest's status says of what it names; without a revision where one is still to be made.
pub(super) fn reference(named: &Matcher, before: Option<&InstancetypeRef>) -> InstancetypeRef {
    let mut reference = before.cloned().unwrap_or_default();
    let mut is_another = false;
    for (now, said) in [
        (&named.name, &mut reference.name),
        (&named.kind, &mut reference.kind),
        (&named.infer_from_volume, &mut reference.infer_from_volume),
    ] {
        if now.is_some() && now != said {
            said.clone_from(now);
            is_another = true;
        }
    }
    if is_another {
        reference.controller_revision_ref = None;
    }
    if named.infer_from_volume_failure_policy.is_some() {
        reference.infer_from_volume_failure_policy = named.infer_from_volume_failure_policy;
    }
    if named.revision_name.is_some() {
        reference.controller_revision_ref = Some(RevisionRef { name: named.revision_name.clone() });
    }
    reference
}

/// Makes a guest's revision of `object`, unless it is there.
///
/// # Errors
/// The API server's.
pub(super) async fn store(client: &Client, vm: &VirtualMachine, object: &DynamicObject) -> kube::Result<RevisionRef> {
    let revision = revision(vm, object);
    let name = revision.metadata.name.clone();
    let namespace = vm.metadata.namespace.as_deref().unwrap_or_default();
    let revisions: Api<ControllerRevision> = Api::namespaced(client.clone(), namespace);
    match revisions.create(&PostParams::default(), &revision).await {
        // The name holds uid and generation: it is the same.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        made => drop(made?),
    }
    Ok(RevisionRef { name })
}

fn revision(vm: &VirtualMachine, object: &DynamicObject) -> ControllerRevision {
    let types = object.types.clone().unwrap_or_default();
    let (_, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
    let of = object.metadata.name.clone().unwrap_or_default();
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let generation = object.metadata.generation.unwrap_or_default().to_string();
    let name = format!("{}-{of}-{version}-{uid}-{generation}", vm.metadata.name.as_deref().unwrap_or_default());
    let labels = [
        ("generation", generation),
        ("kind", types.kind.clone()),
        ("name", of),
        ("uid", uid),
        ("version", version.to_owned()),
    ];
    let labels: BTreeMap<_, _> =
        labels.map(|(label, value)| (format!("instancetype.kubevirt.io/object-{label}"), value)).into();
    let data = json!({
        "apiVersion": types.api_version, "kind": types.kind, "spec": object.data.get("spec"),
        "metadata": {
            "name": object.metadata.name, "namespace": object.metadata.namespace, "uid": object.metadata.uid,
            "generation": object.metadata.generation,
        },
    });
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: vm.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![owner(vm)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_follows_what_a_guest_names() {
        let named = |name: &str| Matcher { name: Some(name.to_owned()), ..Matcher::default() };
        let made = |name: &str| Some(RevisionRef { name: Some(name.to_owned()) });
        let first = reference(&named("a"), None);
        assert_eq!((first.name.as_deref(), &first.controller_revision_ref), (Some("a"), &None));
        let used = InstancetypeRef { controller_revision_ref: made("a-1"), ..first };
        assert_eq!(reference(&named("a"), Some(&used)), used);
        assert_eq!(reference(&named("b"), Some(&used)).controller_revision_ref, None);
        let other_kind = Matcher { kind: Some("VirtualMachineInstancetype".to_owned()), ..named("a") };
        assert_eq!(reference(&other_kind, Some(&used)).controller_revision_ref, None);
        let pinned = Matcher { revision_name: Some("a-0".to_owned()), ..named("a") };
        assert_eq!(reference(&pinned, Some(&used)).controller_revision_ref, made("a-0"));
        assert_eq!(reference(&pinned, None).controller_revision_ref, made("a-0"));
    }

    #[test]
    fn a_revision_holds_what_it_is_of() {
        let vm: VirtualMachine = serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "spec": {},
            "metadata": {"name": "vm", "namespace": "n", "uid": "u"},
        }))
        .unwrap();
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": "VirtualMachineInstancetype", "spec": {"cpu": {"guest": 1}},
            "metadata": {"name": "small", "namespace": "n", "uid": "x", "generation": 3, "labels": {"a": "b"}},
        }))
        .unwrap();
        let made = revision(&vm, &object);
        assert_eq!(made.metadata.name.as_deref(), Some("vm-small-v1beta1-x-3"));
        assert_eq!(made.metadata.labels.unwrap()[NAME_LABEL], "small");
        let data = made.data.unwrap().0;
        assert_eq!((&data["spec"]["cpu"]["guest"], &data["metadata"]["labels"]), (&json!(1), &json!(null)));
        assert_eq!(made.metadata.owner_references.unwrap()[0].uid, "u");
    }
}
