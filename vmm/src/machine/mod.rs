//! The machine as a whole: assembled from a plan ([`build`]), then run until it ends ([`running`]). What may
//! be done with it, and when, is [`lifecycle`]'s.
//!
//! A reset is a new machine from the same plan; only the console hub, which belongs to the process, lives on.

mod build;
mod capabilities;
mod devices;
mod firmware;
pub mod lifecycle;
mod running;

pub use build::{BuildError, Machine};
pub use capabilities::{Error as KvmError, check as check_kvm};
pub use devices::DeviceError;
pub use firmware::FirmwareError;
pub use running::{RunError, Running};
