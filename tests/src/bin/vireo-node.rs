//! Boots virtual nodes by hand.
#![forbid(unsafe_code)]

use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use vireo_tests::node::{Agent, Node, Options, Record, Request, Stream, share::Build, terminal::Raw};

/// Boots virtual nodes: container hosts in QEMU with this build's binaries at /vireo.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
    /// Put QEMU in, for benches.
    #[arg(long, global = true)]
    qemu: bool,
    /// Put the full Debian guest in: its disk at /dev/disk/guest, its files in /guest.
    #[arg(long, global = true)]
    guest: bool,
    /// Take release builds only (else the newer of debug and release).
    #[arg(long, global = true)]
    release: bool,
    /// Give the node cgroup v1 instead of v2.
    #[arg(long, global = true)]
    cgroup_v1: bool,
    /// RAM, MiB.
    #[arg(long, global = true, default_value_t = 3072)]
    memory: u32,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build the images.
    Build {
        /// The full Debian guest too.
        #[arg(long)]
        debian: bool,
        /// Kubernetes too.
        #[arg(long)]
        kubernetes: bool,
    },
    /// Boot a node and keep it; exec, shell, push and stop reach it.
    Up,
    /// Run a command in a fresh node, which then ends.
    Run {
        /// Program and arguments; a single one is a script for bash.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Run a command in the kept node.
    Exec {
        /// Program and arguments; a single one is a script for bash.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// A shell in the kept node, or in a fresh one.
    Shell,
    /// Copy files into the kept node.
    Push {
        /// Files of this machine.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Folder in the node.
        #[arg(long, default_value = "/usr/local/bin")]
        into: String,
    },
    /// End the kept node.
    Stop,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let build = if arguments.release { Build::Release } else { Build::Newest };
    let boot = |keep| -> Result<Node> {
        let guest = arguments.guest.then(vireo_tests::guest::debian::debian).transpose()?;
        let prepared = Options::prepare("node", build, arguments.qemu)?;
        let cgroup_v1 = arguments.cgroup_v1;
        Node::boot(&Options { memory_mib: arguments.memory, cgroup_v1, keep, guest, ..prepared })
    };
    match arguments.command {
        Action::Build { debian, kubernetes } => {
            if kubernetes {
                println!("{}", vireo_tests::kubernetes::binaries()?.program("kubelet").display());
            }
            if debian {
                println!("{}", vireo_tests::guest::debian::debian()?.disk.display());
            }
            Options::prepare("node", build, arguments.qemu).map(|_| ExitCode::SUCCESS)
        }
        Action::Up => {
            ensure!(Record::load()?.is_none(), "a node is up already: end it with vireo-node stop");
            let record = boot(true)?.into_kept()?;
            println!(
                "the node is up: vireo-node shell, vireo-node exec COMMAND, vireo-node stop; logs in {}",
                record.folder.display()
            );
            Ok(ExitCode::SUCCESS)
        }
        Action::Run { command } => {
            let node = boot(false)?;
            let code = run(node.agent(), command)?;
            if code != ExitCode::SUCCESS {
                eprintln!("the node's logs: {}", node.folder().display());
            }
            Ok(code)
        }
        Action::Exec { command } => run(&kept()?.agent, command),
        Action::Shell => match Record::load()? {
            Some(record) => shell(&record.agent),
            None => shell(boot(false)?.agent()),
        },
        Action::Push { files, into } => {
            let agent = kept()?.agent;
            for file in files {
                push(&agent, &file, &into)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Action::Stop => kept()?.stop().map(|()| ExitCode::SUCCESS),
    }
}

fn kept() -> Result<Record> {
    Record::load()?.context("no node is up: vireo-node up boots one")
}

fn run(agent: &Agent, command: Vec<String>) -> Result<ExitCode> {
    let request = match command.as_slice() {
        [script] => Request::script(script),
        _ => Request::new(command),
    };
    let request = if std::io::stdin().is_terminal() { request } else { request.input(std::io::stdin()) };
    code(agent.run(request, show)?)
}

/// A terminal in the node is `script`'s; ours is raw meanwhile.
fn shell(agent: &Agent) -> Result<ExitCode> {
    let raw = Raw::enter()?;
    let size = raw.as_ref().map(|_| Raw::size_command()).unwrap_or_default();
    let request = Request::new(["script", "-qfc", &format!("{size}exec bash -i"), "/dev/null"]);
    let result = agent.run(request.input(std::io::stdin()), show);
    drop(raw);
    code(result?)
}

fn push(agent: &Agent, file: &Path, into: &str) -> Result<()> {
    let name = file.file_name().context("a file has a name")?.to_string_lossy();
    let content = std::fs::File::open(file).with_context(|| format!("open {}", file.display()))?;
    // A running binary can't be written to, but replaced.
    let script =
        format!("cat > '{into}/{name}.new' && chmod 755 '{into}/{name}.new' && mv '{into}/{name}.new' '{into}/{name}'");
    agent.output(Request::script(&script).input(content)).map(drop)
}

fn show(stream: Stream, bytes: &[u8]) {
    // Who closed our output does not want to see it.
    let _ = match stream {
        Stream::Output => std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()),
        Stream::Error => std::io::stderr().write_all(bytes),
    };
}

fn code(code: i32) -> Result<ExitCode> {
    Ok(ExitCode::from(u8::try_from(code)?))
}
