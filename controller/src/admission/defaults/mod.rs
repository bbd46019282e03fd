//! What objects get where their writer says nothing: pure functions on their specs, and the patch that makes it so.
//!
//! A machine gets little (a UUID and a serial number, so that its guest is the same whichever instance it runs in): what an
//! instance gets is decided when that is made, by the cluster's configuration then.

mod instance;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, ReplaceOperation};
use serde::Serialize;
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::VirtualMachineSpec;

pub(super) use instance::instance;

/// Whoever deletes an instance waits until its pod is gone.
const FINALIZER: &str = "kubevirt.io/foregroundDeleteVirtualMachine";

/// What a new machine gets. `uuid` makes a new one each time.
pub(super) fn virtual_machine(spec: &mut VirtualMachineSpec, mut uuid: impl FnMut() -> String) {
    let machine = &mut spec.template.spec.machine;
    machine.architecture.get_or_insert_with(|| "amd64".to_owned());
    let firmware = machine.domain.firmware.get_or_insert_default();
    for text in [&mut firmware.uuid, &mut firmware.serial] {
        if text.as_deref().is_none_or(str::is_empty) {
            *text = Some(uuid());
        }
    }
}

/// What makes `document` have `spec`: nothing, if it has.
pub(super) fn spec_patch(document: &Value, spec: &impl Serialize) -> serde_json::Result<Patch> {
    let root = PointerBuf::from_tokens(["spec"]);
    let wanted = serde_json::to_value(spec)?;
    let operations = match document.get("spec") {
        Some(spec) if *spec == wanted => Vec::new(),
        // As a whole, as KubeVirt does: what was left out and what it stands for are one thing to those who merge.
        Some(_) => vec![PatchOperation::Replace(ReplaceOperation { path: root, value: wanted })],
        None => vec![PatchOperation::Add(AddOperation { path: root, value: wanted })],
    };
    Ok(Patch(operations))
}

/// What makes an instance wait for its pod when it is deleted.
pub(super) fn finalizer(document: &Value) -> Option<PatchOperation> {
    let at = |tokens: &[&str]| PointerBuf::from_tokens(tokens.iter().copied());
    let (path, value) = match document.pointer("/metadata/finalizers").and_then(Value::as_array) {
        Some(there) if there.iter().any(|finalizer| finalizer == FINALIZER) => return None,
        Some(_) => (at(&["metadata", "finalizers", "-"]), json!(FINALIZER)),
        None => (at(&["metadata", "finalizers"]), json!([FINALIZER])),
    };
    Some(PatchOperation::Add(AddOperation { path, value }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finalizers_are_added_once() {
        for (metadata, expected) in [
            (json!({"name": "a"}), json!([FINALIZER])),
            (json!({"finalizers": []}), json!([FINALIZER])),
            (json!({"finalizers": ["a/b"]}), json!(["a/b", FINALIZER])),
            (json!({"finalizers": [FINALIZER]}), json!([FINALIZER])),
        ] {
            let mut document = json!({"metadata": metadata});
            let patch = Patch(finalizer(&document).into_iter().collect());
            json_patch::patch(&mut document, &patch).unwrap();
            assert_eq!(document["metadata"]["finalizers"], expected);
            assert_eq!(finalizer(&document), None);
        }
    }

    #[test]
    fn what_is_there_already_is_not_patched() {
        let document = json!({"spec": {"vmiName": "a"}});
        assert_eq!(spec_patch(&document, &document["spec"]).unwrap(), Patch(Vec::new()));
        let mut other = json!({"metadata": {}});
        let patch = spec_patch(&other, &document["spec"]).unwrap();
        json_patch::patch(&mut other, &patch).unwrap();
        assert_eq!(other["spec"], document["spec"]);
    }
}
