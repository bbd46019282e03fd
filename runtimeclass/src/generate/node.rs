//! A type of Vireo's beside the definition of KubeVirt's that it stands for: which fields are supported, and which only known.

use serde_json::{Map, Value};

use super::shape::{Member, Merge, Shape, Shapes};

/// What a field holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// Anything.
    Any,
    String,
    OneOf(Vec<String>),
    Boolean,
    /// 0 to 2³¹-1.
    Count,
    Int32,
    Int64,
    Quantity,
    IntOrString,
    Time,
    /// Kubernetes' metadata.
    Metadata,
    List(Merge, Box<Node>),
    Map(Box<Node>),
    Record(Record),
}

/// An object with named fields.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    /// KubeVirt's name of it, or Kubernetes'.
    pub(super) name: String,
    pub(super) description: String,
    pub(super) fields: Vec<Field>,
    /// What KubeVirt has beyond that.
    pub(super) known: Vec<String>,
}

/// A supported field.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) required: bool,
    pub(super) nullable: bool,
    pub(super) node: Node,
}

/// Reads types by their schemas.
pub(super) struct Reader<'a> {
    pub(super) shapes: &'a Shapes,
    definitions: Map<String, Value>,
}

impl<'a> Reader<'a> {
    /// The type whose schema is `schema`, beside KubeVirt's `definition`.
    ///
    /// # Panics
    /// Where they contradict each other: Vireo must not have a field that KubeVirt doesn't, nor one of another type.
    pub(super) fn read(schema: &schemars::Schema, shapes: &'a Shapes, definition: &'static str) -> Record {
        let schema = schema.as_value();
        let definitions = schema.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default();
        match (Self { shapes, definitions }).node(schema, Some(&Shape::Named(definition)), definition) {
            Node::Record(record) => record,
            other => panic!("{definition} is no record: {other:?}"),
        }
    }

    fn node(&self, schema: &Value, shape: Option<&Shape>, path: &str) -> Node {
        if let Some(Shape::Nullable(shape)) = shape {
            return self.node(schema, Some(shape), path);
        }
        if let Some(inner) = not_null(schema) {
            return self.node(inner, shape, path);
        }
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            let name = reference.rsplit('/').next().unwrap();
            return match name.rsplit('.').next().unwrap() {
                "ObjectMeta" => Node::Metadata,
                "Quantity" => Node::Quantity,
                short => self.named(&self.definitions[name], short, shape, path),
            };
        }
        self.named(schema, "", shape, path)
    }

    fn named(&self, schema: &Value, name: &str, shape: Option<&Shape>, path: &str) -> Node {
        if let Some(names) = names(schema) {
            assert_scalar(shape, "string", path);
            return Node::OneOf(names);
        }
        if schema.get("x-kubernetes-int-or-string").is_some() {
            return Node::IntOrString;
        }
        let kind = match schema.get("type") {
            Some(Value::Array(kinds)) => kinds[0].as_str(),
            kind => kind.and_then(Value::as_str),
        };
        match kind {
            None => Node::Any,
            Some("string") if schema.get("format").is_some_and(|format| format == "date-time") => {
                assert_scalar(shape, "time", path);
                Node::Time
            }
            Some("string") => {
                assert!(matches!(shape, None | Some(Shape::Named("string" | "duration"))), "{path} is {shape:?}");
                Node::String
            }
            Some("boolean") => {
                assert_scalar(shape, "bool", path);
                Node::Boolean
            }
            Some("integer") => {
                assert_scalar(shape, "int", path);
                match schema["format"].as_str() {
                    Some("uint32") => Node::Count,
                    Some("int32") => Node::Int32,
                    Some("int64") => Node::Int64,
                    other => panic!("{path} is {other:?}"),
                }
            }
            Some("array") => {
                let (merge, shape) = match shape {
                    Some(Shape::List(merge, shape)) => (merge.clone(), Some(&**shape)),
                    None => (Merge::Atomic, None),
                    other => panic!("{path} is {other:?}"),
                };
                Node::List(merge, Box::new(self.node(&schema["items"], shape, &format!("{path}[]"))))
            }
            Some("object") => match (schema.get("properties"), schema.get("additionalProperties"), shape) {
                (None, Some(value @ Value::Object(_)), None | Some(Shape::Map(_))) => {
                    let shape = if let Some(Shape::Map(shape)) = shape { Some(&**shape) } else { None };
                    Node::Map(Box::new(self.node(value, shape, &format!("{path}{{}}"))))
                }
                (properties, _, None | Some(Shape::Named(_))) => {
                    Node::Record(self.record(schema, properties, name, shape, path))
                }
                _ => panic!("{path} is {shape:?}"),
            },
            other => panic!("{path} holds {other:?}"),
        }
    }

    fn record(
        &self,
        schema: &Value,
        properties: Option<&Value>,
        name: &str,
        shape: Option<&Shape>,
        path: &str,
    ) -> Record {
        let (definition, members) = match shape {
            Some(&Shape::Named(definition)) => (definition, self.shapes.get(definition)),
            _ => (name, None),
        };
        assert!(members.is_some() || definition.starts_with("k8s.") || shape.is_none(), "{path} is {shape:?}");
        let required: Vec<_> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let mut fields: Vec<Field> = properties
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(name, schema)| {
                let path = format!("{path}.{name}");
                let member = |members: &'a [Member]| members.iter().find(|member| member.name == name);
                let shape = members.map(|members| &member(members).unwrap_or_else(|| panic!("no {path}")).shape);
                Field {
                    name: name.clone(),
                    // What Kubernetes says of its own fields stands in its own documentation.
                    description: if members.is_some() { description(schema) } else { String::new() },
                    required: required.contains(&name.as_str()),
                    nullable: matches!(shape, Some(Shape::Nullable(_))),
                    node: self.node(schema, shape, &path),
                }
            })
            .collect();
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let is_known = |name: &&str| !fields.iter().any(|field| field.name == **name);
        let known = members.into_iter().flatten().map(|member| member.name).filter(is_known);
        let known = known.map(str::to_owned).collect();
        let description = if members.is_some() { description(schema) } else { String::new() };
        Record { name: definition.trim_start_matches("k8s.").to_owned(), description, fields, known }
    }
}

fn assert_scalar(shape: Option<&Shape>, name: &'static str, path: &str) {
    assert!(shape.is_none_or(|shape| *shape == Shape::Named(name)), "{path} is {shape:?}");
}

/// What a schema is beside null, where it may be null.
fn not_null(schema: &Value) -> Option<&Value> {
    let alternatives = schema.get("anyOf")?.as_array()?;
    alternatives.iter().find(|alternative| alternative.get("type").is_none_or(|kind| kind != "null"))
}

/// The strings that a schema allows, where it names them.
fn names(schema: &Value) -> Option<Vec<String>> {
    let name = |value: &Value| value.as_str().map(str::to_owned);
    match (schema.get("enum"), schema.get("oneOf")) {
        (Some(names), _) => names.as_array()?.iter().map(name).collect(),
        (_, Some(variants)) => variants
            .as_array()?
            .iter()
            .map(|variant| variant.get("const").or_else(|| variant.get("enum")?.get(0)).and_then(name))
            .collect(),
        _ => None,
    }
}

/// A type's or field's own words, without the marks of links.
fn description(schema: &Value) -> String {
    schema.get("description").and_then(Value::as_str).unwrap_or_default().replace("[`", "`").replace("`]", "`")
}
