//! `VirtualMachineInstanceReplicaSet`: so many instances that are all alike.
//!
//! ```text
//!   replica set + its instances ──> plan: how many more, which not ──> reconcile: applies;  status
//! ```
//!
//! As with guests, what is decided from is a watch's memory, and is looked at anew before anything is made or deleted: names of
//! replicas are made up by the API server, and would not stop a second one.

mod plan;
mod reconcile;

pub use plan::{Plan, make, plan, status};
pub use reconcile::run;
