//! A real Kubernetes, for the cluster layer: etcd, the API server, the controller manager and the scheduler as children of
//! this program, in a network of their own.
//!
//! ```text
//!   build, programs    what runs
//!   network            a network namespace with one bridge: fixed addresses and ports, and yet as many clusters as one likes
//!   certificates       the cluster's authorities and what they sign
//!   daemon             a child that dies with its owner
//!   control_plane      the four of them, and who may speak to them
//!   audit              what the API server notes of requests
//!   node               a virtual node with a kubelet
//!   fake_kubelet       nodes on which pods run as tests say
//!   process_kubelet    the same nodes, where Vireo's own pods are processes of this machine
//! ```

mod audit;
mod build;
mod certificates;
mod control_plane;
mod daemon;
mod fake_kubelet;
mod network;
pub mod node;
mod pod_status;
mod process_kubelet;
mod programs;
mod wait;

pub use audit::{Audit, AuditLog, Noted};
pub use build::{Binaries, binaries};
pub use certificates::{Authority, Issued};
pub use control_plane::{ControlPlane, MASTERS, connect};
pub use daemon::Daemon;
pub use fake_kubelet::{FAKE_NODES, FakeKubelet};
pub use network::{HOST, NODE, enter, lend};
pub use pod_status::State;
pub use process_kubelet::ProcessKubelet;
pub use programs::Programs;
pub use wait::{eventually, until};
