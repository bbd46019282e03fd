//! What is right and wrong, beyond what the types can tell: pure functions that tell every problem by its path.

mod data_volumes;
mod instance;
mod instancetypes;
mod kubevirt;
mod metadata;
mod migration;
mod names;
mod pod;
mod replicas;
mod scheduling;
mod selectors;
mod sizes;

pub(super) use data_volumes::data_volumes;
pub(crate) use instance::gate;
pub(super) use instance::instance;
pub(super) use instancetypes::{instancetype, matcher_update, matchers, preference};
pub(super) use kubevirt::kubevirt;
pub(super) use metadata::{metadata, reserved};
pub(super) use migration::{cant_move, migration, not_migratable, policy};
pub(crate) use names::dns_name;
pub(super) use replicas::replicas;
pub(super) use sizes::has_memory;
