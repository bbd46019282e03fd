//! virtio-console (virtio 1.3 §5.3) with its one port, `hvc0`. Served on the machine's event thread.
//!
//! What the guest writes goes to the [`Backend`]; input comes through the [`Port`], which takes only what the guest has
//! buffers for and tells the backend when there is room again.

mod device;
pub mod request;

#[cfg(test)]
mod tests;

pub use device::{Backend, Console, Port};
