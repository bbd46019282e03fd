//! One process, one pod: containerd's shim for VM pods.
//!
//! ```text
//! main ── bootstrap                       what containerd runs: start, delete, -v, -info, and the server
//!            │
//!         service                         containerd's Task (v2 and v3) and Sandbox calls and its events; the machine's own service
//!            │
//!          pod ── stdio guest_agent       one pod, its containers, its machine: the state machine
//!            │
//!  translate network volume vsock launch   a spec becomes a machine, a network, open files, a process
//!            │
//!  bundle sandbox_config cgroup cpuset    the ground: what containerd says and left on disk, what the kernel
//!  rootfs sweep records log               holds for a pod, and which shims there are
//! ```
//!
//! The sandbox, a pause container or not, has no process: the shim answers for it. The app container is a virtual machine, run by one
//! `vireo-vmm` child that lives in the container's cgroup and dies with the shim.
#![deny(unsafe_code)]

pub mod bootstrap;
pub mod bundle;
mod bundle_watch;
pub mod cgroup;
pub mod cpuset;
pub mod credentials;
pub mod guest_agent;
#[allow(unsafe_code, reason = "the one place where a process is made")]
pub mod launch;
pub mod log;
pub mod network;
pub mod node_config;
pub mod pod;
pub mod process_id;
mod ready;
pub mod records;
pub mod rootfs;
pub mod sandbox_config;
pub mod service;
pub mod stdio;
pub mod sweep;
pub mod termination;
pub mod translate;
pub mod volume;
pub mod vsock;
