//! Rules on `dataVolumeTemplates`. What is in them is the importer's to judge; that there is one source and one target, and
//! that the machine uses it, is KubeVirt's.

use std::collections::HashSet;

use serde_json::Value;
use vireo_runtimeclass::cluster::{DataVolumeTemplate, VirtualMachineSpec};
use vireo_runtimeclass::kubevirt::v1::Volume;

use super::names::dns_name;
use crate::admission::verdict::Found;

/// The templates of a machine in `namespace`.
pub(crate) fn data_volumes(spec: &VirtualMachineSpec, namespace: Option<&str>, found: &mut Found) {
    let mut names = HashSet::new();
    for (index, template) in spec.data_volume_templates.iter().enumerate() {
        let path = format!("spec.dataVolumeTemplates[{index}]");
        let name = template.metadata.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            found.refuse(format_args!("{path}.metadata.name"), "missing");
            continue;
        }
        found.refuse_if(format_args!("{path}.metadata.name"), dns_name(name));
        if !names.insert(name) {
            found.refuse(format_args!("{path}.metadata.name"), format!("{name:?} is already taken"));
        }
        let other = template.metadata.other.get("namespace").and_then(Value::as_str).filter(|other| !other.is_empty());
        if let (Some(other), Some(own)) = (other, namespace)
            && other != own
        {
            let what = format!("{other:?} is not the machine's own namespace, {own:?}");
            found.refuse(format_args!("{path}.metadata.namespace"), what);
        }
        source_and_target(template, &format!("{path}.spec"), found);
        let shows = |volume: &Volume| {
            volume.data_volume.as_ref().is_some_and(|one| one.name == name)
                || volume.persistent_volume_claim.as_ref().is_some_and(|one| one.claim_name == name)
        };
        if !spec.template.spec.machine.volumes.iter().any(shows) {
            found.refuse(path, format!("no volume of the template shows the DataVolume {name:?}"));
        }
    }
}

fn source_and_target(template: &DataVolumeTemplate, path: &str, found: &mut Found) {
    let field = |value: &Value, name: &str| value.get(name).is_some_and(|value| !value.is_null());
    let spec = &template.spec;
    match (field(spec, "pvc"), field(spec, "storage")) {
        (false, false) => found.refuse(format_args!("{path}.storage"), "missing; storage or pvc is needed"),
        (true, true) => found.refuse(format_args!("{path}.pvc"), "excludes storage; name one of them"),
        _ => {}
    }
    let target = spec.get("pvc").or_else(|| spec.get("storage")).unwrap_or(&Value::Null);
    let populated = field(target, "dataSource") || field(target, "dataSourceRef");
    match (field(spec, "source"), field(spec, "sourceRef"), populated) {
        (false, false, false) => found.refuse(format_args!("{path}.source"), "missing; source or sourceRef is needed"),
        (true, true, _) => found.refuse(format_args!("{path}.sourceRef"), "excludes source; name one of them"),
        (true, _, true) | (_, true, true) => {
            found.refuse(format_args!("{path}.source"), "excludes a dataSource of the target; name one of them");
        }
        _ => {}
    }
    if let Some(source) = spec.get("source").filter(|source| !source.is_null()) {
        let count = source.as_object().map_or(0, |source| source.values().filter(|one| !one.is_null()).count());
        if count != 1 {
            let what = format!("has {count} sources; one is needed, http or registry, for one");
            found.refuse(format_args!("{path}.source"), what);
        }
    }
}
