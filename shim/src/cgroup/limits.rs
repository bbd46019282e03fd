//! From the OCI spec's `linux.resources`, written for cgroup v1, to the files of whichever version has the controller (kernel
//! `admin-guide/cgroup-v1` and `-v2`).
//!
//! Each limit is given to its controller in cgroups-rs by itself: `apply`, which takes all of them at once, drops the
//! failures of memory and cpuset and doesn't say which other limit failed.
//!
//! Device rules are not applied: the VMM has no capability to make a device node and no file system to open one in.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::error::Result as Written;
use cgroups_rs::fs::hugetlb::HugeTlbController;
use cgroups_rs::fs::pid::PidController;
use oci_spec::runtime::{LinuxCpu, LinuxResources};

use super::group::cause;
use super::{CgroupError, Folder, Folders};

mod cpu;
mod memory;

/// Sets the limits of a cgroup; none of them if one is not supported.
pub fn limit(folders: &Folders, resources: &LinuxResources) -> Result<(), CgroupError> {
    check(folders, resources)?;
    let of = |controller| folders.of(controller).map(Limits);
    if let Some(cpu) = resources.cpu() {
        if cpu.shares().is_some() || cpu.quota().is_some() || cpu.period().is_some() {
            of("cpu")?.cpu(cpu)?;
        }
        if cpu.cpus().is_some() || cpu.mems().is_some() {
            of("cpuset")?.cpuset(cpu)?;
        }
    }
    if let Some(memory) = resources.memory() {
        of("memory")?.memory(memory)?;
    }
    if let Some(pids) = resources.pids().filter(|pids| pids.limit() != 0) {
        let limits = of("pids")?;
        let (path, v2) = limits.place();
        let most = max(pids.limit());
        limits.told("pids.max", &most, PidController::new(path, PathBuf::new(), v2).set_pid_max(most))?;
    }
    for huge in resources.hugepage_limits().as_deref().unwrap_or_default() {
        let limits = of("hugetlb")?;
        let (path, v2) = limits.place();
        let pages = HugeTlbController::new(path, PathBuf::new(), v2);
        // The kernel takes what is more than it can count for no limit; cgroups-rs has no word for that.
        let most = u64::try_from(huge.limit()).unwrap_or(u64::MAX);
        let file = huge_pages_file(limits.0, huge.page_size());
        limits.told(&file, &most, pages.set_limit_in_bytes(huge.page_size(), most))?;
    }
    match (resources.unified(), folders.iter().next()) {
        (Some(unified), Some(folder)) => Limits(folder).unified(unified),
        _ => Ok(()),
    }
}

/// Refuses what the node's version or vireo has no limit for.
fn check(folders: &Folders, resources: &LinuxResources) -> Result<(), CgroupError> {
    let refuse = |field| Err(CgroupError::Unsupported { field });
    if resources.cpu().as_ref().and_then(LinuxCpu::realtime_runtime).is_some_and(|runtime| runtime != 0) {
        return refuse("cpu.realtimeRuntime");
    }
    let mut huge = resources.hugepage_limits().iter().flatten();
    if huge.any(|huge| huge.page_size().contains(['/', '.'])) {
        return refuse("hugepageLimits.pageSize");
    }
    // `cgroup.*` files move processes and change the tree: those are no limits.
    let mut unified = resources.unified().iter().flatten();
    if unified.any(|(file, _)| !folders.is_unified() || file.contains('/') || file.starts_with("cgroup.")) {
        return refuse("unified");
    }
    Ok(())
}

/// The file with the limit of huge pages of `size`.
pub(super) fn huge_pages_file(folder: &Folder, size: &str) -> String {
    format!("hugetlb.{size}.{}", if folder.is_v2() { "max" } else { "limit_in_bytes" })
}

/// The limits that a controller has in a cgroup's folder.
struct Limits<'a>(&'a Folder);

impl Limits<'_> {
    /// What cgroups-rs makes a controller of: its folder, and whether that is v2's.
    fn place(&self) -> (PathBuf, bool) {
        (self.0.path.clone(), self.0.is_v2())
    }

    fn cpuset(&self, cpu: &LinuxCpu) -> Result<(), CgroupError> {
        let (path, v2) = self.place();
        let control = CpuSetController::new(path, PathBuf::new(), v2);
        if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
            self.told("cpuset.cpus", cpus, control.set_cpus(cpus))?;
        }
        if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
            self.told("cpuset.mems", mems, control.set_mems(mems))?;
        }
        Ok(())
    }

    /// cgroups-rs doesn't know `unified`.
    fn unified(&self, unified: &HashMap<String, String>) -> Result<(), CgroupError> {
        let mut unified: Vec<_> = unified.iter().collect();
        unified.sort();
        unified.into_iter().try_for_each(|(file, value)| {
            fs::write(self.0.path.join(file), value).map_err(|source| self.failed(file, value, source))
        })
    }

    /// What became of a limit. An error of cgroups-rs doesn't always name the file and the value.
    fn told(&self, file: &str, value: &impl ToString, written: Written<()>) -> Result<(), CgroupError> {
        written.map_err(|error| self.failed(file, value, cause(error)))
    }

    fn failed(&self, file: &str, value: &impl ToString, source: io::Error) -> CgroupError {
        CgroupError::Limit { path: self.0.path.clone(), file: file.into(), value: value.to_string(), source }
    }
}

/// v1 writes "no limit" as a negative number.
fn max(value: i64) -> MaxValue {
    if value < 0 { MaxValue::Max } else { MaxValue::Value(value) }
}

#[cfg(test)]
mod tests;
