//! A running VMM process, which dies with its value.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use vireo_vmm::control::Client;

/// How a VMM process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code; 0 is a guest that powered off.
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
    /// Someone else in this process reaped it.
    Lost,
}

/// A VMM process. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Vmm {
    /// Its id in the caller's pid namespace.
    pub pid: Pid,
    /// Becomes readable when the process ends.
    pub pidfd: OwnedFd,
    /// The way to talk to it.
    pub control: Client,
    /// What it writes to its log; non-blocking.
    pub stderr: OwnedFd,
    status: Mutex<Option<ExitStatus>>,
}

impl Vmm {
    pub(super) fn new(pid: Pid, pidfd: OwnedFd, control: Client, stderr: OwnedFd) -> Self {
        Self { pid, pidfd, control, stderr, status: Mutex::new(None) }
    }

    /// How it ended, if it has; may be asked again.
    pub fn reap(&self) -> Option<ExitStatus> {
        self.wait_with(WaitPidFlag::WNOHANG)
    }

    /// How it ended; `None` if it still runs after `limit`.
    pub fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.reap() {
                return Some(status);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let timeout = PollTimeout::try_from(left.max(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Kills it at once. Harmless if it has ended.
    pub fn kill(&self) {
        // SAFETY: a plain system call; no siginfo. It fails only if the process has ended.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd.as_raw_fd(), libc::SIGKILL, 0usize, 0) };
    }

    fn wait_with(&self, flag: WaitPidFlag) -> Option<ExitStatus> {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        while status.is_none() {
            match waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED | flag) {
                Ok(WaitStatus::Exited(_, code)) => *status = Some(ExitStatus::Exited(code)),
                Ok(WaitStatus::Signaled(_, signal, _)) => *status = Some(ExitStatus::Signaled(signal as i32)),
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::ECHILD) => *status = Some(ExitStatus::Lost),
                Ok(_) => break,
                Err(e) => {
                    log::error!("wait for vireo-vmm {}: {}", self.pid, io::Error::from(e));
                    break;
                }
            }
        }
        *status
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        if self.reap().is_none() {
            self.kill();
            self.wait_with(WaitPidFlag::empty());
        }
    }
}
