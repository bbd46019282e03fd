use std::collections::BTreeSet;
use std::path::Path;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use super::crds::Definition;
use super::node::{Node, Record};
use super::shape::Shapes;
use super::{definitions, files};
use crate::cluster::{Kind, kind};

#[test]
fn what_is_generated_is_in_the_tree() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let update = std::env::var_os("UPDATE").is_some();
    for (path, text) in files() {
        let file = root.join(&path);
        if update {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &text).unwrap();
        } else {
            assert!(
                std::fs::read_to_string(&file).is_ok_and(|there| there == text),
                "runtimeclass/{path} is not what the types say: UPDATE=1 cargo test -p vireo-runtimeclass generate"
            );
        }
    }
}

/// The rules of apiextensions on structural schemas, as far as these schemas can break them.
fn check_structural(schema: &Value, path: &str) {
    const KNOWN: &[&str] = &[
        "additionalProperties",
        "description",
        "enum",
        "format",
        "items",
        "maximum",
        "minimum",
        "nullable",
        "properties",
        "required",
        "type",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-list-type",
        "x-kubernetes-map-type",
        "x-kubernetes-preserve-unknown-fields",
    ];
    let schema = schema.as_object().unwrap();
    for keyword in schema.keys() {
        assert!(KNOWN.contains(&keyword.as_str()), "{path} has {keyword}");
    }
    let has = |keyword: &str| schema.get(keyword) == Some(&Value::Bool(true));
    let kind = schema.get("type").map(|kind| kind.as_str().unwrap());
    assert!(
        kind.is_some() || has("x-kubernetes-int-or-string") || has("x-kubernetes-preserve-unknown-fields"),
        "{path} has no type"
    );
    assert!(kind.is_none() || !has("x-kubernetes-int-or-string"), "{path} has two types");
    let properties = schema.get("properties").and_then(Value::as_object);
    assert!(properties.is_none() || kind == Some("object"), "{path}");
    assert!(properties.is_none() || !schema.contains_key("additionalProperties"), "{path}");
    assert_eq!(schema.contains_key("items"), kind == Some("array"), "{path}");
    for required in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        assert!(properties.unwrap().contains_key(required.as_str().unwrap()), "{path} requires {required}");
    }
    let items = schema.get("items");
    match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("map") => {
            let item = items.unwrap();
            let keys = schema["x-kubernetes-list-map-keys"].as_array().unwrap();
            assert!(!keys.is_empty());
            for key in keys {
                let is_scalar = item["properties"][key.as_str().unwrap()]["type"] == "string";
                assert!(is_scalar && item["required"].as_array().unwrap().contains(key), "{path} has no {key}");
            }
        }
        Some("set") => assert_eq!(items.unwrap()["type"], "string", "{path}"),
        other => assert_eq!(other, items.map(|_| "atomic"), "{path}"),
    }
    for (name, schema) in properties.into_iter().flatten() {
        check_structural(schema, &format!("{path}.{name}"));
    }
    for schema in schema.get("additionalProperties").into_iter().chain(items) {
        check_structural(schema, &format!("{path}[]"));
    }
}

/// Whether every object has its unknown fields kept until the webhook has seen them.
fn check_preserved(schema: &Value, path: &str) {
    let is_map = schema.get("additionalProperties").is_some();
    if schema["type"] == "object" && !is_map {
        assert_eq!(schema["x-kubernetes-preserve-unknown-fields"], true, "{path}");
    }
    for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        check_preserved(schema, &format!("{path}.{name}"));
    }
    for schema in schema.get("additionalProperties").into_iter().chain(schema.get("items")) {
        check_preserved(schema, &format!("{path}[]"));
    }
}

