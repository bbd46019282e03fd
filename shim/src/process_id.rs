//! Processes by number and start time: `shim.pid` in a bundle, and the records of shims.

use std::fmt;
use std::fs;
use std::str::FromStr;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process that can't be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessId {
    pid: u32,
    /// Clock ticks since boot.
    started: u64,
}

impl ProcessId {
    /// The process that has `pid` now.
    pub fn of(pid: u32) -> std::io::Result<ProcessId> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let started = start_time(&stat).ok_or(std::io::ErrorKind::InvalidData)?;
        Ok(ProcessId { pid, started })
    }

    /// Whether it has not ended.
    pub fn lives(self) -> bool {
        ProcessId::of(self.pid).is_ok_and(|now| now == self)
    }

    /// Kills the process, if it is still that one.
    pub fn kill(self) {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return };
        // Opened before the check: what is checked is what is killed.
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        if self.lives() {
            // It may just have ended.
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)); the name in field 2 may hold anything, also parentheses.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(19)?.parse().ok()
}

impl fmt::Display for ProcessId {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} {}", self.pid, self.started)
    }
}

impl FromStr for ProcessId {
    type Err = ();

    fn from_str(text: &str) -> Result<ProcessId, ()> {
        let (pid, started) = text.trim().split_once(' ').ok_or(())?;
        Ok(ProcessId { pid: pid.parse().map_err(|_| ())?, started: started.parse().map_err(|_| ())? })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_killed_only_if_it_is_that_one() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        ProcessId { started: id.started + 1, ..id }.kill();
        assert!(child.try_wait().unwrap().is_none());
        assert!(id.lives());
        let parsed: ProcessId = id.to_string().parse().unwrap();
        parsed.kill();
        assert!(!child.wait().unwrap().success());
        assert!(!parsed.lives());
        // Gone: nothing to kill, no harm.
        parsed.kill();
    }

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        assert_eq!(start_time(stat), Some(4242));
    }
}
