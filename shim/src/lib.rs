//! One process, one pod: containerd's shim for VM pods.

pub mod network;
pub mod node_config;
pub mod translate;
pub mod volume;
