//! `vireo`: what an admin runs on a node.

#![forbid(unsafe_code)]

mod check;
mod machines;
mod run;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The virtual machines of this node, machines without a cluster, and checks of a node.
#[derive(Debug, Parser)]
#[command(name = "vireo", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a VirtualMachine (kubevirt.io/v1) on this machine, its console on this terminal; Ctrl-] leaves
    Run {
        /// The manifest (YAML or JSON)
        manifest: PathBuf,
        /// Rate limits of the machine's disks, as in the annotation vireo.dev/rate-limits, which it replaces
        #[arg(long, value_name = "JSON")]
        rate_limits: Option<String>,
        /// A volume whose image stays as it is: what the guest writes to it is forgotten at its end
        #[arg(long, value_name = "VOLUME")]
        ephemeral: Vec<String>,
    },
    /// Say what this node lacks to run VM pods, and what to do about it
    Check {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    #[command(flatten)]
    Machines(machines::Command),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run { manifest, rate_limits, ephemeral } => run::run(&manifest, rate_limits.as_deref(), &ephemeral),
        Command::Check { json } => check::check(json),
        Command::Machines(command) => machines::run(&command),
    };
    result.unwrap_or_else(|error| {
        eprintln!("vireo: {error:#}");
        ExitCode::FAILURE
    })
}
