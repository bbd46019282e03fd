//! Walks a JSON document along a table of fields and reports everything that has no place in it, all at once.

use serde_json::Value;

use crate::Quantity;
use crate::validate::Problem;

/// The fields of one kind of object.
pub(crate) struct Fields {
    /// What Vireo reads.
    pub(crate) supported: &'static [Field],
    /// What KubeVirt knows beyond that.
    pub(crate) known: &'static [&'static str],
}

/// A supported field.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) required: bool,
}

/// What a field holds.
pub(crate) enum Kind {
    String,
    /// A whole number, 0 to 2³¹-1: every integer of the API that Vireo reads is a count.
    Integer,
    Boolean,
    Quantity,
    /// Anything: the field is not read.
    Any,
    Record(&'static Fields),
    List(&'static Kind),
    Map(&'static Kind),
}

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
            Kind::String => (!value.is_string()).then_some("must be a string"),
            Kind::Boolean => (!value.is_boolean()).then_some("must be true or false"),
            Kind::Integer => (value.as_u64().is_none_or(|n| n > i32::MAX.unsigned_abs().into()))
                .then_some("must be a whole number from 0 to 2147483647"),
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
mod tests {
    use super::*;
    use crate::kubevirt::v1::{VirtualMachine, fields};

    /// A value with every supported field, one element in every list.
    fn complete(kind: &Kind) -> Value {
        match kind {
            Kind::String => "x".into(),
            Kind::Integer => 1.into(),
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

    #[test]
    fn types_hold_exactly_the_supported_fields() {
        let mut value = complete(&Kind::Record(&fields::VIRTUAL_MACHINE));
        let mut problems = Vec::new();
        check(&mut value, &fields::VIRTUAL_MACHINE, "", &mut problems);
        assert_eq!(problems, []);
        let typed: VirtualMachine = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(typed).unwrap(), value);
    }
}
