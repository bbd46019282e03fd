//! A Kubernetes control plane by hand.
#![forbid(unsafe_code)]

use std::{
    ffi::OsString,
    fs,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use nix::unistd::getpid;
use tokio::signal::unix::{SignalKind, signal};
use vireo_tests::{
    kubernetes::{ControlPlane, FakeKubelet, Programs, enter},
    node::{share::builds_folder, start_time},
    progress,
};

/// A Kubernetes control plane in a network of its own, one per build folder.
#[derive(Debug, Parser)]
enum Arguments {
    /// Start one with Vireo's kinds; it ends with Ctrl-C.
    Up,
    /// Run a command in its network, with KUBECONFIG set and kubectl in PATH.
    Exec {
        /// Program and arguments; a shell without.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

fn main() -> Result<ExitCode> {
    match Arguments::parse() {
        Arguments::Up => up(),
        Arguments::Exec { command } => exec(&command),
    }
}

fn folder() -> Result<PathBuf> {
    Ok(builds_folder()?.join("cluster"))
}

/// Whose network namespace it is: pid, and its start time, for a pid alone may be another's by now.
fn owner() -> Result<PathBuf> {
    Ok(builds_folder()?.join("cluster.owner"))
}

fn running() -> Result<Option<i32>> {
    let Ok(text) = fs::read_to_string(owner()?) else { return Ok(None) };
    let (pid, started) = text.split_once(' ').context("cluster.owner is not what vireo-cluster wrote")?;
    let pid = pid.parse()?;
    Ok((start_time(pid) == Some(started.parse()?)).then_some(pid))
}

fn up() -> Result<ExitCode> {
    ensure!(running()?.is_none(), "this build folder's cluster is up: vireo-cluster exec COMMAND");
    let programs = Programs::prepare()?;
    enter()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut cluster = progress::step("starting a control plane", || {
        let cluster = runtime.block_on(ControlPlane::start(&programs, &folder()?))?;
        cluster.apply_kinds()?;
        runtime.block_on(FakeKubelet::start(cluster.client().clone()))?;
        anyhow::Ok(cluster)
    })?;
    let pid = getpid().as_raw();
    fs::write(owner()?, format!("{pid} {}", start_time(pid).context("this program runs")?))?;
    println!("the cluster is up: vireo-cluster exec kubectl get vm; Ctrl-C ends it");
    println!("kubeconfig (in its network): {}", cluster.kubeconfig().display());
    println!("certificates and logs: {}", cluster.folder().display());
    let ended = runtime.block_on(async {
        let mut term = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        loop {
            tokio::select! {
                _ = term.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                () = tokio::time::sleep(Duration::from_secs(1)) => cluster.check()?,
            }
        }
    });
    fs::remove_file(owner()?)?;
    ended.map(|()| ExitCode::SUCCESS)
}

fn exec(command: &[OsString]) -> Result<ExitCode> {
    let pid = running()?.context("no cluster of this build folder is up: vireo-cluster up")?;
    let folder = folder()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let shell = [OsString::from("bash")];
    let error = Command::new("nsenter")
        .arg(format!("--net=/proc/{pid}/ns/net"))
        .arg("--")
        .args(if command.is_empty() { &shell[..] } else { command })
        .env("KUBECONFIG", folder.join("admin.kubeconfig"))
        .env("PATH", std::env::join_paths([folder.join("bin")].into_iter().chain(std::env::split_paths(&path)))?)
        .exec();
    Err(error).context("run nsenter")
}
