//! Allow-lists of system calls, one per kind of thread; anything else kills the whole process.
//!
//! A thread inherits its spawner's filters and adds its own; filters only ever take away. Main's list therefore holds the other
//! two. Files are opened by the shim alone: no list has `open`, `socket` or `execve` in any form.

use std::sync::atomic::{AtomicBool, Ordering};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

use super::syscalls;

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadKind {
    /// The event thread, which also builds machines and starts the other threads.
    Main,
    /// Runs one vCPU.
    Vcpu,
    /// Serves a queue of a device.
    Worker,
}

/// Why a filter could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The list can't be compiled.
    #[error("seccomp filter of a {kind:?} thread")]
    Compile {
        /// Whose.
        kind: ThreadKind,
        /// Why.
        #[source]
        source: seccompiler::BackendError,
    },
    /// The kernel refused it.
    #[error("install the seccomp filter of a {kind:?} thread")]
    Install {
        /// Whose.
        kind: ThreadKind,
        /// Why.
        #[source]
        source: seccompiler::Error,
    },
}

/// Whether the main thread is confined, and so every thread that it starts has to be.
static CONFINED: AtomicBool = AtomicBool::new(false);

/// What each new thread does first: confines itself if the process is confined, which an unjailed one is not.
pub fn confine(kind: ThreadKind) {
    if CONFINED.load(Ordering::Acquire)
        && let Err(error) = install(kind)
    {
        // A thread that can't be confined must not run.
        eprintln!("{error}");
        std::process::abort();
    }
}

/// Confines the calling thread, and those that it starts, for good.
pub fn install(kind: ThreadKind) -> Result<(), Error> {
    let programs = programs(kind).map_err(|source| Error::Compile { kind, source })?;
    for program in &programs {
        apply_filter(program).map_err(|source| Error::Install { kind, source })?;
    }
    CONFINED.store(true, Ordering::Release);
    Ok(())
}

fn programs(kind: ThreadKind) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let list = match kind {
        ThreadKind::Main => syscalls::main()?,
        ThreadKind::Vcpu => syscalls::vcpu()?,
        ThreadKind::Worker => syscalls::worker()?,
    };
    let kill = SeccompAction::KillProcess;
    let allow = SeccompFilter::new(list.0, kill, SeccompAction::Allow, TargetArch::x86_64)?.try_into()?;
    let mut programs = vec![allow];
    if kind == ThreadKind::Main {
        // clone3's flags lie in memory, where no filter can see them. Told that it doesn't exist, libc falls back to clone, whose
        // flags are checked.
        let none = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        let list = [(libc::SYS_clone3, Vec::new())].into();
        programs.push(SeccompFilter::new(list, SeccompAction::Allow, none, TargetArch::x86_64)?.try_into()?);
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_compiles() {
        for kind in [ThreadKind::Main, ThreadKind::Vcpu, ThreadKind::Worker] {
            assert!(!programs(kind).unwrap().is_empty(), "{kind:?}");
        }
    }

    #[test]
    fn nothing_that_reaches_outside_is_on_a_list() {
        let forbidden = [
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_creat,
            libc::SYS_open_by_handle_at,
            libc::SYS_socket,
            libc::SYS_socketpair,
            libc::SYS_connect,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_kill,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_register,
            libc::SYS_userfaultfd,
            libc::SYS_keyctl,
        ];
        for list in [syscalls::main(), syscalls::vcpu(), syscalls::worker()] {
            let list = list.unwrap();
            for call in forbidden {
                assert!(!list.0.contains_key(&call), "{call}");
            }
        }
    }

    #[test]
    fn main_holds_the_other_lists() {
        let main = syscalls::main().unwrap();
        for other in [syscalls::vcpu().unwrap(), syscalls::worker().unwrap()] {
            for (call, rules) in other.0 {
                let outer = &main.0[&call];
                assert!(outer.is_empty() || rules.iter().all(|r| outer.contains(r)), "{call}");
            }
        }
    }
}
