//! What a machine's disks and interfaces may do in a second: the annotation [`ANNOTATION_RATE_LIMITS`](crate::pod::ANNOTATION_RATE_LIMITS), which says what
//! KubeVirt's own fields have no words for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Quantity;
use crate::parse::{ParseError, refuse_if_any, typed};
use crate::schema::{
    Field, Fields,
    Kind::{Map, Quantity as Amount, Record},
};
use crate::validate::Problem;

/// The limits of a machine's devices, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimits {
    /// Of disks: what they read and write, together.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub disks: BTreeMap<String, RateLimit>,
    /// Of interfaces.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub interfaces: BTreeMap<String, InterfaceLimits>,
}

/// The limits of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfaceLimits {
    /// On what reaches the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive: Option<RateLimit>,
    /// On what the guest sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transmit: Option<RateLimit>,
}

/// A limit on bytes, on operations, or on both. An operation is a request of a disk, a packet of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// Bytes in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<Quantity>,
    /// Bytes at once after a rest; a tenth of a second's where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst_bytes: Option<Quantity>,
    /// Operations in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations_per_second: Option<Quantity>,
    /// Operations at once after a rest; a tenth of a second's where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst_operations: Option<Quantity>,
}

/// The largest rate and burst.
const MAX: u64 = 1 << 48;

const fn optional(name: &'static str, kind: crate::schema::Kind) -> Field {
    Field { name, kind, required: false }
}

static LIMITS: Fields = Fields {
    supported: &[optional("disks", Map(&Record(&LIMIT))), optional("interfaces", Map(&Record(&INTERFACE)))],
    known: &[],
};

static INTERFACE: Fields =
    Fields { supported: &[optional("receive", Record(&LIMIT)), optional("transmit", Record(&LIMIT))], known: &[] };

static LIMIT: Fields = Fields {
    supported: &[
        optional("bytesPerSecond", Amount),
        optional("burstBytes", Amount),
        optional("operationsPerSecond", Amount),
        optional("burstOperations", Amount),
    ],
    known: &[],
};

/// Reads the annotation. Paths in errors start at its top; whether there are devices of these names isn't looked at.
///
/// # Errors
/// Every problem of the document at once.
pub fn parse_rate_limits(json: &str) -> Result<RateLimits, ParseError> {
    let value = serde_json::from_str(json).map_err(ParseError::Json)?;
    let limits: RateLimits = typed(value, &LIMITS, "")?;
    refuse_if_any(check(&limits))?;
    Ok(limits)
}

fn check(limits: &RateLimits) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut one = |path: String, limit: &RateLimit| check_limit(&path, limit, &mut problems);
    for (name, limit) in &limits.disks {
        one(format!("disks.{name}"), limit);
    }
    for (name, InterfaceLimits { receive, transmit }) in &limits.interfaces {
        for (side, limit) in [("receive", receive), ("transmit", transmit)] {
            if let Some(limit) = limit {
                one(format!("interfaces.{name}.{side}"), limit);
            }
        }
    }
    problems
}

fn check_limit(path: &str, limit: &RateLimit, problems: &mut Vec<Problem>) {
    let mut refuse = |field: &str, what: String| problems.push(Problem::new(format!("{path}.{field}"), what));
    for (per_second, rate, burst_field, burst) in [
        ("bytesPerSecond", &limit.bytes_per_second, "burstBytes", &limit.burst_bytes),
        ("operationsPerSecond", &limit.operations_per_second, "burstOperations", &limit.burst_operations),
    ] {
        let Some(rate) = rate else {
            if burst.is_some() {
                refuse(burst_field, format!("needs {per_second} beside it"));
            }
            continue;
        };
        if !(1..=MAX).contains(&rate.value()) {
            refuse(per_second, format!("{rate} is not within 1 to {MAX}; leave it out where there is no limit"));
            continue;
        }
        let least = rate.value().div_ceil(500);
        if let Some(burst) = burst.as_ref().filter(|burst| !(least..=MAX).contains(&burst.value())) {
            refuse(burst_field, format!("{burst} is not within {least} (what 2 ms let pass) to {MAX}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> String {
        parse_rate_limits(json).unwrap_err().to_string()
    }

    #[test]
    fn limits_by_name() {
        let json = r#"{"disks": {"root": {"bytesPerSecond": "100Mi", "burstBytes": "1Gi", "operationsPerSecond": 500}},
            "interfaces": {"default": {"transmit": {"bytesPerSecond": "12.5M"}}}}"#;
        let limits = parse_rate_limits(json).unwrap();
        let root = &limits.disks["root"];
        assert_eq!(root.bytes_per_second.as_ref().map(Quantity::value), Some(100 << 20));
        assert_eq!(root.burst_bytes.as_ref().map(Quantity::value), Some(1 << 30));
        assert_eq!(root.operations_per_second.as_ref().map(Quantity::value), Some(500));
        let card = &limits.interfaces["default"];
        let transmit = card.transmit.as_ref().and_then(|limit| limit.bytes_per_second.as_ref());
        assert_eq!((&card.receive, transmit.map(Quantity::value)), (&None, Some(12_500_000)));
        assert_eq!(parse_rate_limits("{}").unwrap(), RateLimits::default());
    }

    #[test]
    fn everything_wrong_is_said_by_its_path() {
        assert_eq!(refused("{"), "not valid JSON");
        assert_eq!(refused("[]"), "must be an object");
        assert_eq!(
            refused(r#"{"disk": {}, "disks": {"a": {"iops": 1}}, "interfaces": {"b": {"bytesPerSecond": 1}}}"#),
            format!("disk: unknown field; disks.a.iops: unknown field; interfaces.b.bytesPerSecond: unknown field")
        );
        let range = format!("is not within 1 to {MAX}; leave it out where there is no limit");
        assert_eq!(
            refused(r#"{"disks": {"a": {"bytesPerSecond": 0, "burstOperations": 5}}}"#),
            format!("disks.a.bytesPerSecond: 0 {range}; disks.a.burstOperations: needs operationsPerSecond beside it")
        );
        assert_eq!(
            refused(r#"{"interfaces": {"b": {"receive": {"operationsPerSecond": "1Ei"}}}}"#),
            format!("interfaces.b.receive.operationsPerSecond: 1Ei {range}")
        );
        assert_eq!(
            refused(r#"{"disks": {"a": {"bytesPerSecond": "1M", "burstBytes": "1k"}}}"#),
            format!("disks.a.burstBytes: 1k is not within 2000 (what 2 ms let pass) to {MAX}")
        );
    }
}
