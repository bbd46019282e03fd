//! The first entry of a CPU into a guest, as the kernel saw it: tracefs, event `kvm/kvm_entry`
//! (Linux, Documentation/trace/ftrace.rst), stamped with `CLOCK_MONOTONIC`.
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
const EVENT: &str = "events/kvm/kvm_entry/enable";

/// Traces entries until it is dropped.
#[derive(Debug)]
pub struct Entries {
    pipe: File,
    text: String,
}

impl Entries {
    /// Begins with an empty trace.
    pub fn trace() -> Result<Self> {
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
        let entries = Self { pipe: pipe.with_context(|| format!("open {}", path.display()))?, text: String::new() };
        write(EVENT, "1")?;
        Ok(entries)
    }

    /// When the first entry was, on `CLOCK_MONOTONIC`.
    pub fn first(&mut self, limit: Duration) -> Result<Duration> {
        let end = now()? + limit;
        loop {
            let mut buffer = [0; 4096];
            match self.pipe.read(&mut buffer) {
                Ok(length) => self.text.push_str(&String::from_utf8_lossy(&buffer[..length])),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error).context("read trace_pipe"),
            }
            if let Some(at) = self.text.lines().find_map(stamp) {
                return Ok(at);
            }
            let left = end.saturating_sub(now()?);
            if left.is_zero() {
                bail!("no guest was entered after {} s", limit.as_secs());
            }
            // Not for long: this file's poll has missed wake-ups in kernels that people run.
            let timeout = PollTimeout::try_from(left.min(Duration::from_millis(20)))?;
            poll(&mut [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)], timeout)?;
        }
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        // A trace that goes on costs time, nothing else.
        let _ = write(EVENT, "0");
    }
}

fn write(name: &str, value: &str) -> Result<()> {
    let path = Path::new(TRACEFS).join(name);
    fs::write(&path, value).with_context(|| format!("write {value:?} to {}", path.display()))
}

/// The stamp of a whole line ` vcpu0-123  [001] d..1.  12.345678: kvm_entry: vcpu 0, rip 0xfff0`.
fn stamp(line: &str) -> Option<Duration> {
    let before = line.split_once(": kvm_entry:")?.0;
    let (seconds, micros) = before.split_whitespace().last()?.split_once('.')?;
    if micros.len() != 6 {
        return None;
    }
    Some(Duration::new(seconds.parse().ok()?, micros.parse::<u32>().ok()? * 1000))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::stamp;

    #[test]
    fn stamps_are_read_and_other_lines_are_not() {
        let line = "   CPU 0/KVM-1234    [001] d..1.    12.045678: kvm_entry: vcpu 0, rip 0xfff0";
        assert_eq!(stamp(line), Some(Duration::from_micros(12_045_678)));
        assert_eq!(stamp("CPU:1 [LOST 12 EVENTS]"), None);
        assert_eq!(stamp(" a-1 [000] d..1. 1.2: kvm_entry: vcpu 0"), None);
        assert_eq!(stamp(" a-1 [000] d..1. 12.045678: kvm_exit: reason"), None);
    }
}
