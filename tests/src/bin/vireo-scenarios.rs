//! Runs scenarios inside a node.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use vireo_tests::scenarios::{self, Selection};

/// Runs scenarios inside a node.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Name the scenarios.
    List,
    /// Run them.
    Run {
        /// 1.6, 1.7 or 2.1.
        #[arg(long, default_value = "1.7")]
        containerd: String,
        /// Leave out those that have nothing to do with containerd.
        #[arg(long)]
        containerd_only: bool,
        /// Only those whose name has this in it, or one of several with commas between.
        #[arg(long)]
        only: Option<String>,
        /// But not these; commas between.
        #[arg(long, value_delimiter = ',')]
        without: Vec<String>,
        /// What fails is not tried once more.
        #[arg(long)]
        once: bool,
    },
    /// The demo's part in the node.
    Demo {
        /// 1.6, 1.7 or 2.1.
        #[arg(long, default_value = "1.7")]
        containerd: String,
    },
    /// Only install Vireo and start containerd.
    Provision {
        /// 1.6, 1.7 or 2.1.
        #[arg(long, default_value = "1.7")]
        containerd: String,
    },
}

fn main() -> Result<ExitCode> {
    let good = match Arguments::parse().action {
        Action::List => {
            for name in scenarios::names() {
                println!("{name}");
            }
            true
        }
        Action::Run { containerd, containerd_only, only, without, once } => {
            scenarios::run(&Selection { containerd, containerd_only, only, without, once })?
        }
        Action::Demo { containerd } => {
            scenarios::demo::demo(&containerd)?;
            true
        }
        Action::Provision { containerd } => {
            scenarios::provision(&containerd)?;
            true
        }
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
