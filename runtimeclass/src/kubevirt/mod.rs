//! The `kubevirt.io` API group.

pub mod v1;
