//! virtio-net (virtio 1.3 §5.1): a network card on a tap, one or several pairs of queues, each pair served by a thread of its own, or
//! by the host's kernel (vhost-net).
//!
//! Packets pass between the tap and the guest's memory without a copy in between, with their `virtio_net_hdr`: checksums
//! and segmentation are left to the other side wherever both agreed on it.

mod control;
pub mod device;
pub mod link;
mod pairs;
mod receive;
pub mod request;
mod tap;
mod transmit;
mod vhost;

#[cfg(test)]
mod kernel_tests;
#[cfg(test)]
mod tests;

pub use device::{Limiters, Net};
pub use link::Link;

/// Bytes of `struct virtio_net_hdr_v1`, in front of each packet (virtio 1.3 §5.1.6).
pub const HEADER: usize = 12;
/// Bytes of an Ethernet header with a VLAN tag.
const ETHERNET: usize = 18;
/// Bytes of the largest packet, segmentation offload included.
pub const MAX_PACKET: usize = HEADER + ETHERNET + 65535;
