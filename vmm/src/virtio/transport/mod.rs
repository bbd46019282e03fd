//! The modern virtio PCI transport (virtio 1.3 §4.1): how a driver finds, configures and runs a device.
//!
//! Everything lives in one memory BAR ([`layout`]); the driver is led there by vendor capabilities ([`capability`]). The
//! driver's writes go to [`common_config`], whose [`status`] machine says when the device starts and stops; both happen
//! on the machine's event thread, never on a vCPU ([`function`]). Device threads answer through [`signals`] without a lock.

pub mod capability;
pub mod common_config;
pub mod function;
pub mod signals;
pub mod status;

#[cfg(test)]
mod tests;

pub use capability::layout::BAR_SIZE;
pub use function::VirtioPci;