#[test]
fn crds_are_what_an_api_server_takes() {
    /// `kubectl apply` notes the whole object in an annotation, and Kubernetes takes no more than this in all of them, bytes.
    const MAX_ANNOTATIONS: usize = 256 << 10;
    let mut names = BTreeSet::new();
    for definition in definitions(&Shapes::read()) {
        let object = definition.object();
        let crd: CustomResourceDefinition = serde_json::from_value(object.clone()).unwrap();
        assert!(object.to_string().len() < MAX_ANNOTATIONS / 2, "{}", definition.name());
        let yaml = serde_saphyr::to_string(&object).unwrap();
        assert_eq!(serde_saphyr::from_str::<Value>(&yaml).unwrap(), object);
        let own = crd.spec.names.short_names.unwrap_or_default();
        for name in own.into_iter().chain([crd.spec.names.plural, crd.spec.names.singular.unwrap()]) {
            assert!(names.insert(name.clone()), "{name} twice");
        }
        assert_eq!(crd.spec.versions.iter().filter(|version| version.storage).count(), 1);
        let versions = object["spec"]["versions"].as_array().unwrap();
        for version in versions {
            let schema = &version["schema"]["openAPIV3Schema"];
            check_structural(schema, definition.kind);
            check_preserved(&schema["properties"]["spec"], definition.kind);
            let columns = version.get("additionalPrinterColumns").and_then(Value::as_array);
            for column in columns.into_iter().flatten() {
                check_path(schema, column["jsonPath"].as_str().unwrap());
            }
            for path in version["subresources"]["scale"].as_object().into_iter().flatten() {
                check_path(schema, path.1.as_str().unwrap());
            }
        }
    }
}

/// A column's path leads to a field.
fn check_path(schema: &Value, path: &str) {
    let mut schema = schema;
    let plain: String = path.split(['[', ']']).step_by(2).collect::<Vec<_>>().join("[]");
    for name in plain.trim_start_matches('.').split('.') {
        let (name, is_list) = name.strip_suffix("[]").map_or((name, false), |name| (name, true));
        if schema.get("properties").is_none() {
            // What an object's metadata has is the API server's.
            assert_eq!(path, ".metadata.creationTimestamp");
            return;
        }
        schema = &schema["properties"][name];
        assert!(schema.is_object(), "{path} leads nowhere");
        if is_list {
            schema = &schema["items"];
        }
    }
}

/// A value that holds everything, with the `choice`th name wherever there is a choice.
fn complete(node: &Node, choice: usize) -> Value {
    match node {
        Node::Any | Node::Metadata => json!({}),
        Node::String | Node::IntOrString => json!("x"),
        Node::OneOf(names) => json!(names[choice % names.len()]),
        Node::Boolean => json!(choice == 0),
        Node::Count => json!(if choice == 0 { i32::MAX } else { 0 }),
        Node::Int32 => json!(if choice == 0 { i32::MAX } else { i32::MIN }),
        Node::Int64 => json!(if choice == 0 { i64::MAX } else { i64::MIN }),
        Node::Quantity => json!("1Gi"),
        Node::Time => json!("2026-11-25T10:00:00Z"),
        Node::List(_, node) => json!([complete(node, choice)]),
        Node::Map(node) => json!({"x": complete(node, choice)}),
        Node::Record(record) => complete_record(record, choice),
    }
}

fn complete_record(record: &Record, choice: usize) -> Value {
    record.fields.iter().map(|field| (field.name.clone(), complete(&field.node, choice))).collect()
}

/// Or one object that the API server took would end a watch of all.
#[test]
fn what_a_schema_takes_is_a_status() {
    fn reads<K: Kind>(definition: &Definition) {
        assert_eq!(K::KIND, definition.kind);
        let Some(record) = &definition.status else { return };
        for choice in 0..20 {
            let value = complete_record(record, choice);
            let status: K::Status = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(serde_json::to_value(status).unwrap(), value);
        }
        serde_json::from_value::<K::Status>(json!({})).unwrap();
    }
    let definitions = definitions(&Shapes::read());
    reads::<kind::VirtualMachine>(&definitions[0]);
    reads::<kind::VirtualMachineInstance>(&definitions[1]);
    reads::<kind::VirtualMachineInstanceMigration>(&definitions[2]);
    reads::<kind::VirtualMachineInstanceReplicaSet>(&definitions[3]);
    reads::<kind::KubeVirt>(&definitions[4]);
    reads::<kind::MigrationPolicy>(&definitions[9]);
}
