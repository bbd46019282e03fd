//! What a pod costs, as the kernel counts it.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};

use crate::smaps::pss;

/// Memory of a pod's processes, KiB of PSS.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// The VMM's, without the guest's RAM.
    pub vmm: u64,
    /// The shim's.
    pub shim: u64,
    /// The guest's RAM, as far as the guest has touched it.
    pub guest: u64,
}

impl Memory {
    /// What the pod needs beyond the guest's own.
    pub fn overhead(self) -> u64 {
        self.vmm + self.shim
    }
}

/// Looks at a VMM and its shim.
pub fn memory(vmm: u32, shim: u32) -> Result<Memory> {
    let (vmm, shim) = (pss(vmm)?, pss(shim)?);
    Ok(Memory { vmm: vmm.beyond, shim: shim.beyond, guest: vmm.ram })
}

/// Resident memory of a process, KiB.
pub fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line =
        text.lines().find_map(|line| line.strip_prefix("VmRSS:")).with_context(|| format!("{path}: no VmRSS"))?;
    line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{path}: VmRSS:{line}"))
}

/// `CLOCK_MONOTONIC`, which every process of the node shares.
pub fn now() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_is_resident() {
        assert!(super::resident(std::process::id()).unwrap() > 100);
    }
}
