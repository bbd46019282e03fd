//! What a user wrote, unread.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// A JSON value, kept as its text: as a tree a guest's spec takes 18 KB where its text has 1.3, and a controller keeps those of
/// every guest and instance. The text is without blanks and its names are in order, so that equal values have equal texts.
#[derive(Clone, PartialEq, Eq)]
pub struct Unread(Box<str>);

impl Unread {
    /// The value.
    pub fn value(&self) -> Value {
        // Only a value was ever written into it.
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    /// Whether a name may be among its strings: quickly, and wrong where a longer one has it. Names of objects are the same in JSON.
    pub fn may_name(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

impl From<Value> for Unread {
    fn from(value: Value) -> Self {
        Self(value.to_string().into())
    }
}

impl fmt::Debug for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Unread {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Unread {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_what_it_was() {
        for value in [json!(null), json!({"b": [1, 2.5, "\u{0}é"], "a": {"c": true}}), json!("text")] {
            let unread: Unread = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(unread.value(), value);
            assert_eq!(serde_json::to_value(&unread).unwrap(), value);
        }
    }

    #[test]
    fn what_is_named_may_be_named() {
        let unread = Unread::from(json!({"volumes": [{"persistentVolumeClaim": {"claimName": "data.of-me"}}]}));
        assert!(unread.may_name("data.of-me") && !unread.may_name("data.of-you"));
    }

    #[test]
    fn equal_values_are_equal() {
        let read = |text: &str| serde_json::from_str::<Unread>(text).unwrap();
        assert_eq!(read(r#"{"a": 1, "b": 2}"#), read(r#"{"b":2,"a":1}"#));
        assert_ne!(read(r#"{"a": 1}"#), read(r#"{"a": 2}"#));
    }
}
