//! What a process takes of the machine, by `/proc`.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// CPU that a process has used since its start.
pub fn cpu(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let ticks = ticks(&stat).with_context(|| format!("{path} is not what it should be"))?;
    let second = sysconf(SysconfVar::CLK_TCK)?.and_then(|ticks| u32::try_from(ticks).ok()).context("ticks a second")?;
    Ok(Duration::from_secs(ticks) / second)
}

/// In user mode and in the kernel: the 14th and 15th field. The second is the program's name, which may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Resident memory now, and at most since [`forget_peak`], KiB.
pub fn resident(pid: u32) -> Result<(f64, f64)> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let of = |name| kib(&status, name).with_context(|| format!("{path} has no {name}"));
    Ok((of("VmRSS:")?, of("VmHWM:")?))
}

fn kib(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u32>().ok().map(f64::from)
}

/// From now on the peak is that of what comes.
pub fn forget_peak(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").with_context(|| format!("write {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_is_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 9 9 20 0 3 0 100 1 1";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("7 (a"), None);
        let status = "Name:\ta\nVmHWM:\t   2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(
            (kib(status, "VmHWM:"), kib(status, "VmRSS:"), kib(status, "VmSwap:")),
            (Some(2048.0), Some(1024.0), None)
        );
    }
}
