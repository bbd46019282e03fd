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
mod channel;
mod channels;
mod churn;
mod control;
mod crash;
mod deaths;
mod debian;
mod disks;
mod endings;
mod jail;
mod limits;
mod local_machine;
mod network;
mod refusals;
mod resources;
mod run_command;
mod vhost;
mod volumes;

pub use bench::Bench;
pub use eventually::{eventually, until};
pub use runner::{Selection, names, provision, run};

use anyhow::Result;

/// Whether a scenario has to do with containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Under {
    /// It runs once for each version.
    EachContainerd,
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

    const fn once(name: &'static str, run: fn(&mut Bench) -> Result<()>) -> Self {
        Self { name, under: Under::Node, run }
    }
}
