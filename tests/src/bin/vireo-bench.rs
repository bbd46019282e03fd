//! `make bench`: measures Vireo beside QEMU, here and in a virtual node, and writes `target/bench.json`.
#![forbid(unsafe_code)]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use vireo_tests::{
    bench::{figure::Figure, here, idle, load, rounds, size, table},
    node::{
        Node, Options, Request, Stream,
        share::{Build, builds_folder},
    },
    progress, scenarios,
};

/// Where the node has this build's files.
const SHARE: &str = "/vireo";
/// Three hundred nested boots on an emulated node.
const NODE_LIMIT: Duration = Duration::from_hours(1);

/// Measures Vireo beside QEMU's microvm and q35 machines.
#[derive(Debug, Parser)]
struct Arguments {
    /// One part; all of them without.
    #[command(subcommand)]
    part: Option<Part>,
    /// How often each monitor is measured.
    #[arg(long, global = true, default_value_t = 10)]
    runs: usize,
    /// Of the loads in guests only those whose name has this in it; nothing else is measured in the node then.
    #[arg(long, global = true)]
    only: Option<String>,
    /// Where the figures go.
    #[arg(long, global = true, default_value = "target/bench.json")]
    out: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// On this machine's own KVM.
    Here,
    /// In a virtual node.
    Node,
    /// Inside the node: prints JSON.
    #[command(hide = true)]
    Inside,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let figures = match arguments.part {
        Some(Part::Inside) => {
            let figures = inside(arguments.runs, arguments.only.as_deref())?;
            return Ok(serde_json::to_writer(std::io::stdout(), &figures)?);
        }
        Some(Part::Here) => on_host(arguments.runs)?,
        Some(Part::Node) => in_node(arguments.runs, arguments.only.as_deref())?,
        None => {
            let mut figures = in_node(arguments.runs, arguments.only.as_deref())?;
            figures.extend(on_host(arguments.runs)?);
            figures.extend(size::figures(&release()?)?);
            figures
        }
    };
    print!("\n{}", table::print(&figures));
    fs::write(&arguments.out, serde_json::to_vec_pretty(&figures)?)
        .with_context(|| format!("write {}", arguments.out.display()))?;
    println!("written to {}", arguments.out.display());
    Ok(())
}

/// The folder of the release build.
fn release() -> Result<PathBuf> {
    Ok(builds_folder()?.join("release"))
}

fn on_host(runs: usize) -> Result<Vec<Figure>> {
    if !Path::new("/dev/kvm").exists() {
        progress::note("no /dev/kvm here: the bench on this machine is left out");
        return Ok(Vec::new());
    }
    ensure!(nix::unistd::geteuid().is_root(), "the jail takes root: run make bench as root");
    progress::note("a bare payload on this machine's KVM");
    let folder = builds_folder()?.join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    here::run(&release()?.join("vireo-vmm"), &folder, runs)
}

fn in_node(runs: usize, only: Option<&str>) -> Result<Vec<Figure>> {
    let node = Node::boot(&Options::prepare("bench", Build::Release, true)?)?;
    let mut json = Vec::new();
    let mut command = vec![format!("{SHARE}/bin/vireo-bench"), "inside".to_owned(), format!("--runs={runs}")];
    command.extend(only.map(|only| format!("--only={only}")));
    let code = node.agent().run(Request::new(command).deadline(NODE_LIMIT), |stream, bytes| match stream {
        Stream::Output => json.extend(bytes),
        // Nobody may be looking.
        Stream::Error => drop(std::io::stderr().write_all(bytes)),
    })?;
    ensure!(code == 0, "the benches in the node failed ({code}); its logs: {}", node.folder().display());
    serde_json::from_slice(&json).context("read the node's figures")
}

fn inside(runs: usize, only: Option<&str>) -> Result<Vec<Figure>> {
    let share = Path::new(SHARE);
    if only.is_some() {
        scenarios::provision(idle::CONTAINERD)?;
        return load::run(share, runs, only);
    }
    // First: it sets the node up as an admin does, which matters to guests (huge pages). Its pods are gone afterwards.
    let idle = idle::figure()?;
    let mut figures = rounds::run(&share.join("bin/vireo-vmm"), &share.join("guest"), runs)?;
    figures.extend(idle);
    figures.extend(load::run(share, runs.div_ceil(2), None)?);
    Ok(figures)
}
