//! virtio-console (virtio 1.3 §5.3): port 0 is `hvc0`, port 1 the guest agent's channel. Served on the machine's event
//! thread.
//!
//! What the guest writes goes to a port's [`Backend`]; input comes through the [`Port`], which takes only what the guest has
//! buffers for and tells the backend when there is room again. What driver and device say of the ports is in [`control`]. A
//! driver without MULTIPORT has port 0 alone.

pub mod control;
mod device;
mod lanes;
pub mod request;

#[cfg(test)]
mod tests;

pub use device::{AGENT, Backend, Console, Port, Ports};
