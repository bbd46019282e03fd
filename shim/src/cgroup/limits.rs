//! From the OCI spec's `linux.resources`, written for cgroup v1, to v2's files (kernel `admin-guide/cgroup-v2`).
//!
//! Each limit is given to its controller in cgroups-rs by itself: `apply`, which takes all of them at once, drops the
//! failures of memory and cpuset and doesn't say which other limit failed.
//!
//! Device rules are not applied: the VMM has no capability to make a device node and no file system to open one in.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::error::Result as Written;
use cgroups_rs::fs::hugetlb::HugeTlbController;
use cgroups_rs::fs::memory::{MemController, SetMemory};
use cgroups_rs::fs::pid::PidController;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::CgroupError;
use super::group::cause;

/// The period that the kernel starts with, microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// Sets the limits of the cgroup at `path`; none of them if one is not supported.
pub fn limit(path: &Path, resources: &LinuxResources) -> Result<(), CgroupError> {
    check(resources)?;
    let limits = Limits(path);
    if let Some(cpu) = resources.cpu() {
        limits.cpu(cpu)?;
        limits.cpuset(cpu)?;
    }
    if let Some(memory) = resources.memory() {
        limits.memory(memory)?;
    }
    if let Some(pids) = resources.pids().filter(|pids| pids.limit() != 0) {
        let most = max(pids.limit());
        limits.told("pids.max", &most, PidController::new(path.into(), PathBuf::new(), true).set_pid_max(most))?;
    }
    for huge in resources.hugepage_limits().as_deref().unwrap_or_default() {
        let pages = HugeTlbController::new(path.into(), PathBuf::new(), true);
        // The kernel takes what is more than it can count for no limit; cgroups-rs has no word for that.
        let most = u64::try_from(huge.limit()).unwrap_or(u64::MAX);
        let file = format!("hugetlb.{}.max", huge.page_size());
        limits.told(&file, &most, pages.set_limit_in_bytes(huge.page_size(), most))?;
    }
    resources.unified().as_ref().map_or(Ok(()), |unified| limits.unified(unified))
}

/// Refuses what v2 or vireo has no limit for.
fn check(resources: &LinuxResources) -> Result<(), CgroupError> {
    let refuse = |field| Err(CgroupError::Unsupported { field });
    if resources.cpu().as_ref().and_then(LinuxCpu::realtime_runtime).is_some_and(|runtime| runtime != 0) {
        return refuse("cpu.realtimeRuntime");
    }
    let mut huge = resources.hugepage_limits().iter().flatten();
    if huge.any(|huge| huge.page_size().contains(['/', '.'])) {
        return refuse("hugepageLimits.pageSize");
    }
    // `cgroup.*` files move processes and change the tree: those are no limits.
    if resources.unified().iter().flatten().any(|(file, _)| file.contains('/') || file.starts_with("cgroup.")) {
        return refuse("unified");
    }
    Ok(())
}

/// The limits of the cgroup at a path.
struct Limits<'a>(&'a Path);

impl Limits<'_> {
    fn cpu(&self, cpu: &LinuxCpu) -> Result<(), CgroupError> {
        let control = CpuController::new(self.0.into(), PathBuf::new(), true);
        if let Some(shares) = cpu.shares().filter(|&shares| shares != 0) {
            let weight = weight(shares);
            self.told("cpu.weight", &weight, control.set_shares(weight))?;
        }
        if cpu.quota().is_some() || cpu.period().is_some() {
            let quota = cpu.quota().filter(|&quota| quota != 0).unwrap_or(-1);
            let period = cpu.period().filter(|&period| period != 0).unwrap_or(DEFAULT_PERIOD);
            let written = control.set_cfs_quota_and_period(Some(quota), Some(period));
            self.told("cpu.max", &format!("{} {period}", max(quota)), written)?;
        }
        Ok(())
    }

    fn cpuset(&self, cpu: &LinuxCpu) -> Result<(), CgroupError> {
        let control = CpuSetController::new(self.0.into(), PathBuf::new(), true);
        if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
            self.told("cpuset.cpus", cpus, control.set_cpus(cpus))?;
        }
        if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
            self.told("cpuset.mems", mems, control.set_mems(mems))?;
        }
        Ok(())
    }

    fn memory(&self, memory: &LinuxMemory) -> Result<(), CgroupError> {
        let control = MemController::new(self.0.into(), PathBuf::new(), true);
        let limit = memory.limit().filter(|&limit| limit != 0);
        if let Some(most) = limit.map(max) {
            self.told("memory.max", &most, control.set_mem(SetMemory { max: Some(most), ..Default::default() }))?;
        }
        if let Some(low) = memory.reservation().filter(|&low| low != 0).map(max) {
            self.told("memory.low", &low, control.set_mem(SetMemory { low: Some(low), ..Default::default() }))?;
        }
        // v1's swap limit counts memory and swap together.
        let swap = match (memory.swap(), limit) {
            (Some(both), Some(limit)) if both >= limit && limit > 0 => both - limit,
            (Some(both), _) if both < 0 => -1,
            _ => return Ok(()),
        };
        self.told("memory.swap.max", &max(swap), control.set_memswap_limit(swap))
    }

    /// cgroups-rs doesn't know `unified`.
    fn unified(&self, unified: &HashMap<String, String>) -> Result<(), CgroupError> {
        let mut unified: Vec<_> = unified.iter().collect();
        unified.sort();
        unified.into_iter().try_for_each(|(file, value)| {
            fs::write(self.0.join(file), value).map_err(|source| self.failed(file, value, source))
        })
    }

    /// What became of a limit. An error of cgroups-rs doesn't always name the file and the value.
    fn told(&self, file: &str, value: &impl ToString, written: Written<()>) -> Result<(), CgroupError> {
        written.map_err(|error| self.failed(file, value, cause(error)))
    }

    fn failed(&self, file: &str, value: &impl ToString, source: io::Error) -> CgroupError {
        CgroupError::Limit { path: self.0.into(), file: file.into(), value: value.to_string(), source }
    }
}

/// v1 writes "no limit" as a negative number.
fn max(value: i64) -> MaxValue {
    if value < 0 { MaxValue::Max } else { MaxValue::Value(value) }
}

/// v1's shares (2 to 262144) on v2's scale (1 to 10000), as runc maps them; cgroups-rs leaves that to its caller.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests;
