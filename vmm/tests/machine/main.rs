//! The machine layer: bare payloads on this host's `/dev/kvm`, milliseconds each, no root. A host without KVM fails here.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

mod boot;
mod confined;
mod console;
mod ending;
mod firmware;
mod interrupts;
mod pause;
mod payload;
mod platform;
mod process;
mod puppet;
mod rig;
mod smp;
mod virtio;
