//! Walks a JSON document along a table of fields and reports everything that has no place in it, all at once.

use serde_json::Value;

use crate::Quantity;
use crate::validate::Problem;

/// The fields of one kind of object.
#[derive(Debug)]
pub(crate) struct Fields {
    /// What Vireo reads.
    pub(crate) supported: &'static [Field],
    /// What KubeVirt knows beyond that.
    pub(crate) known: &'static [&'static str],
}

/// A supported field.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) required: bool,
}

/// What a field holds.
#[derive(Debug)]
#[cfg_attr(not(feature = "cluster"), allow(dead_code, reason = "a machine's spec doesn't have all of them"))]
pub(crate) enum Kind {
    String,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// A whole number in these bounds, both included: [`COUNT`], [`INT32`] or [`INT64`].
    Integer(i64, i64),
    /// A number or a name, of a port for one.
    IntOrString,
    Boolean,
    Quantity,
    /// Anything: the field is not read.
    Any,
    Record(&'static Fields),
    List(&'static Kind),
    Map(&'static Kind),
}

/// Every integer of KubeVirt's that Vireo reads is a count.
pub(crate) const COUNT: Kind = Kind::Integer(0, i32::MAX as i64);
/// Kubernetes' own integers can be this.
#[cfg(any(test, feature = "cluster"))]
pub(crate) const INT32: Kind = Kind::Integer(i32::MIN as i64, i32::MAX as i64);
/// Or this.
#[cfg(any(test, feature = "cluster"))]
pub(crate) const INT64: Kind = Kind::Integer(i64::MIN, i64::MAX);

pub(crate) const fn optional(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, required: false }
}

pub(crate) const fn required(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, required: true }
}

/// Kubernetes' metadata inside a spec: whose labels and annotations count.
pub(crate) static OBJECT_META: Fields = Fields {
    supported: &[
        optional("name", Kind::String),
        optional("annotations", Kind::Map(&Kind::String)),
        optional("creationTimestamp", Kind::Any),
        optional("deletionGracePeriodSeconds", Kind::Any),
        optional("deletionTimestamp", Kind::Any),
        optional("finalizers", Kind::Any),
        optional("generateName", Kind::Any),
        optional("generation", Kind::Any),
        optional("labels", Kind::Map(&Kind::String)),
        optional("managedFields", Kind::Any),
        optional("namespace", Kind::String),
        optional("ownerReferences", Kind::Any),
        optional("resourceVersion", Kind::Any),
        optional("selfLink", Kind::Any),
        optional("uid", Kind::Any),
    ],
    known: &[],
};

/// Removes what is null (to Kubernetes the same as left out) and reports, with full paths, every field of `value` that is
/// unknown, unsupported, missing or of the wrong kind. `path` names `value`; it may be empty.
pub(crate) fn check(value: &mut Value, fields: &'static Fields, path: &str, problems: &mut Vec<Problem>) {
    Walk { problems }.record(value, fields, path);
}

struct Walk<'a> {
    problems: &'a mut Vec<Problem>,
}

