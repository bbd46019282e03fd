//! A `VirtualMachineInstance`: one run of a guest, which is one pod.
//!
//! ```text
//!   pod        the pod that an instance is
//!   status     what is to be said of it, from what is seen
//!   plan       what is to be done for it
//!   guests     what its machine says of itself
//!   reconcile  carries that out
//! ```

pub mod guests;
pub mod plan;
pub mod pod;
pub mod reasons;
mod reconcile;
pub mod status;

pub use reconcile::run;
