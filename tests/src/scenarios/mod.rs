//! What runs in a node: real containerd, the shim, real guests.
//!
//! A scenario gets a [`Bench`] and fails by returning an error. Around each, the runner compares what there is on the
//! node before and after ([`leftovers`]): a scenario that leaves anything behind fails too.

mod bench;
mod catalogue;
pub mod demo;
mod eventually;
mod last_exits;
pub mod leftovers;
pub mod measure;
pub mod pod;
mod runner;
pub mod shell;

mod boots;
mod cgroup_v1;
mod channel;
mod channels;
mod churn;
mod control;
mod crash;
mod deaths;
mod debian;
mod disks;
mod endings;
mod faults;
mod jail;
mod lifecycle;
mod limits;
mod local_machine;
mod network;
mod policy;
mod refusals;
mod resources;
mod run_command;
mod sandbox_api;
mod upgrade;
mod usage;
mod vhost;
mod volumes;

pub use bench::Bench;
pub use eventually::{eventually, until};
pub use runner::{Selection, names, provision, run};

use anyhow::Result;

/// Whether a scenario needs a node with cgroup v1.
pub fn needs_cgroup_v1(name: &str) -> bool {
    name.starts_with(cgroup_v1::PREFIX)
}

/// The versions of containerd in a node; under the first every scenario runs.
pub const CONTAINERDS: [&str; 3] = ["1.7", "1.6", "2.1"];

/// Whether a scenario has to do with containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Under {
    /// It runs once for each version.
    EachContainerd,
    /// It runs once for each of these versions.
    Containerds(&'static [&'static str]),
    /// It runs once.
    Node,
}

/// One thing that must hold.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// What holds, as an identifier.
    pub name: &'static str,
    /// How often it runs.
    pub under: Under,
    /// Shows it.
    pub run: fn(&mut Bench) -> Result<()>,
}

impl Scenario {
    const fn each(name: &'static str, run: fn(&mut Bench) -> Result<()>) -> Self {
        Self { name, under: Under::EachContainerd, run }
    }

    const fn under(versions: &'static [&'static str], name: &'static str, run: fn(&mut Bench) -> Result<()>) -> Self {
        Self { name, under: Under::Containerds(versions), run }
    }

    const fn once(name: &'static str, run: fn(&mut Bench) -> Result<()>) -> Self {
        Self { name, under: Under::Node, run }
    }
}
