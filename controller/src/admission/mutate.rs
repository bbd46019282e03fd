//! What is changed in an object before it is judged. What can't be read isn't changed: the judge says why.

use json_patch::{Patch, PatchOperation};
use kube::core::admission::Operation;
use serde::Serialize;
use serde_json::Value;
use vireo_runtimeclass::cluster::{KubeVirtConfiguration, VirtualMachine, VirtualMachineInstance};

use super::defaults;
use super::review::Request;

/// A random (version 4) UUID.
fn uuid() -> String {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
}

/// What is changed in the object of a request.
pub fn mutate(request: &Request, configuration: &KubeVirtConfiguration) -> Patch {
    let patch = |document: Value| match (request.resource.resource.as_str(), &request.operation) {
        ("virtualmachines", Operation::Create) => {
            let mut spec = VirtualMachine::parse(document.clone()).ok()?.spec().ok()?;
            defaults::virtual_machine(&mut spec, uuid);
            changed(&document, &spec, None)
        }
        ("virtualmachineinstances", Operation::Create) => {
            let mut spec = VirtualMachineInstance::parse(document.clone()).ok()?.spec().ok()?;
            defaults::instance(&mut spec, configuration, uuid);
            changed(&document, &spec, defaults::finalizer(&document))
        }
        _ => None,
    };
    request.document().and_then(patch).unwrap_or_default()
}

fn changed(document: &Value, spec: &impl Serialize, more: Option<PatchOperation>) -> Option<Patch> {
    let mut patch = defaults::spec_patch(document, spec).ok()?;
    patch.0.extend(more);
    Some(patch)
}
