//! When first instructions are executed, as the kernel saw it: tracefs (Linux, Documentation/trace/ftrace.rst), stamped with
//! `CLOCK_MONOTONIC`. A guest's is a CPU's first entry into it (`kvm/kvm_entry`), a program's its `execve` (`sched/sched_process_exec`).
//!
//! It is the strictest first instruction: firmware counts, and nothing of a guest's own is waited for. Entries of every
//! guest are traced, so no other may run.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::scenarios::measure::now;

const TRACEFS: &str = "/sys/kernel/tracing";
const KVM_ENTRY: &str = "kvm/kvm_entry";
const EXEC: &str = "sched/sched_process_exec";

/// Traces first instructions until it is dropped.
#[derive(Debug)]
pub struct Entries {
    pipe: File,
    event: &'static str,
    text: String,
    firsts: Vec<Entry>,
}

/// The first instruction that a task executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The task: a virtual CPU, or a program.
    task: u32,
    /// When, on `CLOCK_MONOTONIC`.
    pub at: Duration,
    /// Where a virtual CPU was.
    pub rip: Option<u64>,
}

impl Entries {
    /// Those of guests.
    pub fn trace() -> Result<Self> {
        Self::of(KVM_ENTRY, "0")
    }

    /// Those of guests, entries elsewhere than at `rip` left out.
    pub fn at(rip: u64) -> Result<Self> {
        Self::of(KVM_ENTRY, &format!("rip == {rip}"))
    }

    /// Those of a program.
    pub fn of_program(path: &str) -> Result<Self> {
        Self::of(EXEC, &format!("filename == \"{path}\""))
    }

    /// Begins with an empty trace. The filter `0` is none.
    fn of(event: &'static str, filter: &str) -> Result<Self> {
        if !Path::new(TRACEFS).join("trace").exists() {
            let status = Command::new("mount").args(["-t", "tracefs", "tracefs", TRACEFS]).status();
            ensure!(status.context("run mount")?.success(), "{TRACEFS}: can't be mounted");
        }
        write("trace_clock", "mono")?;
        // A reader is woken by the first event, not when the buffer is half full.
        write("buffer_percent", "0")?;
        write("trace", "")?;
        let path = Path::new(TRACEFS).join("trace_pipe");
        let pipe = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path);
        let pipe = pipe.with_context(|| format!("open {}", path.display()))?;
        let entries = Self { pipe, event, text: String::new(), firsts: Vec::new() };
        write(&format!("events/{event}/filter"), filter)?;
        write(&format!("events/{event}/enable"), "1")?;
        Ok(entries)
    }

    /// When the first one was, on `CLOCK_MONOTONIC`.
    pub fn first(&mut self, limit: Duration) -> Result<Duration> {
        Ok(self.firsts(1, limit)?[0].at)
    }

    /// The first one of each of `count` tasks, in their order; at least one.
    pub fn firsts(&mut self, count: usize, limit: Duration) -> Result<Vec<Entry>> {
        let end = now()? + limit;
        loop {
            let mut buffer = [0; 4096];
            match self.pipe.read(&mut buffer) {
                Ok(length) => self.text.push_str(&String::from_utf8_lossy(&buffer[..length])),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error).context("read trace_pipe"),
            }
            self.take_lines();
            if self.firsts.len() >= count.max(1) {
                return Ok(self.firsts.clone());
            }
            let left = end.saturating_sub(now()?);
            if left.is_zero() {
                bail!("{} of {count} first instructions after {} s", self.firsts.len(), limit.as_secs());
            }
            // Not for long: this file's poll has missed wake-ups in kernels that people run.
            let timeout = PollTimeout::try_from(left.min(Duration::from_millis(20)))?;
            poll(&mut [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)], timeout)?;
        }
    }

    /// Whole lines only.
    fn take_lines(&mut self) {
        let Some(end) = self.text.rfind('\n') else { return };
        let rest = self.text.split_off(end + 1);
        let lines = std::mem::replace(&mut self.text, rest);
        for found in lines.lines().filter_map(|line| entry(line, self.event)) {
            if self.firsts.iter().all(|known| known.task != found.task) {
                self.firsts.push(found);
            }
        }
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        // A trace that goes on costs time, nothing else.
        let _ = write(&format!("events/{}/enable", self.event), "0");
    }
}

fn write(name: &str, value: &str) -> Result<()> {
    let path = Path::new(TRACEFS).join(name);
    fs::write(&path, value).with_context(|| format!("write {value:?} to {}", path.display()))
}

/// What a line ` vcpu0-123  [001] d..1.  12.345678: kvm_entry: vcpu 0, rip 0xfff0` says.
fn entry(line: &str, event: &str) -> Option<Entry> {
    let name = event.rsplit('/').next()?;
    let (before, after) = line.split_once(&format!(": {name}:"))?;
    let task = before.split_once(" [")?.0.trim_end().rsplit_once('-')?.1.parse().ok()?;
    let (seconds, micros) = before.split_whitespace().last()?.split_once('.')?;
    if micros.len() != 6 {
        return None;
    }
    let at = Duration::new(seconds.parse().ok()?, micros.parse::<u32>().ok()? * 1000);
    let rip = after.split_once("rip 0x").and_then(|(_, rest)| {
        // Newer kernels say more after it.
        let end = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
        u64::from_str_radix(&rest[..end], 16).ok()
    });
    Some(Entry { task, at, rip })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{EXEC, Entry, KVM_ENTRY, entry};

    #[test]
    fn entries_are_read_and_other_lines_are_not() {
        let line = "   CPU 0/KVM-1234    [001] d..1.    12.045678: kvm_entry: vcpu 0, rip 0xfff0";
        let at = Duration::from_micros(12_045_678);
        assert_eq!(entry(line, KVM_ENTRY), Some(Entry { task: 1234, at, rip: Some(0xfff0) }));
        let newer = format!("{line} intr_info 0x00000000 error_code 0x00000000");
        assert_eq!(entry(&newer, KVM_ENTRY), entry(line, KVM_ENTRY));
        let line = "             cat-77      [000] .....    12.045678: sched_process_exec: filename=/bin/cat pid=77 old_pid=77";
        assert_eq!(entry(line, EXEC), Some(Entry { task: 77, at, rip: None }));
        for other in [
            "CPU:1 [LOST 12 EVENTS]",
            " a-1 [000] d..1. 1.2: kvm_entry: vcpu 0",
            " a-1 [000] d..1. 12.045678: kvm_exit: reason",
        ] {
            assert_eq!(entry(other, KVM_ENTRY), None, "{other}");
        }
    }
}
