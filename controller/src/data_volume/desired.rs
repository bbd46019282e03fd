//! The DataVolume that a template makes.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{DynamicObject, TypeMeta};
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{DataVolumeTemplate, InstanceTemplate, VirtualMachine};

use crate::vm::owner;

/// The DataVolume that `template` makes for a guest whose instances are made by `instance`; `source` takes the place of whatever
/// it names as its source.
pub(super) fn desired(
    vm: &VirtualMachine,
    instance: &InstanceTemplate,
    template: &DataVolumeTemplate,
    source: Option<Value>,
) -> DynamicObject {
    let mut spec = template.spec.clone();
    if let Some(fields) = spec.as_object_mut() {
        if let Some(source) = source {
            fields.remove("sourceRef");
            fields.insert("source".to_owned(), source);
        }
        if let Some(class) = &instance.spec.pod.priority_class_name {
            fields.entry("priorityClassName").or_insert_with(|| json!(class));
        }
    }
    let mut labels = template.metadata.labels.clone();
    labels.insert("kubevirt.io/created-by".to_owned(), vm.metadata.uid.clone().unwrap_or_default());
    let mut annotations = template.metadata.annotations.clone();
    annotations.insert("cdi.kubevirt.io/allowClaimAdoption".to_owned(), "true".to_owned());
    let resource = super::resource();
    DynamicObject {
        types: Some(TypeMeta { api_version: resource.api_version, kind: resource.kind }),
        metadata: ObjectMeta {
            name: template.metadata.name.clone(),
            namespace: vm.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![owner(vm)]),
            ..ObjectMeta::default()
        },
        data: json!({ "spec": spec }),
    }
}

/// Whom a guest acts as.
pub(super) fn service_account(instance: &InstanceTemplate) -> &str {
    let volumes = &instance.spec.machine.volumes;
    let by_volume =
        || volumes.iter().find_map(|volume| Some(volume.service_account.as_ref()?.service_account_name.as_str()));
    instance.spec.pod.service_account_name.as_deref().or_else(by_volume).unwrap_or("default")
}

/// The annotations say that CDI doesn't fill it.
pub(super) fn is_filled(annotations: &BTreeMap<String, String>) -> bool {
    ["cdi.kubevirt.io/storage.prePopulated", "cdi.kubevirt.io/storage.checkStaticVolume"]
        .iter()
        .any(|annotation| annotations.contains_key(*annotation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_makes_a_data_volume() {
        let vm: VirtualMachine = serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "spec": {},
            "metadata": {"name": "vm", "namespace": "n", "uid": "u"},
        }))
        .unwrap();
        let instance: InstanceTemplate =
            serde_json::from_value(json!({"spec": {"domain": {"devices": {}}, "priorityClassName": "high"}})).unwrap();
        let template: DataVolumeTemplate = serde_json::from_value(json!({
            "metadata": {"name": "d", "labels": {"a": "b"}},
            "spec": {"sourceRef": {"kind": "DataSource", "name": "s"}, "storage": {}},
        }))
        .unwrap();
        let made =
            serde_json::to_value(desired(&vm, &instance, &template, Some(json!({"pvc": {"name": "p"}})))).unwrap();
        let expected = json!({
            "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume",
            "metadata": {
                "name": "d", "namespace": "n", "labels": {"a": "b", "kubevirt.io/created-by": "u"},
                "annotations": {"cdi.kubevirt.io/allowClaimAdoption": "true"},
                "ownerReferences": [{
                    "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "vm", "uid": "u", "controller": true,
                    "blockOwnerDeletion": true,
                }],
            },
            "spec": {"source": {"pvc": {"name": "p"}}, "storage": {}, "priorityClassName": "high"},
        });
        assert_eq!(made, expected);
    }
}
