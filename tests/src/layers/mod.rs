//! The test layers: what each runs, and what it says of the outcome.

mod cargo;
mod node;
mod tally;

pub use node::Choice;
pub use tally::Tally;

use anyhow::{Context as _, Result};

use crate::cluster;

/// A layer of tests; a higher one needs more of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Tests beside the code.
    Unit,
    /// Bare payloads on `/dev/kvm`, and the jail around one (this needs root).
    Machine,
    /// Real containerd and real guests in a virtual node.
    Node,
    /// Real Kubernetes.
    Cluster,
}

impl Layer {
    /// Every layer, lowest first.
    pub const ALL: [Self; 4] = [Self::Unit, Self::Machine, Self::Node, Self::Cluster];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Machine => "machine",
            Self::Node => "node",
            Self::Cluster => "cluster",
        }
    }

    /// Runs it, showing its tests as they go. The choice is of the node and cluster layers'.
    pub fn run(self, choice: Choice<'_>) -> Result<Tally> {
        match self {
            Self::Unit => {
                // Always the whole workspace: a part of it would have other features, and everything be built anew.
                cargo::run(&["--workspace", "--lib", "--bins", "--test", "install"])
            }
            Self::Machine => {
                std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").context(
                    "/dev/kvm: bare payloads need it (modprobe kvm_intel or kvm_amd, and permission to use it)",
                )?;
                cargo::run(&["--workspace", "--test", "machine", "--test", "jail"])
            }
            Self::Node => node::run(choice),
            Self::Cluster => cluster::run(choice.only),
        }
    }
}
