//! Becomes a program of the node's: in the mount namespace of the node's first process, with that one's root.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Error, Result, ensure};
use nix::sched::{CloneFlags, setns};

/// The node's mounts, and our own.
const NODE: &str = "/proc/1/ns/mnt";
const OWN: &str = "/proc/self/ns/mnt";
/// Where a node's programs are. The container's environment is not the node's.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Becomes `command`; comes back only with what kept it from that.
pub(crate) fn enter(command: &[OsString]) -> Error {
    match become_it(command) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn become_it(command: &[OsString]) -> Result<Infallible> {
    let (program, arguments) = command.split_first().context("no program is named")?;
    let id = |path| fs::read_link(path).with_context(|| format!("{path}: may this pod look at its node (hostPID)?"));
    ensure!(id(NODE)? != id(OWN)?, "process 1 is of this container: the pod needs hostPID to reach its node");
    let mounts = File::open(NODE).with_context(|| format!("open {NODE}: is this pod privileged?"))?;
    setns(mounts, CloneFlags::CLONE_NEWNS).context("enter the node's mounts: is this pod privileged?")?;
    let mut node_s = Command::new(program);
    node_s.args(arguments).current_dir("/").env_clear().env("PATH", PATH).env("HOME", "/root").env("LC_ALL", "C");
    Err(node_s.exec()).with_context(|| format!("run the node's {}", program.display()))
}
