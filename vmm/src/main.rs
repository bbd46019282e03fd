//! `vireo-vmm [--control-fd N]`: one process, one guest. Everything else comes over the inherited control socket.

use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

use vireo_vmm::control::serve::{self, Verdict};
use vireo_vmm::jail;

/// Where the shim leaves the control socket.
const CONTROL_FD: RawFd = 3;

fn main() -> ExitCode {
    let fd = match control_fd(std::env::args().skip(1)) {
        Ok(fd) => fd,
        Err(usage) => {
            eprintln!("vireo-vmm: {usage}");
            return ExitCode::from(2);
        }
    };
    // SAFETY: the descriptor was inherited for this process's use, and nothing has opened one yet.
    let control = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: as above.
    if let Err(error) = unsafe { jail::close_inherited(control.as_fd()) } {
        eprintln!("vireo-vmm: close inherited descriptors: {error}");
        return ExitCode::FAILURE;
    }
    match serve::serve(control) {
        Ok(Verdict::Success) => ExitCode::SUCCESS,
        Ok(Verdict::Failure) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("vireo-vmm: {}", serve::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn control_fd(mut args: impl Iterator<Item = String>) -> Result<RawFd, &'static str> {
    const USAGE: &str = "usage: vireo-vmm [--control-fd N], N an inherited SOCK_SEQPACKET socket, 3 by default";
    match (args.next().as_deref(), args.next(), args.next()) {
        (None, ..) => Ok(CONTROL_FD),
        (Some("--control-fd"), Some(fd), None) => fd.parse().ok().filter(|fd| *fd > 2).ok_or(USAGE),
        _ => Err(USAGE),
    }
}
