//! What is to become of claims that have no disk image yet: the annotation [`ANNOTATION_CLAIMS`](crate::pod::ANNOTATION_CLAIMS), in which who makes a
//! pod passes on what only the API server knows of its claims.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Quantity;
use crate::parse::{ParseError, refuse_if_any, typed};
use crate::schema::{
    Field, Fields,
    Kind::{Boolean, Map, Quantity as Amount, Record},
};
use crate::validate::{DISK_SIZE, Problem};

/// New disks, by the names of their volumes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Claims(pub BTreeMap<String, NewImage>);

/// The disk image of a claim that has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewImage {
    /// Its size: what the claim asked for. All that is free in it where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Quantity>,
    /// Its space is taken at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preallocation: Option<bool>,
}

static TOP: Fields =
    Fields { supported: &[Field { name: "claims", kind: Map(&Record(&IMAGE)), required: true }], known: &[] };

static IMAGE: Fields = Fields {
    supported: &[
        Field { name: "capacity", kind: Amount, required: false },
        Field { name: "preallocation", kind: Boolean, required: false },
    ],
    known: &[],
};

#[derive(Deserialize)]
struct Top {
    claims: Claims,
}

/// Reads the annotation. Whether there are volumes of these names isn't looked at.
///
/// # Errors
/// Every problem of the document at once.
pub fn parse_claims(json: &str) -> Result<Claims, ParseError> {
    let value: serde_json::Value = serde_json::from_str(json).map_err(ParseError::Json)?;
    // The schema's paths start at an object's fields, and these are names of volumes.
    let Top { claims } = typed(serde_json::json!({"claims": value}), &TOP, "")?;
    let mut problems = Vec::new();
    for (name, image) in &claims.0 {
        if let Some(capacity) = image.capacity.as_ref().filter(|size| !DISK_SIZE.contains(&size.value())) {
            let what = format!("{capacity} is not supported by vireo; 1Mi to 64Ti are");
            problems.push(Problem::new(format!("claims.{name}.capacity"), what));
        }
    }
    refuse_if_any(problems)?;
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_images_by_the_names_of_volumes() {
        let claims = parse_claims(r#"{"data": {"capacity": "10Gi", "preallocation": true}, "other": {}}"#).unwrap();
        let data = &claims.0["data"];
        assert_eq!(data.capacity.as_ref().map(Quantity::value), Some(10 << 30));
        assert_eq!((data.preallocation, &claims.0["other"]), (Some(true), &NewImage::default()));
        let refused = |json| parse_claims(json).unwrap_err().to_string();
        assert_eq!(refused("[]"), "claims: must be an object");
        assert_eq!(refused(r#"{"a": {"size": 1}}"#), "claims.a.size: unknown field");
        let expected = "claims.a.capacity: 1k is not supported by vireo; 1Mi to 64Ti are";
        assert_eq!(refused(r#"{"a": {"capacity": "1k"}}"#), expected);
    }
}
