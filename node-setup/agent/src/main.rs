//! `vireo-agent`: the pod on each node that sets it up, labels it, and says that it lives.
//!
//! ```text
//!   main    wiring
//!   host    runs the node's own programs, among the node's own files; enter: becomes one of them
//!   set_up  installs, checks, restarts containerd where that is all that is missing; takes it back
//!   label   what is written on the Node, as data
//!   life    one beat after another, and the end
//!   events  what `kubectl describe node` shows
//!   ready   what a kubelet asks
//! ```
//!
//! The image brings the binaries and `install.sh`. Nothing of them is copied by the agent: the node's shell runs the script from where
//! the node sees this container's files (`/proc/<pid>/root`), and the script replaces what differs, in one step each, so that a running
//! shim or VMM keeps its file. Everything that an agent does may be cut off anywhere and done again.
#![forbid(unsafe_code)]

mod enter;
mod events;
mod host;
mod label;
mod life;
mod ready;
mod set_up;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Args, Parser};
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use self::life::Agent;

/// Sets a node up for VM pods, labels it, and says that it lives.
#[derive(Debug, Parser)]
#[command(name = "vireo-agent", version)]
enum Cli {
    /// Sets the node up and keeps it so
    Run(Run),
    /// Becomes a program of the node's, among its files: for `run`
    #[command(hide = true)]
    Enter {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// The node's name in the cluster
    #[arg(long, env = "NODE_NAME")]
    node: String,
    /// The namespace of the KubeVirt object
    #[arg(long, env = "POD_NAMESPACE", default_value = "kubevirt")]
    namespace: String,
    /// Where a kubelet can connect once the node is labelled; nowhere, where it is left out
    #[arg(long)]
    health: Option<SocketAddr>,
}

fn main() -> ExitCode {
    match act() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vireo-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act() -> Result<()> {
    match Cli::parse() {
        // Before there are threads: a process enters mounts as a whole.
        Cli::Enter { command } => Err(enter::enter(&command)),
        Cli::Run(arguments) => {
            tracing_subscriber::fmt()
                .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube=warn")))
                .with_writer(std::io::stderr)
                .init();
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(arguments))
        }
    }
}

async fn run(Run { node, namespace, health }: Run) -> Result<()> {
    let stop = stop_on_signal()?;
    let config = Config::infer().await.context("find the API server: neither a service account nor a kubeconfig")?;
    let ready = Arc::new(Notify::new());
    let mut agent = Agent::new(Client::try_from(config)?, &node, &namespace, Arc::clone(&ready));
    tokio::select! {
        ended = agent.live(&stop) => ended,
        answered = ready::answer(&ready, health) => answered.with_context(|| format!("listen on {health:?} for probes")),
    }
}

/// Is cancelled by SIGTERM and SIGINT.
fn stop_on_signal() -> Result<CancellationToken> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}
