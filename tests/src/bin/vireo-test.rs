//! Runs test layers and says, a line each, how they went.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use vireo_tests::layers::{Choice, Layer, Tally};

/// Runs test layers and says, a line each, how they went.
#[derive(Debug, Parser)]
struct Arguments {
    /// unit, machine, node, cluster, or all.
    #[arg(default_value = "all")]
    layer: String,
    /// Only the scenarios whose name has this in it, or one of several with commas between (node and cluster layers).
    #[arg(long)]
    only: Option<String>,
    /// Under each containerd every scenario that has to do with one, not a selection under all but the first.
    #[arg(long)]
    every: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let layers: Vec<Layer> =
        Layer::ALL.into_iter().filter(|layer| ["all", layer.name()].contains(&arguments.layer.as_str())).collect();
    if layers.is_empty() {
        eprintln!("{}: no such layer; unit, machine, node, cluster or all is needed", arguments.layer);
        return ExitCode::FAILURE;
    }
    let choice = Choice { only: arguments.only.as_deref(), every: arguments.every };
    let mut lines = Vec::new();
    let mut failed = false;
    for layer in layers {
        println!("\n==> layer {}", layer.name());
        let tally = layer.run(choice).unwrap_or_else(|error| Tally {
            failed: 1,
            why: vec![format!("{error:#}")],
            ..Tally::default()
        });
        failed |= tally.failed > 0;
        lines.push(format!("{}: {tally}", layer.name()));
    }
    println!("\n{}", lines.join("\n"));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
