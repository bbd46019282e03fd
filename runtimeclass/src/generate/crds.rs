//! The CRDs: names, versions, columns and subresources as KubeVirt's, schemas from the types.
//!
//! A schema has to serve two masters. Server-side apply, `kubectl explain` and the API server's own checks want every
//! field with its type; promise 5 wants what is unknown or unsupported refused by name, and the API server silently drops
//! what a schema doesn't have, before any webhook sees it. So a spec's schema has both: all supported fields with their
//! types, all others of KubeVirt's by name and without a type, and `x-kubernetes-preserve-unknown-fields` on every object,
//! so that whatever was written reaches the webhook, which is the judge. Statuses are the controller's own: they are
//! pruned as usual. How lists merge under server-side apply is KubeVirt's, which is atomic for nearly all of them.
//!
//! `VirtualMachineInstance` has a status subresource, which KubeVirt's hasn't: who writes a status then needs no right to
//! write specs.

use serde_json::{Map, Value, json};

use super::node::{Field, Node, Record};
use super::shape::Merge;

/// A column of `kubectl get`: name, type, path, and whether only `-o wide` shows it.
pub(super) type Column = (&'static str, &'static str, &'static str, bool);

/// What of a CRD the types don't say.
pub(super) struct Definition {
    pub(super) group: &'static str,
    /// The first is stored.
    pub(super) versions: &'static [&'static str],
    pub(super) kind: &'static str,
    pub(super) plural: &'static str,
    pub(super) namespaced: bool,
    pub(super) short_names: &'static [&'static str],
    /// `kubectl get all` shows it.
    pub(super) in_all: bool,
    pub(super) columns: &'static [Column],
    pub(super) scale: bool,
    pub(super) spec: Record,
    /// None where there is none.
    pub(super) status: Option<Record>,
}

impl Definition {
    /// What the object's name is.
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }

    /// The object itself.
    pub(super) fn object(&self) -> Value {
        let schema = self.schema();
        let versions: Vec<_> = self.versions.iter().map(|version| self.version(version, &schema)).collect();
        let mut names = json!({
            "kind": self.kind,
            "listKind": format!("{}List", self.kind),
            "plural": self.plural,
            "singular": self.kind.to_lowercase(),
        });
        if !self.short_names.is_empty() {
            names["shortNames"] = json!(self.short_names);
        }
        if self.in_all {
            names["categories"] = json!(["all"]);
        }
        let label = if self.kind == "KubeVirt" { "operator.kubevirt.io" } else { "kubevirt.io" };
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": self.name(), "labels": {label: ""}},
            "spec": {
                "group": self.group,
                "names": names,
                "scope": if self.namespaced { "Namespaced" } else { "Cluster" },
                "versions": versions,
            },
        })
    }

    fn version(&self, version: &str, schema: &Value) -> Value {
        let mut object = json!({
            "name": version,
            "served": true,
            "storage": version == self.versions[0],
            "schema": {"openAPIV3Schema": schema},
        });
        if version != self.versions[0] {
            object["deprecated"] = json!(true);
            let warning = format!("{0}/{version} is now deprecated; use {0}/{1}", self.group, self.versions[0]);
            object["deprecationWarning"] = json!(warning);
        }
        if !self.columns.is_empty() {
            let column = |&(name, kind, path, wide): &Column| {
                let mut column = json!({"name": name, "type": kind, "jsonPath": path});
                if wide {
                    column["priority"] = json!(1);
                }
                column
            };
            object["additionalPrinterColumns"] = self.columns.iter().map(column).collect();
        }
        if self.status.is_some() {
            object["subresources"] = json!({"status": {}});
        }
        if self.scale {
            object["subresources"]["scale"] = json!({
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.labelSelector",
            });
        }
        object
    }

    fn schema(&self) -> Value {
        let mut schema = json!({
            "type": "object",
            "required": ["spec"],
            "properties": {
                "apiVersion": {"type": "string", "description": "Group and version."},
                "kind": {"type": "string", "description": "The kind's name."},
                "metadata": {"type": "object"},
                "spec": record(&self.spec, true),
            },
            "x-kubernetes-preserve-unknown-fields": true,
        });
        schema["description"] = json!(self.spec.description);
        if let Some(status) = &self.status {
            schema["properties"]["status"] = record(status, false);
        }
        schema
    }
}

fn record(record: &Record, preserve: bool) -> Value {
    let mut properties: Map<_, _> =
        record.fields.iter().map(|field| (field.name.clone(), property(field, preserve))).collect();
    let mut schema = json!({"type": "object"});
    if !record.description.is_empty() {
        schema["description"] = json!(record.description);
    }
    let required: Vec<_> = record.fields.iter().filter(|field| field.required).map(|field| &field.name).collect();
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if preserve {
        let unsupported =
            || json!({"description": "Not supported by vireo.", "x-kubernetes-preserve-unknown-fields": true});
        properties.extend(record.known.iter().map(|name| (name.clone(), unsupported())));
        schema["x-kubernetes-preserve-unknown-fields"] = json!(true);
    }
    if !properties.is_empty() {
        schema["properties"] = Value::Object(properties);
    }
    if ATOMIC.contains(&record.name.as_str()) {
        schema["x-kubernetes-map-type"] = json!("atomic");
    }
    schema
}

/// Records of Kubernetes' own that server-side apply takes as a whole.
const ATOMIC: &[&str] = &[
    "ConfigMapKeySelector",
    "LabelSelector",
    "LocalObjectReference",
    "NodeSelector",
    "NodeSelectorTerm",
    "ObjectFieldSelector",
    "ResourceFieldSelector",
    "SecretKeySelector",
];

fn property(field: &Field, preserve: bool) -> Value {
    let mut schema = node(&field.node, preserve);
    if !field.description.is_empty() {
        schema["description"] = json!(field.description);
    }
    if field.nullable {
        schema["nullable"] = json!(true);
    }
    schema
}

fn node(node_: &Node, preserve: bool) -> Value {
    match node_ {
        Node::Any => json!({"x-kubernetes-preserve-unknown-fields": true}),
        Node::String => json!({"type": "string"}),
        Node::OneOf(names) => json!({"type": "string", "enum": names}),
        Node::Boolean => json!({"type": "boolean"}),
        Node::Count => json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": i32::MAX}),
        Node::Int32 => json!({"type": "integer", "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX}),
        Node::Int64 => json!({"type": "integer", "format": "int64"}),
        Node::Quantity | Node::IntOrString => json!({"x-kubernetes-int-or-string": true}),
        Node::Time => json!({"type": "string", "format": "date-time"}),
        // As KubeVirt has it: clients in Go write `creationTimestamp: null`.
        Node::Metadata => json!({"type": "object", "nullable": true, "x-kubernetes-preserve-unknown-fields": true}),
        Node::List(merge, item) => {
            let mut schema = json!({"type": "array", "items": node(item, preserve)});
            let (kind, keys) = match merge {
                Merge::Atomic => ("atomic", None),
                Merge::Set => ("set", None),
                Merge::Keys(keys) => ("map", Some(keys)),
            };
            schema["x-kubernetes-list-type"] = json!(kind);
            if let Some(keys) = keys {
                schema["x-kubernetes-list-map-keys"] = json!(keys);
            }
            schema
        }
        Node::Map(value) => json!({"type": "object", "additionalProperties": node(value, preserve)}),
        Node::Record(inner) => record(inner, preserve),
    }
}
