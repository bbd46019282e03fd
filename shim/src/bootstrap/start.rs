//! `start`: finds the pod's shim, or leaves one behind, and answers with its address.
//!
//! The listening socket is made here and handed to the server as its stdin, so containerd can connect at once. `start`
//! returns when the server closes its stdout; anything but [`SERVES`] that comes out of it before is why it failed.
//!
//! Invariant: whenever this process is killed, what it has left is found by what stands in the bundle (`address` before the
//! socket is made, `shim.pid` as the server's first act), or ends with the bundle ([`BundleWatch`](crate::bundle_watch)); what the bundle's end
//! leaves is found by the shim's [record](crate::records).

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};
use containerd_shim::{Flags, StartOpts};
use nix::sys::stat::{Mode, umask};
use vireo_runtimeclass::machine_service;

use super::params::{self, Environment};
use super::server::SERVES;
use super::stdin;
use crate::bundle::{self, Bundle};
use crate::process_id::ProcessId;
use crate::records::{self, Records};

/// Does `start`; returns what goes to stdout.
pub fn start(flags: &Flags, path: &Path) -> anyhow::Result<Vec<u8>> {
    let input = stdin().context("stdin")?;
    let (opts, form) = params::parse(&input, flags, Environment::read());
    if opts.ttrpc_address.is_empty() {
        bail!("TTRPC_ADDRESS is not set: containerd's address for events is needed");
    }
    let bundle = Bundle::open_described(path)?;
    let address = opts.socket_address(bundle.as_ref().and_then(Bundle::sandbox_id).unwrap_or(&opts.id));
    let socket = Path::new(address.strip_prefix("unix://").unwrap_or(&address));
    bundle::write(path, "address", &address)?;
    if UnixStream::connect(socket).is_err() {
        spawn(&opts, path, socket)?;
    }
    params::reply(form, &address)
}

/// Leaves a server behind.
fn spawn(opts: &StartOpts, bundle: &Path, socket: &Path) -> anyhow::Result<()> {
    let folder = Path::new(machine_service::FOLDER);
    let records = Records::lock(folder).with_context(|| format!("the shims' records in {}", folder.display()))?;
    records.sweep(records::CONNECTED);
    // Until the server has its own.
    let own = ProcessId::of(std::process::id()).context("the process of start")?;
    let listener = records.write(socket, own).and_then(|()| listen(socket));
    drop(records);
    let started = listener
        .with_context(|| format!("socket {}", socket.display()))
        .and_then(|listener| spawn_server(opts, bundle, socket, listener));
    if started.is_err() {
        // Nobody listens there.
        let _ = records::remove(folder, socket);
    }
    started
}

fn spawn_server(opts: &StartOpts, bundle: &Path, socket: &Path, listener: UnixListener) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("the shim's own path")?;
    let mut command = Command::new(program);
    command
        .current_dir(bundle)
        .args(["-namespace", &opts.namespace, "-id", &opts.id, "-address", &opts.address, "-socket"])
        .arg(socket)
        .env("TTRPC_ADDRESS", &opts.ttrpc_address)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // Signals to containerd's group are not the pod's.
        .process_group(0);
    if opts.debug {
        command.arg("-debug");
    }
    let mut server = command.spawn().context("the shim's server can't be run")?;
    let serving = wait_until_it_serves(&mut server);
    if serving.is_err() {
        // Nobody else knows of it yet. It may have ended.
        let _ = server.kill();
        let _ = server.wait();
    }
    serving
}

fn wait_until_it_serves(server: &mut Child) -> anyhow::Result<()> {
    // containerd's own score would shield the pod's shim more than containerd; one step less, as runc's shim does.
    containerd_shim::cgroup::adjust_oom_score(server.id())?;
    let mut failure = String::new();
    if let Some(mut output) = server.stdout.take() {
        output.read_to_string(&mut failure).context("the shim's server")?;
    }
    match failure.as_str() {
        SERVES => Ok(()),
        "" => bail!("the shim's server ended with {}", server.wait().context("the shim's server")?),
        _ => bail!("{failure}"),
    }
}

/// Listens at `socket`, for root alone. A socket that nobody answers is a dead shim's.
fn listen(socket: &Path) -> std::io::Result<UnixListener> {
    if let Some(parent) = socket.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o711).create(parent)?;
    }
    match fs::remove_file(socket) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let before = umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let listener = UnixListener::bind(socket);
    umask(before);
    listener
}
