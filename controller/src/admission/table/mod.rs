//! The table of objects that are refused, each by its paths, or let in, each with what it is given: as this crate's tests
//! judge them by themselves, and as the cluster layer's (which has this file too) hand them to a real API server.
//!
//! A row changes (as by a JSON merge patch) one of the objects in `bases.yaml`. A row of an instance is one of a machine as
//! well, whose template is that instance.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

/// One object.
#[derive(Debug)]
pub struct Case {
    /// What is said where it fails.
    pub name: String,
    /// The object's own kind in paths.
    pub plural: &'static str,
    /// What it is.
    pub object: Value,
    /// What makes it of what was there before, as a merge patch.
    pub change: Value,
    /// What was there before, in an update.
    pub old: Option<Value>,
    /// The cluster's configuration.
    pub configuration: Value,
    /// The CRD's schema refuses it, before it is judged: a real API server's words are its own then.
    pub by_schema: bool,
    /// By path, some of what is said of each field that is wrong; nothing where it is let in.
    pub refused: BTreeMap<String, String>,
    /// Some of the object as it becomes.
    pub becomes: Value,
    /// A warning's beginning.
    pub warns: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: Option<String>,
    of: String,
    with: Value,
    from: Option<Value>,
    #[serde(default)]
    configuration: Value,
    #[serde(default)]
    schema: bool,
    #[serde(default)]
    refused: BTreeMap<String, String>,
    #[serde(default)]
    becomes: Value,
    warns: Option<String>,
}

/// All of them.
pub fn cases() -> Vec<Case> {
    let bases: BTreeMap<String, Value> = read(include_str!("bases.yaml"));
    let files = [
        ("machine", include_str!("machine.yaml")),
        ("storage", include_str!("storage.yaml")),
        ("network", include_str!("network.yaml")),
        ("pod", include_str!("pod.yaml")),
        ("others", include_str!("others.yaml")),
        ("admitted", include_str!("admitted.yaml")),
    ];
    let mut cases = Vec::new();
    for (file, text) in files {
        for (index, row) in read::<Vec<Row>>(text).into_iter().enumerate() {
            let name = row.name.clone().unwrap_or_else(|| format!("{}: {:?}", row.of, row.refused));
            let name = format!("{file}.yaml, row {}: {name}", index + 1);
            if row.of == "instance" && row.from.is_none() {
                cases.push(of_machine(&row, format!("{name}, as a template"), &bases["machine"]));
            }
            cases.push(whole(row, name, &bases));
        }
    }
    cases
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).expect("a table")
}

fn changed(base: &Value, change: &Value) -> Value {
    let mut object = base.clone();
    json_patch::merge(&mut object, change);
    object
}

fn whole(row: Row, name: String, bases: &BTreeMap<String, Value>) -> Case {
    let base = &bases[&row.of];
    Case {
        name,
        plural: plural(base["kind"].as_str().expect("a kind")),
        object: changed(base, &row.with),
        change: row.with,
        old: row.from.map(|from| changed(base, &from)),
        configuration: row.configuration,
        by_schema: row.schema,
        refused: row.refused,
        becomes: row.becomes,
        warns: row.warns,
    }
}

/// What is wrong with an instance is wrong with a machine's template. What a template becomes is decided when it is used.
fn of_machine(row: &Row, name: String, base: &Value) -> Case {
    let part = |name: &str| row.with.get(name).cloned().unwrap_or_else(|| json!({}));
    let mut metadata = part("metadata");
    metadata.as_object_mut().expect("metadata").remove("name");
    let template = json!({"spec": {"template": {"metadata": metadata, "spec": part("spec")}}});
    Case {
        name,
        plural: "virtualmachines",
        object: changed(base, &template),
        change: Value::Null,
        old: None,
        configuration: row.configuration.clone(),
        by_schema: row.schema,
        refused: row.refused.iter().map(|(path, what)| (format!("spec.template.{path}"), what.clone())).collect(),
        becomes: Value::Null,
        warns: None,
    }
}

fn plural(kind: &str) -> &'static str {
    match kind {
        "VirtualMachine" => "virtualmachines",
        "VirtualMachineInstance" => "virtualmachineinstances",
        "VirtualMachineInstanceReplicaSet" => "virtualmachineinstancereplicasets",
        "VirtualMachineInstanceMigration" => "virtualmachineinstancemigrations",
        "VirtualMachineInstancetype" => "virtualmachineinstancetypes",
        "VirtualMachineClusterInstancetype" => "virtualmachineclusterinstancetypes",
        "VirtualMachinePreference" => "virtualmachinepreferences",
        "VirtualMachineClusterPreference" => "virtualmachineclusterpreferences",
        "MigrationPolicy" => "migrationpolicies",
        "KubeVirt" => "kubevirts",
        other => panic!("no kind {other}"),
    }
}

/// Whether `whole` has all of `part`; lists have to be equal in length.
pub fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (_, Value::Null) => true,
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(name, part)| whole.get(name).is_some_and(|whole| contains(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| contains(whole, part))
        }
        (whole, part) => whole == part,
    }
}
