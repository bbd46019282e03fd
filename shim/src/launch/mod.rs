//! Starts a VMM process and owns it: the only module of the shim with `unsafe` code.
//!
//! `clone3` puts the child into its namespaces and its cgroup (v2) before it runs a single instruction, so there is no moment in
//! which it is anywhere else; into v1's hierarchies it goes itself, before it becomes the VMM. Between `clone3` and `execveat` the child is a copy of a process whose other threads may hold any lock:
//! it only makes system calls on what was prepared before ([`child`]).
//!
//! The kernel binds the child's death to the thread that calls [`launch`]: it must be one that lives as long as the process,
//! the main one.

mod child;
mod identity;
mod vmm;

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::unistd::Pid;
use vireo_vmm::config::{JailConfig, MachineConfig};
use vireo_vmm::control::message::Command;
use vireo_vmm::control::{self, Client};

use crate::cgroup::Entrance;
use child::{CONTROL_FD, Child, Failure};
pub use identity::Identity;
pub use vmm::{ExitStatus, Vmm};

/// What to start.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The `vireo-vmm` binary, open.
    pub vmm: &'a File,
    /// The cgroup that the process is in from its first instruction on; `None` is the caller's.
    pub cgroup: Option<&'a Entrance>,
    /// How readily the kernel kills it for memory, -1000 to 1000; `None` is the caller's.
    pub oom_score_adj: Option<i32>,
    /// The machine.
    pub machine: MachineConfig,
    /// The files that `machine` names by index.
    pub fds: Vec<OwnedFd>,
    /// Whom the process becomes; `None` gives it neither namespaces nor a jail (tests and benches of the machine alone).
    pub jail: Option<JailConfig>,
}

/// Why no VMM runs. Nothing of it is left then.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Something could not be prepared.
    #[error("launch vireo-vmm: {what}")]
    Prepare {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The process could not be made.
    #[error(
        "launch vireo-vmm: clone3 into new namespaces and cgroup; this takes root and, with cgroup v2, one without children"
    )]
    Clone(#[source] io::Error),
    /// The process could not become the VMM.
    #[error("launch vireo-vmm: {step}")]
    Child {
        /// What the child tried.
        step: child::Step,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The VMM ended before it said why.
    #[error("launch vireo-vmm: the new process ended before it became the VMM")]
    Died,
    /// The machine could not be sent.
    #[error("launch vireo-vmm")]
    Control(#[from] control::Error),
}

fn prepare<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> LaunchError {
    move |e| LaunchError::Prepare { what, source: e.into() }
}

/// Descriptors that the child moves into place are kept above those places.
const ABOVE_PLACES: RawFd = CONTROL_FD + 1;

/// `CLONE_INTO_CGROUP` (Linux, include/uapi/linux/sched.h); libc's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Starts the VMM and sends it its machine; [`Ready`](control::message::Event::Ready) or
/// [`Refused`](control::message::Event::Refused) follows on [`Vmm::control`].
pub fn launch(launch: Launch<'_>) -> Result<Vmm, LaunchError> {
    let (control, their_control) = Client::pair()?;
    let (stderr, their_stderr) = pipe()?;
    let (failure, their_failure) = pipe()?;
    let null = File::options().read(true).write(true).open("/dev/null").map_err(prepare("open /dev/null"))?;
    // The shim reads it from an event loop; the VMM's end blocks.
    fcntl(&stderr, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(prepare("make the log pipe non-blocking"))?;

    let their_control = lift(their_control)?;
    let their_stderr = lift(their_stderr)?;
    let their_failure = lift(their_failure)?;
    let null = lift(null.into())?;
    let binary = lift(launch.vmm.as_fd().try_clone_to_owned().map_err(prepare("duplicate the binary's descriptor"))?)?;
    let child = Child {
        null: null.as_fd(),
        stderr: their_stderr.as_fd(),
        control: their_control.as_fd(),
        failure: their_failure.as_fd(),
        binary: binary.as_fd(),
        arguments: arguments(),
        oom_score_adj: launch.oom_score_adj.map(|score| score.to_string().into_bytes()),
        cgroups: launch.cgroup.map_or(&[], |cgroup| &cgroup.v1),
    };
    let into = launch.cgroup.and_then(|cgroup| cgroup.v2.as_ref()).map(AsFd::as_fd);
    let (pid, pidfd) = start(&child, launch.jail.is_some(), into)?;
    // From here on the process has an owner, whatever fails.
    let vmm = Vmm::new(pid, pidfd, control, stderr);
    drop((their_control, their_stderr, their_failure));
    executed(failure)?;

    let files: Vec<_> = launch.fds.iter().map(AsFd::as_fd).collect();
    let command = Command::Launch { machine: Box::new(launch.machine), jail: launch.jail };
    match vmm.control.send(&command, &files) {
        Ok(()) => Ok(vmm),
        Err(_) if vmm.reap().is_some() => Err(LaunchError::Died),
        Err(e) => Err(e.into()),
    }
}

fn arguments() -> Vec<CString> {
    [c"vireo-vmm".to_owned(), c"--control-fd".to_owned(), c"3".to_owned()].into()
}

fn pipe() -> Result<(OwnedFd, OwnedFd), LaunchError> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(prepare("make a pipe"))
}

/// Moves a descriptor out of the way of those that the child puts in place.
fn lift(fd: OwnedFd) -> Result<OwnedFd, LaunchError> {
    if fd.as_raw_fd() >= ABOVE_PLACES {
        return Ok(fd);
    }
    let lifted = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(ABOVE_PLACES)).map_err(prepare("duplicate a descriptor"))?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(lifted) })
}

/// Makes the process. Signals are blocked meanwhile: no handler of this process may run in the child.
fn start(child: &Child<'_>, jailed: bool, cgroup: Option<BorrowedFd<'_>>) -> Result<(Pid, OwnedFd), LaunchError> {
    let pidfd = AtomicI32::new(-1);
    let mut flags = libc::CLONE_PIDFD;
    if jailed {
        flags |= libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    }
    let mut arguments = libc::clone_args {
        flags: u64::from(flags.unsigned_abs()),
        pidfd: pidfd.as_ptr().addr() as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    let pointers = child.pointers();

    let mut mask = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut mask))
        .map_err(prepare("block signals"))?;
    // SAFETY: without CLONE_VM the child has its own copy of this memory, and it runs nothing but `Child::run`, which
    // makes system calls only.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of_val(&arguments)) };
    if pid == 0 {
        // SAFETY: this is the child of clone3.
        unsafe { child.run(&pointers) }
    }
    let error = io::Error::last_os_error();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&mask), None).map_err(prepare("restore signals"))?;
    match i32::try_from(pid) {
        // SAFETY: clone3 succeeded and stored a new descriptor that nobody else owns.
        Ok(pid) if pid > 0 => Ok((Pid::from_raw(pid), unsafe { OwnedFd::from_raw_fd(pidfd.load(Ordering::Relaxed)) })),
        _ => Err(LaunchError::Clone(error)),
    }
}

/// Waits until the child has become the VMM: its end of the pipe closes without a word.
fn executed(failure: OwnedFd) -> Result<(), LaunchError> {
    let mut report = Vec::new();
    let mut pipe = File::from(failure).take(Failure::SIZE as u64);
    pipe.read_to_end(&mut report).map_err(prepare("hear from the new process"))?;
    match Failure::decode(&report) {
        None => Ok(()),
        Some(Failure { step, errno }) => Err(LaunchError::Child { step, source: io::Error::from_raw_os_error(errno) }),
    }
}
