//! `make bench`: measures Vireo beside QEMU, here and in a virtual node, and writes `target/bench.json`.
#![forbid(unsafe_code)]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use vireo_tests::{
    bench::{
        cluster,
        figure::Figure,
        firmware::{self, Firmware},
        here, idle, load, micro, pods, rounds, size, table,
    },
    guest::debian::{Debian, debian},
    node::{
        Node, Options, Request, Stream,
        share::{Build, builds_folder},
    },
    progress, scenarios,
};

/// Where the node has this build's files.
const SHARE: &str = "/vireo";
/// A hundred nested boots on an emulated node.
const NODE_LIMIT: Duration = Duration::from_hours(1);
/// What an emulator says that ends itself under OVMF now and then; see tests/README.md.
const EMULATOR_S_END: &str = "tcg_handle_interrupt: assertion failed";

/// Measures Vireo beside QEMU's microvm and q35 machines.
#[derive(Debug, Parser)]
struct Arguments {
    /// One part; all of them without.
    #[arg(value_enum)]
    part: Option<Part>,
    /// How often each start of a monitor is measured; loads half as often, firmware a fifth.
    #[arg(long, default_value_t = 10)]
    runs: usize,
    /// Of the loads and of what pods cost only those whose name has this in it, or one of several with commas between.
    #[arg(long)]
    only: Option<String>,
    /// Of the cluster: how many machines there are.
    #[arg(long, default_value_t = 1000)]
    machines: usize,
    /// Of the cluster: the controller, in place of the release build.
    #[arg(long)]
    controller: Option<PathBuf>,
    /// Where the figures go.
    #[arg(long, default_value = "target/bench.json")]
    out: PathBuf,
    /// Measure in this node, and print JSON.
    #[arg(long, hide = true)]
    inside: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Boots without firmware, and memory, in a virtual node.
    Boot,
    /// Disks, network and vsock, in a virtual node.
    Load,
    /// Pods through containerd, beside runc's, and many of them, in a virtual node.
    Pods,
    /// Boots by SeaBIOS, in a virtual node.
    Bios,
    /// Boots by OVMF, in a virtual node.
    Efi,
    /// A bare payload on this machine's own KVM.
    Here,
    /// Queues, requests and images without a guest.
    Micro,
    /// The controller under many machines, with a real API server and nodes that run nothing.
    Cluster,
    /// Binaries.
    Size,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.inside {
        let figures = inside(arguments.part.context("which part?")?, arguments.runs, arguments.only.as_deref())?;
        serde_json::to_writer(std::io::stdout(), &figures)?;
        return Ok(ExitCode::SUCCESS);
    }
    let parts = arguments.part.map_or_else(|| Part::value_variants().to_vec(), |part| vec![part]);
    let mut figures = Vec::new();
    let mut good = true;
    for part in parts {
        // Hours may lie before a failure: what was measured is told.
        match measure(part, &arguments) {
            Ok(measured) => figures.extend(measured),
            Err(error) => {
                good = false;
                eprintln!("{part:?} is left out: {error:#}");
            }
        }
    }
    print!("\n{}", table::print(&figures));
    fs::write(&arguments.out, serde_json::to_vec_pretty(&figures)?)
        .with_context(|| format!("write {}", arguments.out.display()))?;
    println!("written to {}", arguments.out.display());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(part: Part, arguments: &Arguments) -> Result<Vec<Figure>> {
    match part {
        Part::Boot | Part::Load | Part::Pods => in_node(part, arguments, None),
        Part::Bios | Part::Efi => in_node(part, arguments, Some(debian()?)),
        Part::Here => on_host(arguments.runs),
        Part::Micro => micro::run(&builds_folder()?.join("bench/criterion")),
        Part::Cluster => {
            let release = || Ok::<_, anyhow::Error>(release()?.join("vireo-controller"));
            let program = arguments.controller.clone().map_or_else(release, Ok)?;
            ensure!(program.is_file(), "{} is missing: cargo build --release -p vireo-controller", program.display());
            cluster::run(&program, &builds_folder()?.join("bench/cluster"), arguments.machines)
        }
        Part::Size => size::figures(&release()?),
    }
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

/// In a fresh node; in another one if the first one's emulator ends itself, and then not at all.
fn in_node(part: Part, arguments: &Arguments, guest: Option<Debian>) -> Result<Vec<Figure>> {
    let prepared = Options::prepare("bench", Build::Release, true)?;
    let memory_mib = if part == Part::Pods { pods::NODE_MEMORY_MIB } else { prepared.memory_mib };
    let options = Options { guest, memory_mib, ..prepared };
    for _ in 0..2 {
        let node = Node::boot(&options)?;
        match in_this_node(&node, part, arguments) {
            Err(_) if node.last_words().contains(EMULATOR_S_END) => {
                progress::note(&format!("{part:?}: the node's emulator ended itself, which is a known fault of it"));
            }
            measured => return measured,
        }
    }
    progress::note(&format!("{part:?} is left out: it can't be measured on this emulator"));
    Ok(Vec::new())
}

fn in_this_node(node: &Node, part: Part, arguments: &Arguments) -> Result<Vec<Figure>> {
    let mut json = Vec::new();
    let value = part.to_possible_value().context("a part has a name")?;
    let mut command = vec![format!("{SHARE}/bin/vireo-bench"), value.get_name().to_owned(), "--inside".to_owned()];
    command.push(format!("--runs={}", arguments.runs));
    command.extend(arguments.only.as_ref().map(|only| format!("--only={only}")));
    let code = node.agent().run(Request::new(command).deadline(NODE_LIMIT), |stream, bytes| match stream {
        Stream::Output => json.extend(bytes),
        // Nobody may be looking.
        Stream::Error => drop(std::io::stderr().write_all(bytes)),
    })?;
    ensure!(code == 0, "the benches in the node failed ({code}); its logs: {}", node.folder().display());
    serde_json::from_slice(&json).context("read the node's figures")
}

fn inside(part: Part, runs: usize, only: Option<&str>) -> Result<Vec<Figure>> {
    let share = Path::new(SHARE);
    let vmm = share.join("bin/vireo-vmm");
    // First: it sets the node up as an admin does, which matters to guests (huge pages).
    scenarios::provision(idle::CONTAINERD)?;
    match part {
        Part::Boot => {
            // Its pods are gone afterwards.
            let idle = idle::figure()?;
            let mut figures = rounds::run(&vmm, &share.join("guest"), runs)?;
            figures.extend(idle);
            Ok(figures)
        }
        Part::Load => load::run(share, runs.div_ceil(2), only),
        Part::Pods => pods::run(runs.div_ceil(2), only),
        Part::Bios => firmware::run(&vmm, Firmware::Bios, runs.div_ceil(5)),
        Part::Efi => firmware::run(&vmm, Firmware::Efi, runs.div_ceil(5)),
        Part::Here | Part::Micro | Part::Cluster | Part::Size => bail!("{part:?} is not measured in a node"),
    }
}