impl Walk<'_> {
    fn refuse(&mut self, path: &str, what: impl Into<String>) {
        self.problems.push(Problem::new(path, what));
    }

    fn record(&mut self, value: &mut Value, fields: &'static Fields, path: &str) {
        let Value::Object(map) = value else {
            return self.refuse(path, "must be an object");
        };
        map.retain(|_, value| !value.is_null());
        for (name, value) in map.iter_mut() {
            let path = join(path, name);
            match fields.supported.iter().find(|field| field.name == name) {
                Some(field) => self.value(value, &field.kind, &path),
                None if fields.known.contains(&name.as_str()) => self.refuse(&path, "not supported by vireo"),
                None => self.refuse(&path, "unknown field"),
            }
        }
        for field in fields.supported {
            if field.required && !map.contains_key(field.name) {
                self.refuse(&join(path, field.name), "missing");
            }
        }
    }

    fn value(&mut self, value: &mut Value, kind: &'static Kind, path: &str) {
        let expected = match kind {
            Kind::Any => return,
            Kind::Record(fields) => return self.record(value, fields, path),
            Kind::List(kind) => {
                let Value::Array(items) = value else {
                    return self.refuse(path, "must be a list");
                };
                for (index, item) in items.iter_mut().enumerate() {
                    self.value(item, kind, &format!("{path}[{index}]"));
                }
                return;
            }
            Kind::Map(kind) => {
                let Value::Object(map) = value else {
                    return self.refuse(path, "must be an object");
                };
                map.retain(|_, value| !value.is_null());
                for (name, value) in map.iter_mut() {
                    self.value(value, kind, &join(path, name));
                }
                return;
            }
            Kind::Quantity => {
                if let Err(error) = serde_json::from_value::<Quantity>(value.clone()) {
                    self.refuse(path, error.to_string());
                }
                return;
            }
            Kind::OneOf(names) => {
                let Value::String(name) = value else {
                    return self.refuse(path, "must be a string");
                };
                if !names.contains(&name.as_str()) {
                    let verb = if names.len() == 1 { "is" } else { "are" };
                    self.refuse(path, format!("{name:?} is not supported by vireo; {} {verb}", names.join(", ")));
                }
                return;
            }
            Kind::String => (!value.is_string()).then_some("must be a string"),
            Kind::Integer(min, max) => {
                if value.as_i64().is_none_or(|number| !(*min..=*max).contains(&number)) {
                    self.refuse(path, format!("must be a whole number from {min} to {max}"));
                }
                return;
            }
            Kind::IntOrString => {
                let is_int = value.as_i64().is_some_and(|number| i32::try_from(number).is_ok());
                (!value.is_string() && !is_int).then_some("must be a string or a whole number of 32 bits")
            }
            Kind::Boolean => (!value.is_boolean()).then_some("must be true or false"),
        };
        if let Some(expected) = expected {
            self.refuse(path, expected);
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::kubevirt::v1::{VirtualMachine, fields};

    /// A value with every supported field, one element in every list.
    pub(crate) fn complete(kind: &Kind) -> Value {
        match kind {
            Kind::String | Kind::IntOrString => "x".into(),
            Kind::OneOf(names) => names[0].into(),
            Kind::Integer(_, max) => (*max).into(),
            Kind::Boolean => true.into(),
            Kind::Quantity => "1Gi".into(),
            Kind::Any => Value::Object(serde_json::Map::new()),
            Kind::Record(fields) => {
                fields.supported.iter().map(|field| (field.name.to_owned(), complete(&field.kind))).collect()
            }
            Kind::List(kind) => vec![complete(kind)].into(),
            Kind::Map(kind) => [("cpu".to_owned(), complete(kind))].into_iter().collect(),
        }
    }

    /// Where records stand in a complete value: each with its JSON pointer and its path.
    type Found = Vec<(&'static Fields, String, String)>;

    fn record(fields: &'static Fields, pointer: &str, path: &str, found: &mut Found) {
        found.push((fields, pointer.to_owned(), path.to_owned()));
        for field in fields.supported {
            records(&field.kind, &format!("{pointer}/{}", field.name), &join(path, field.name), found);
        }
    }

    fn records(kind: &'static Kind, pointer: &str, path: &str, found: &mut Found) {
        match kind {
            Kind::Record(fields) => record(fields, pointer, path, found),
            Kind::List(kind) => records(kind, &format!("{pointer}/0"), &format!("{path}[0]"), found),
            Kind::Map(kind) => records(kind, &format!("{pointer}/cpu"), &join(path, "cpu"), found),
            _ => {}
        }
    }

    /// Every field of KubeVirt's that isn't supported and one that nobody knows, in each record of `fields`, one at a time: each
    /// is refused by its path, and nothing else is. How many there were.
    pub(crate) fn refusals(fields: &'static Fields, path: &str) -> usize {
        let mut found = Vec::new();
        record(fields, "", path, &mut found);
        let complete = complete(&Kind::Record(fields));
        let mut count = 0;
        for (record, pointer, at) in found {
            let known = record.known.iter().map(|name| (*name, "not supported by vireo"));
            for (name, what) in known.chain([("vireoNever", "unknown field")]) {
                let mut value = complete.clone();
                value.pointer_mut(&pointer).unwrap()[name] = serde_json::json!({"any": 1});
                let mut problems = Vec::new();
                check(&mut value, fields, path, &mut problems);
                assert_eq!(problems, [Problem::new(join(&at, name), what)]);
                count += 1;
            }
        }
        count
    }

    #[test]
    fn types_hold_exactly_the_supported_fields() {
        let mut value = complete(&Kind::Record(&fields::VIRTUAL_MACHINE));
        let mut problems = Vec::new();
        check(&mut value, &fields::VIRTUAL_MACHINE, "", &mut problems);
        assert_eq!(problems, []);
        let typed: VirtualMachine = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(typed).unwrap(), value);
    }

    #[test]
    fn what_has_no_place_is_refused_by_its_path() {
        assert!(refusals(&fields::VIRTUAL_MACHINE, "") > 140);
    }
}
