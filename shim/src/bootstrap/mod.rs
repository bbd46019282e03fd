//! What containerd runs: `containerd-shim-vireo-v2 [flags] start | delete`, `-v`, `-info`, and the server that `start`
//! leaves behind.
//!
//! `containerd_shim::run` is not used: it answers `start` with Task version 3 alone, which containerd 1.6 and 1.7 refuse,
//! and it reaps every child of the process. Its flags, socket addresses and messages are.
//!
//! Invariant: nothing but the answer goes to stdout, and nothing at all to stderr unless the command fails: containerd
//! reads both as one. The server reports a failed beginning through its stdout, a pipe to `start`.

mod params;
mod server;
mod start;

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use containerd_shim::Flags;
use containerd_shim::protos::protobuf::Message as _;
use containerd_shim::protos::types::introspection::{RuntimeInfo, RuntimeVersion};

use vireo_runtimeclass::machine_service;

use crate::{records, sweep};

/// The runtime's name in containerd's configuration.
const RUNTIME: &str = "io.containerd.vireo.v2";

/// The whole program.
pub fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let flags = match containerd_shim::parse(&args) {
        Ok(flags) => flags,
        Err(error) => return fail(&error.into()),
    };
    if flags.action.is_empty() && !flags.socket.is_empty() {
        return match server::serve(&flags) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Nobody listens there any more, and `start` may be gone.
                let _ = records::remove(Path::new(machine_service::FOLDER), Path::new(&flags.socket));
                // `start` adds who it is. It may be gone.
                let _ = write!(io::stdout(), "{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    match answer(&flags) {
        Ok(reply) => match io::stdout().write_all(&reply).and_then(|()| io::stdout().flush()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    // Whoever should read this may be gone.
    let _ = write!(io::stderr(), "vireo: {error:#}");
    ExitCode::FAILURE
}

/// The reply on stdout.
fn answer(flags: &Flags) -> anyhow::Result<Vec<u8>> {
    if flags.version {
        return Ok(format!("containerd-shim-vireo-v2 {}\n", env!("CARGO_PKG_VERSION")).into_bytes());
    }
    if flags.info {
        return Ok(info().write_to_bytes()?);
    }
    if flags.id.is_empty() || flags.namespace.is_empty() {
        bail!("-id and -namespace are needed; containerd runs this program, not a person");
    }
    let bundle = bundle(flags)?;
    match flags.action.as_str() {
        "start" => start::start(flags, &bundle),
        "delete" => Ok(sweep::sweep(&bundle, &flags.namespace, &flags.id)?.write_to_bytes()?),
        other => bail!("unknown action {other:?}: start and delete are known"),
    }
}

fn info() -> RuntimeInfo {
    let version = RuntimeVersion { version: env!("CARGO_PKG_VERSION").into(), ..Default::default() };
    RuntimeInfo { name: RUNTIME.into(), version: Some(version).into(), ..Default::default() }
}

/// containerd names the bundle, or runs the shim inside it.
fn bundle(flags: &Flags) -> anyhow::Result<PathBuf> {
    if flags.bundle.is_empty() {
        std::env::current_dir().context("the working directory, which is the bundle")
    } else {
        std::path::absolute(Path::new(&flags.bundle)).context("-bundle")
    }
}

/// What containerd piped in, at most 10 MiB, as containerd bounds it.
fn stdin() -> io::Result<Vec<u8>> {
    use std::io::IsTerminal as _;
    let mut input = Vec::new();
    if !io::stdin().is_terminal() {
        io::stdin().lock().take(10 << 20).read_to_end(&mut input)?;
    }
    Ok(input)
}
