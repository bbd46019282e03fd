//! One process, one pod: containerd's shim for VM pods.

#![deny(unsafe_code)]

#[allow(unsafe_code)]
pub mod launch;
pub mod network;
pub mod node_config;
pub mod translate;
pub mod volume;
