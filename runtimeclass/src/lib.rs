//! The contract between those who write VM pods and those who run them: KubeVirt's API types as far as Vireo serves
//! them, the rules on them, and the names that a pod and a node carry.
//!
//! Text comes in through [`parse_vmi`], [`parse_virtual_machine`] and [`parse_rate_limits`] only. What they return has no unknown and no
//! unsupported field and obeys the rules of [`validate`]; everything wrong is reported at once, each by its full path.

#![forbid(unsafe_code)]

pub mod cidr;
pub mod claims;
#[cfg(any(test, feature = "cluster"))]
pub mod cluster;
#[cfg(test)]
mod generate;
pub mod kubevirt;
pub mod machine_service;
pub mod node;
pub mod parse;
pub mod pod;
pub mod quantity;
pub mod rate_limits;
mod schema;
pub mod validate;

pub use cidr::Cidr;
pub use claims::{Claims, parse_claims};
pub use parse::{ParseError, parse_virtual_machine, parse_vmi};
pub use quantity::Quantity;
pub use rate_limits::{RateLimits, parse_rate_limits};
