//! What a guest gains that takes over this process: nothing.
//!
//! The launcher starts the VMM as pid 1 of new pid, mount, network, IPC and UTS namespaces, still as root. [`enter`] then gives
//! all of that up, for good: an empty read-only root, the pod's user, no capability, no new privilege, no core dump, death
//! with the launcher. [`seccomp::install`] takes from each thread the system calls that its work doesn't need.
//!
//! Order matters: what needs a privilege comes before it is dropped, and `PDEATHSIG` comes after the change of user, which
//! clears it.

pub mod namespaces;
pub mod privileges;
pub mod seccomp;
mod syscalls;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::config::JailConfig;

/// Why the jail could not be entered. The process must end then.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// Root stays root in any namespace.
    #[error("jail.{0}: 0 is root's; an ordinary id is needed")]
    Root(&'static str),
    /// Not started by the launcher.
    #[error("the process is not pid 1 of its own namespace; launch it through the shim")]
    NotInit,
    /// A thread would keep its privileges.
    #[error("{0} threads run already; the jail takes only the calling one")]
    Threads(usize),
    /// The kernel refused.
    #[error("jail: {what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl JailError {
    /// For `map_err`: the kernel refused `what`.
    fn host<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |e| Self::Host { what, source: e.into() }
    }
}

/// Gives up everything. Called once, before any other thread is started; files that are open stay open.
pub fn enter(jail: JailConfig) -> Result<(), JailError> {
    for (id, field) in [(jail.uid, "uid"), (jail.gid, "gid")] {
        if id == 0 {
            return Err(JailError::Root(field));
        }
    }
    if std::process::id() != 1 {
        return Err(JailError::NotInit);
    }
    let threads = std::fs::read_dir("/proc/self/task").map_err(JailError::host("count threads"))?.count();
    if threads != 1 {
        return Err(JailError::Threads(threads));
    }
    keep_malloc_from_files();
    namespaces::empty_root()?;
    namespaces::set_hostname()?;
    privileges::limit_resources()?;
    privileges::drop_all(jail)?;
    Ok(())
}

/// glibc opens `/proc/sys/vm/overcommit_memory` when it shrinks any heap but the first; with one heap it never does. One heap
/// also costs less memory, and no hot path allocates.
fn keep_malloc_from_files() {
    // SAFETY: called with integers; any value is allowed.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Closes every descriptor but the standard ones and `control`.
///
/// # Safety
/// Nothing in the process may own any other descriptor: call it first in `main`.
pub unsafe fn close_inherited(control: BorrowedFd<'_>) -> io::Result<()> {
    let control = libc::c_uint::try_from(control.as_raw_fd()).map_err(io::Error::other)?;
    let first = 3;
    if control > first {
        close_range(first, control - 1)?;
    }
    close_range(first.max(control + 1), libc::c_uint::MAX)
}

fn close_range(first: libc::c_uint, last: libc::c_uint) -> io::Result<()> {
    // SAFETY: a plain system call; that nobody owns the descriptors is the promise of the caller.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
