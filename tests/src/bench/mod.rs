//! `make bench`: Vireo beside QEMU on the same work.
//!
//! Every figure is the median of interleaved runs (Vireo, microvm, q35, Vireo, …), so that a machine whose speed drifts
//! drifts for all alike. Nothing is asserted on: a bench fails only if a machine doesn't run. What a figure means and
//! how it is taken stands in `docs/benchmarks.md`.
//!
//! - [`figure`], [`table`]: what is reported, and its print.
//! - [`monitor`], [`console`]: a machine monitor under test, from its start to its guest's words.
//! - [`entries`]: what tells the first instruction.
//! - [`samples`]: runs in turns. [`here`]: on this machine's own KVM. [`rounds`], [`idle`], [`load`], [`firmware`]: inside a node.
//! - [`pods`]: pods as containerd starts them, beside runc's.
//! - [`micro`]: without a guest. [`cluster`]: the controller under many machines.
//! - [`qcow2`]: an image that is full already.

pub mod cluster;
pub mod console;
pub mod entries;
pub mod figure;
pub mod firmware;
pub mod here;
pub mod idle;
pub mod load;
pub mod micro;
pub mod monitor;
pub mod pods;
pub mod qcow2;
pub mod rounds;
pub mod samples;
pub mod size;
pub mod table;

/// RAM of every bench's guest.
pub const GUEST_MEMORY_BYTES: u64 = 256 << 20;
