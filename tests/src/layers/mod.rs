//! The test layers: what each runs, and what it says of the outcome.

mod cargo;
mod node;
mod tally;

pub use tally::Tally;

use anyhow::Result;

/// A layer of tests; a higher one needs more of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Tests beside the code.
    Unit,
    /// Bare payloads on `/dev/kvm`.
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

    /// Runs it, showing its tests as they go. `only` picks scenarios of the node layer by a part of their name.
    pub fn run(self, only: Option<&str>) -> Result<Tally> {
        match self {
            Self::Unit => cargo::run(&["--workspace", "--lib", "--bins"]),
            Self::Machine if !std::path::Path::new("/dev/kvm").exists() => {
                Ok(Tally::skipped("this machine has no /dev/kvm"))
            }
            Self::Machine => cargo::run(&["--package", "vireo-vmm", "--test", "*"]),
            Self::Node => node::run(only),
            Self::Cluster => Ok(Tally::skipped("there are no cluster tests yet")),
        }
    }
}
