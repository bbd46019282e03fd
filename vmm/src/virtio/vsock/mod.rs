//! virtio-vsock (virtio 1.3 §5.10): stream connections between guest and host without a network.
//!
//! It is a hybrid device: on the host's side a connection is a Unix stream socket. Whoever wants to reach a port of the guest's hands
//! one over ([`VsockControl::connect`]), and what the guest opens is asked for ([`VsockControl::watch`]). The VMM itself opens,
//! binds and connects nothing.
//!
//! Memory is promised before it is given: a connection's credit ([`connection`]) comes out of one pool, so that the bytes which
//! slow readers leave here are bounded, and so is the number of connections. One thread serves all of them.

pub mod connection;
mod device;
mod muxer;
pub mod packet;
mod room;
#[cfg(test)]
mod tests;

pub use device::{Ask, Vsock, VsockControl};
