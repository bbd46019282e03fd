//! The instance that a guest's template makes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource as _;
use vireo_runtimeclass::cluster::{
    InstanceTemplate, Matcher, VirtualMachine, VirtualMachineInstance, VirtualMachineSpec,
};

use crate::vmi;

/// Keeps an instance until its guest's status says what became of it; keeps a guest until its instance is gone.
pub const FINALIZER: &str = "kubevirt.io/virtualMachineControllerFinalize";
/// The generation of the guest that an instance was made from.
pub(super) const GENERATION: &str = "kubevirt.io/vm-generation";

/// The instance that `template`, which is expanded, makes; `paused`: it stands still before its first instruction.
///
/// # Errors
/// None with this crate's types.
pub fn instance(
    vm: &VirtualMachine,
    spec: &VirtualMachineSpec,
    mut template: InstanceTemplate,
    paused: bool,
) -> serde_json::Result<VirtualMachineInstance> {
    let machine = &mut template.spec.machine;
    if paused {
        machine.start_strategy = Some("Paused".to_owned());
    }
    // The guest's own uid is unique, and the same at each start.
    let firmware = machine.domain.firmware.get_or_insert_default();
    if firmware.uuid.is_none() {
        firmware.uuid.clone_from(&vm.metadata.uid);
    }
    let mut annotations = template.metadata.annotations;
    annotations.insert(GENERATION.to_owned(), vm.metadata.generation.unwrap_or_default().to_string());
    annotations.extend(named(spec.instancetype.as_ref(), "instancetype"));
    annotations.extend(named(spec.preference.as_ref(), "preference"));
    let metadata = ObjectMeta {
        name: vm.metadata.name.clone(),
        namespace: vm.metadata.namespace.clone(),
        labels: Some(template.metadata.labels),
        annotations: Some(annotations),
        owner_references: Some(vec![owner(vm)]),
        // The second one admission sets as well: without it the instance would be written once more before it gets its pod.
        finalizers: Some([FINALIZER, vmi::plan::FINALIZER].map(str::to_owned).to_vec()),
        ..ObjectMeta::default()
    };
    VirtualMachineInstance::new(metadata, &template.spec)
}

/// Says that an object is the guest's.
pub fn owner(vm: &VirtualMachine) -> OwnerReference {
    OwnerReference {
        api_version: VirtualMachine::api_version(&()).into_owned(),
        kind: VirtualMachine::kind(&()).into_owned(),
        name: vm.metadata.name.clone().unwrap_or_default(),
        uid: vm.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The annotation that names an instance's instancetype or preference.
fn named(matcher: Option<&Matcher>, what: &str) -> Option<(String, String)> {
    let matcher = matcher?;
    let kind = matcher.kind.as_deref().unwrap_or_default().to_ascii_lowercase();
    let scope = if kind.is_empty() || kind.contains("cluster") { "cluster-" } else { "" };
    Some((format!("kubevirt.io/{scope}{what}-name"), matcher.name.clone()?))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn made(template: &Value, paused: bool) -> Value {
        let spec = json!({
            "runStrategy": "Always", "template": template,
            "instancetype": {"name": "small"}, "preference": {"name": "linux", "kind": "VirtualMachinePreference"},
        });
        let vm: VirtualMachine = serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "spec": spec,
            "metadata": {"name": "a", "namespace": "n", "uid": "52a0ff6d-5b0a-4dd1-9b1a-0d8b4b0e9c11", "generation": 7},
        }))
        .unwrap();
        let spec = vm.spec().unwrap();
        serde_json::to_value(instance(&vm, &spec, spec.template.clone(), paused).unwrap()).unwrap()
    }

    #[test]
    fn an_instance_is_its_template_with_a_name() {
        let template = json!({
            "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
            "spec": {"domain": {"devices": {}}, "nodeSelector": {"e": "f"}},
        });
        let uid = "52a0ff6d-5b0a-4dd1-9b1a-0d8b4b0e9c11";
        let expected = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {
                "name": "a", "namespace": "n", "labels": {"a": "b"},
                "annotations": {
                    "c": "d", "kubevirt.io/vm-generation": "7", "kubevirt.io/cluster-instancetype-name": "small",
                    "kubevirt.io/preference-name": "linux",
                },
                "finalizers": [
                    "kubevirt.io/virtualMachineControllerFinalize", "kubevirt.io/foregroundDeleteVirtualMachine",
                ],
                "ownerReferences": [{
                    "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "a", "uid": uid,
                    "controller": true, "blockOwnerDeletion": true,
                }],
            },
            "spec": {
                "domain": {"devices": {}, "resources": {}, "firmware": {"uuid": uid}}, "nodeSelector": {"e": "f"},
            },
        });
        assert_eq!(made(&template, false), expected);
    }

    #[test]
    fn what_a_template_says_of_its_firmware_stays() {
        let uuid = "11111111-2222-4333-8444-555555555555";
        let template = json!({"spec": {"domain": {"devices": {}, "firmware": {"uuid": uuid}}}});
        let made = made(&template, true);
        assert_eq!(made["spec"]["domain"]["firmware"]["uuid"], uuid);
        assert_eq!(made["spec"]["startStrategy"], "Paused");
    }
}
