//! The child between `clone3` and `execveat`: system calls on prepared values, nothing else. No allocation, no lock, no panic.

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

/// Where the VMM finds its control socket.
pub(super) const CONTROL_FD: RawFd = 3;
/// What the child exits with when it can't become the VMM; the reason goes through the failure pipe.
const EXIT_FAILED: libc::c_int = 127;
/// Signals are numbered 1 to 64 (signal(7)).
const LAST_SIGNAL: libc::c_int = 64;

/// What the child can fail at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// `prctl(PR_SET_PDEATHSIG)`.
    ParentDeath = 1,
    /// `0` into v1's `cgroup.procs`.
    Cgroup,
    /// `setsid`.
    Session,
    /// `/proc/self/oom_score_adj`.
    OomScore,
    /// Moving descriptors into place.
    Descriptors,
    /// `execveat`.
    Execute,
}

const STEPS: [Step; 6] =
    [Step::ParentDeath, Step::Cgroup, Step::Session, Step::OomScore, Step::Descriptors, Step::Execute];

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ParentDeath => "tie it to the shim's life",
            Self::Cgroup => "enter its cgroup",
            Self::Session => "start a session",
            Self::OomScore => "set oom_score_adj",
            Self::Descriptors => "put its descriptors in place",
            Self::Execute => "execute the binary",
        })
    }
}

/// What goes through the failure pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) step: Step,
    pub(super) errno: i32,
}

impl Failure {
    pub(super) const SIZE: usize = 5;

    fn encode(self) -> [u8; Self::SIZE] {
        let [a, b, c, d] = self.errno.to_ne_bytes();
        [self.step as u8, a, b, c, d]
    }

    /// `None` if nothing, or nothing whole, came.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let &[step, a, b, c, d] = bytes else { return None };
        let step = STEPS.into_iter().find(|s| *s as u8 == step)?;
        Some(Self { step, errno: i32::from_ne_bytes([a, b, c, d]) })
    }
}

/// Everything that the child needs. Its descriptors lie above [`CONTROL_FD`].
pub(super) struct Child<'a> {
    pub(super) null: BorrowedFd<'a>,
    pub(super) stderr: BorrowedFd<'a>,
    pub(super) control: BorrowedFd<'a>,
    pub(super) failure: BorrowedFd<'a>,
    pub(super) binary: BorrowedFd<'a>,
    pub(super) arguments: Vec<CString>,
    pub(super) oom_score_adj: Option<Vec<u8>>,
    /// v1's `cgroup.procs` files.
    pub(super) cgroups: &'a [File],
}

/// A null-terminated array of pointers to the arguments of a [`Child`], which must outlive it.
pub(super) struct Pointers(Vec<*const libc::c_char>);

impl Child<'_> {
    /// Made before `clone3`, since it allocates.
    pub(super) fn pointers(&self) -> Pointers {
        Pointers(self.arguments.iter().map(|a| a.as_ptr()).chain([ptr::null()]).collect())
    }

    /// Becomes the VMM, or reports why not and exits.
    ///
    /// # Safety
    /// Only in the child of a `clone3`, with `pointers` of this very value.
    pub(super) unsafe fn run(&self, pointers: &Pointers) -> ! {
        let step = self.become_vmm(pointers);
        // SAFETY: async-signal-safe calls on this process's own memory.
        unsafe {
            let report = Failure { step, errno: *libc::__errno_location() }.encode();
            libc::write(self.failure.as_raw_fd(), report.as_ptr().cast(), report.len());
            libc::_exit(EXIT_FAILED)
        }
    }

    /// Returns only with what failed; errno tells why.
    fn become_vmm(&self, pointers: &Pointers) -> Step {
        // SAFETY: async-signal-safe calls, on descriptors that are open and memory that was prepared.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
                return Step::ParentDeath;
            }
            for cgroup in self.cgroups {
                if libc::write(cgroup.as_raw_fd(), c"0".as_ptr().cast(), 1) < 0 {
                    return Step::Cgroup;
                }
            }
            // No terminal sends it signals.
            if libc::setsid() < 0 {
                return Step::Session;
            }
            libc::umask(0o077);
            if let Some(score) = &self.oom_score_adj
                && !write_file(c"/proc/self/oom_score_adj".as_ptr(), score)
            {
                return Step::OomScore;
            }
            let null = self.null.as_raw_fd();
            let places = [(null, 0), (null, 1), (self.stderr.as_raw_fd(), 2), (self.control.as_raw_fd(), CONTROL_FD)];
            for (fd, place) in places {
                if libc::dup2(fd, place) < 0 {
                    return Step::Descriptors;
                }
            }
            // Whatever else this process has open, by whichever library, stays behind.
            let first = CONTROL_FD + 1;
            if libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) < 0 {
                return Step::Descriptors;
            }
            reset_signals();
            let environment: [*const libc::c_char; 1] = [ptr::null()];
            let binary = self.binary.as_raw_fd();
            let (argv, envp) = (pointers.0.as_ptr(), environment.as_ptr());
            libc::syscall(libc::SYS_execveat, binary, c"".as_ptr(), argv, envp, libc::AT_EMPTY_PATH);
            Step::Execute
        }
    }
}

unsafe fn write_file(path: *const libc::c_char, bytes: &[u8]) -> bool {
    // SAFETY: a constant path and a prepared buffer.
    unsafe {
        let fd = libc::open(path, libc::O_WRONLY | libc::O_CLOEXEC);
        fd >= 0 && libc::write(fd, bytes.as_ptr().cast(), bytes.len()) >= 0 && libc::close(fd) == 0
    }
}

/// Default actions and nothing blocked: `execveat` keeps both what is ignored and what is blocked.
unsafe fn reset_signals() {
    // SAFETY: async-signal-safe; SIGKILL, SIGSTOP and libc's own signals refuse, and need nothing.
    unsafe {
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        for signal in 1..=LAST_SIGNAL {
            libc::sigaction(signal, &raw const default, ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_cross_the_pipe() {
        for step in STEPS {
            let failure = Failure { step, errno: libc::EACCES };
            assert_eq!(Failure::decode(&failure.encode()), Some(failure));
        }
        assert_eq!(Failure::decode(&[]), None);
        assert_eq!(Failure::decode(&[9, 0, 0, 0, 0]), None);
    }
}
