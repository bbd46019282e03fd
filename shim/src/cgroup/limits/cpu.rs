//! A share of the CPUs, and a quota of them.

use std::path::PathBuf;

use cgroups_rs::fs::cpu::CpuController;
use oci_spec::runtime::LinuxCpu;

use super::{CgroupError, Limits, max};

/// The period that the kernel starts with, microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

impl Limits<'_> {
    pub(super) fn cpu(&self, cpu: &LinuxCpu) -> Result<(), CgroupError> {
        let (path, v2) = self.place();
        let control = CpuController::new(path, PathBuf::new(), v2);
        if let Some(shares) = cpu.shares().filter(|&shares| shares != 0) {
            let (file, value) = if v2 { ("cpu.weight", weight(shares)) } else { ("cpu.shares", shares) };
            self.told(file, &value, control.set_shares(value))?;
        }
        if cpu.quota().is_none() && cpu.period().is_none() {
            return Ok(());
        }
        let quota = cpu.quota().filter(|&quota| quota != 0).unwrap_or(-1);
        let period = cpu.period().filter(|&period| period != 0).unwrap_or(DEFAULT_PERIOD);
        if v2 {
            let written = control.set_cfs_quota_and_period(Some(quota), Some(period));
            return self.told("cpu.max", &format!("{} {period}", max(quota)), written);
        }
        // The old quota of the new period may be more than the cgroup above has; the new one isn't.
        let early = control.set_cfs_period(period);
        self.told("cpu.cfs_quota_us", &quota, control.set_cfs_quota(quota))?;
        early.or_else(|_| self.told("cpu.cfs_period_us", &period, control.set_cfs_period(period)))
    }
}

/// v1's shares (2 to 262144) on v2's scale (1 to 10000), as runc maps them; cgroups-rs leaves that to its caller.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}
