//! virtio devices: what each offers and does ([`device`]), apart from how a driver finds it ([`transport`]).
//!
//! Each device is a folder: `device` is what the transport talks to, `request` reads what the driver wrote (pure, but for
//! guest memory), and a worker serves the queues, on a thread of its own or on the machine's event thread ([`served`]).

pub mod balloon;
pub mod block;
pub mod console;
pub mod device;
pub mod net;
pub mod rng;
pub mod served;
pub mod throttle;
pub mod transport;
pub mod virtqueue;
pub mod vsock;

#[cfg(test)]
pub(crate) mod testing;
