//! One pod: its containers, and the machine of the one that is a VM.

mod answers;
pub mod build;
pub mod container;
mod create;
mod error;
pub mod exec;
mod life;
pub mod lifecycle;
pub mod machine;
#[allow(clippy::module_inception, reason = "the pod is the part's main idea")]
pub mod pod;
mod sandbox;
mod sidecar;
pub mod supervise;
pub mod vmm;
mod vsock;

pub use error::PodError;
pub use pod::Pod;

#[cfg(test)]
pub(crate) mod tests;
