//! A machine with what its instancetype and its preference make of its template, and without their names: one that is stored,
//! or one that is sent. Nothing is written, a revision neither.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use kube::Client;
use serde_json::Value;
use vireo_runtimeclass::cluster::{InstancetypeSpec, PreferenceSpec, VirtualMachine, VirtualMachineSpec};
use vireo_runtimeclass::parse::Problems;

use super::refusal::MACHINE;
use super::{Refusal, Server};
use crate::instancetype::{FindError, expand, instancetype, preference};

/// Bytes of an object, as many as the API server takes.
pub(super) const OBJECT: usize = 3 << 20;

/// Why a machine can't be expanded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum ExpandError {
    /// It says what it can't, or names what isn't there.
    #[error("{0}")]
    Wrong(String),
    #[error("{0}")]
    Internal(String),
}

/// A machine that is stored.
pub(super) async fn stored(
    State(server): State<Server>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<VirtualMachine>, Refusal> {
    let machine = server.machine(&namespace, &name).await?;
    look_up(&server.context.client, &namespace, machine).await.map(Json).map_err(|error| match error {
        // KubeVirt answers 500, as if it were at fault.
        ExpandError::Wrong(why) => Refusal::conflict(MACHINE, &name, &why),
        ExpandError::Internal(why) => Refusal::internal(&why),
    })
}

/// A machine that is sent.
pub(super) async fn sent(
    State(server): State<Server>,
    Path(namespace): Path<String>,
    body: Bytes,
) -> Result<Json<VirtualMachine>, Refusal> {
    let machine = read(&body, &namespace).map_err(Refusal::bad_request)?;
    look_up(&server.context.client, &namespace, machine).await.map(Json).map_err(|error| match error {
        ExpandError::Wrong(why) => Refusal::bad_request(why),
        ExpandError::Internal(why) => Refusal::internal(&why),
    })
}

/// A machine of `namespace`, which it may leave out.
fn read(body: &[u8], namespace: &str) -> Result<VirtualMachine, String> {
    if body.trim_ascii().is_empty() {
        return Err("empty request body: a VirtualMachine is wanted".to_owned());
    }
    let document: Value = serde_json::from_slice(body)
        .map_err(|error| format!("Can not unmarshal Request body to struct, error: {error}"))?;
    let mut machine = VirtualMachine::parse(document)
        .map_err(|problems| format!("Object is not a valid VirtualMachine: {problems}"))?;
    let own = machine.metadata.namespace.get_or_insert_default();
    if own.is_empty() {
        namespace.clone_into(own);
    }
    if own == namespace {
        Ok(machine)
    } else {
        Err(format!("metadata.namespace: VM namespace must be empty or {namespace}"))
    }
}

/// Finds what `machine` names, as it was when it was first used.
async fn look_up(client: &Client, namespace: &str, machine: VirtualMachine) -> Result<VirtualMachine, ExpandError> {
    let wrong = |why: &dyn std::fmt::Display| ExpandError::Wrong(why.to_string());
    let spec = machine.spec().map_err(|problems| wrong(&problems))?;
    for (field, named) in [("instancetype", &spec.instancetype), ("preference", &spec.preference)] {
        if named.as_ref().is_some_and(|named| named.infer_from_volume.is_some()) {
            let why =
                "the controller writes the name that the volume gives into a stored machine, and hasn't yet; name it";
            return Err(wrong(&format_args!("spec.{field}.inferFromVolume: {why}")));
        }
    }
    let status = machine.status.as_ref();
    let used = status.and_then(|status| status.instancetype_ref.as_ref());
    let used_preference = status.and_then(|status| status.preference_ref.as_ref());
    let instancetype = instancetype(client, namespace, spec.instancetype.as_ref(), used).await?;
    let preference = preference(client, namespace, spec.preference.as_ref(), used_preference).await?;
    expanded(machine, spec, instancetype.as_ref(), preference.as_ref())
}

impl From<FindError> for ExpandError {
    fn from(error: FindError) -> Self {
        if error.is_transient { Self::Internal(error.message) } else { Self::Wrong(error.message) }
    }
}

/// A machine that names neither is as it was.
fn expanded(
    mut machine: VirtualMachine,
    mut spec: VirtualMachineSpec,
    instancetype: Option<&InstancetypeSpec>,
    preference: Option<&PreferenceSpec>,
) -> Result<VirtualMachine, ExpandError> {
    if instancetype.is_none() && preference.is_none() {
        return Ok(machine);
    }
    expand(&mut spec.template, instancetype, preference, "spec.template.spec")
        .map_err(|problems| ExpandError::Wrong(Problems(problems).to_string()))?;
    (spec.instancetype, spec.preference) = (None, None);
    let spec = serde_json::to_value(&spec).map_err(|error| ExpandError::Internal(error.to_string()))?;
    machine.unread = spec.into();
    Ok(machine)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn machine(domain: &Value) -> Value {
        let mut domain = domain.clone();
        domain["devices"] = json!({});
        let spec = json!({
            "runStrategy": "Halted", "instancetype": {"name": "small"}, "preference": {"name": "linux"},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"domain": domain}},
        });
        json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "a"}, "spec": spec})
    }

    fn told(domain: &Value) -> Result<Value, ExpandError> {
        let machine = read(machine(domain).to_string().as_bytes(), "shop").unwrap();
        let size = serde_json::from_value(json!({"cpu": {"guest": 2}, "memory": {"guest": "1Gi"}})).unwrap();
        let preference = serde_json::from_value(json!({"cpu": {"preferredCPUTopology": "preferCores"}})).unwrap();
        let spec = machine.spec().unwrap();
        expanded(machine, spec, Some(&size), Some(&preference)).map(|machine| json!(machine))
    }

    #[test]
    fn what_sized_it_is_in_the_template_and_no_longer_named() {
        let machine = told(&json!({})).unwrap();
        let domain = &machine["spec"]["template"]["spec"]["domain"];
        assert_eq!(domain["cpu"], json!({"sockets": 1, "cores": 2, "threads": 1}));
        assert_eq!(domain["memory"], json!({"guest": "1Gi"}));
        assert_eq!((&machine["spec"]["instancetype"], &machine["spec"]["preference"]), (&Value::Null, &Value::Null));
        assert_eq!(machine["spec"]["runStrategy"], "Halted");
        assert_eq!(machine["spec"]["template"]["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(machine["metadata"]["namespace"], "shop");
    }

    #[test]
    fn what_both_say_is_told_with_its_path() {
        let Err(ExpandError::Wrong(why)) = told(&json!({"memory": {"guest": "2Gi"}, "cpu": {"cores": 3}})) else {
            panic!("it is no conflict")
        };
        for path in ["memory.guest", "cpu.cores"] {
            assert!(why.contains(&format!("spec.template.spec.domain.{path}: ")), "{why}");
        }
    }

    #[test]
    fn only_machines_of_the_namespace_are_read() {
        let with = |change: &dyn Fn(&mut Value)| {
            let mut machine = machine(&json!({}));
            change(&mut machine);
            read(machine.to_string().as_bytes(), "shop")
        };
        assert!(with(&|machine| machine["metadata"]["namespace"] = json!("shop")).is_ok());
        let other = with(&|machine| machine["metadata"]["namespace"] = json!("other")).unwrap_err();
        assert!(other.contains("must be empty or shop"), "{other}");
        let wrong = with(&|machine| machine["spec"]["template"]["spec"]["surprise"] = json!(1)).unwrap_err();
        assert!(wrong.contains("spec.template.spec.surprise"), "{wrong}");
        assert!(with(&|machine| machine["kind"] = json!("Pod")).unwrap_err().contains("kind"));
        for body in ["", " ", "{", "[]", "null"] {
            assert!(read(body.as_bytes(), "shop").is_err(), "{body}");
        }
    }
}
