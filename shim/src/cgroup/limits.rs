//! From the OCI spec's `linux.resources`, written for cgroup v1, to v2's files (kernel `admin-guide/cgroup-v2`).
//!
//! Device rules are not applied: the VMM has no capability to make a device node and no file system to open one in.

use oci_spec::runtime::{LinuxMemory, LinuxResources};

use super::CgroupError;

/// The period that the kernel starts with, microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// The files to write, in order, and their values.
pub fn files(resources: &LinuxResources) -> Result<Vec<(String, String)>, CgroupError> {
    let mut files = Vec::new();
    let mut set = |file: &str, value: String| files.push((file.to_owned(), value));
    if let Some(cpu) = resources.cpu() {
        if cpu.realtime_runtime().is_some_and(|runtime| runtime != 0) {
            return Err(CgroupError::Unsupported { field: "cpu.realtimeRuntime" });
        }
        if let Some(shares) = cpu.shares().filter(|&shares| shares != 0) {
            set("cpu.weight", weight(shares).to_string());
        }
        if cpu.quota().is_some() || cpu.period().is_some() {
            let period = cpu.period().filter(|&period| period != 0).unwrap_or(DEFAULT_PERIOD);
            set("cpu.max", format!("{} {period}", max(cpu.quota().filter(|&quota| quota != 0).unwrap_or(-1))));
        }
        if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
            set("cpuset.cpus", cpus.clone());
        }
        if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
            set("cpuset.mems", mems.clone());
        }
    }
    if let Some(memory) = resources.memory() {
        memory_files(memory, &mut set);
    }
    if let Some(pids) = resources.pids().filter(|pids| pids.limit() != 0) {
        set("pids.max", max(pids.limit()));
    }
    for huge in resources.hugepage_limits().as_deref().unwrap_or_default() {
        if huge.page_size().contains(['/', '.']) {
            return Err(CgroupError::Unsupported { field: "hugepageLimits.pageSize" });
        }
        set(&format!("hugetlb.{}.max", huge.page_size()), max(huge.limit()));
    }
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (file, value) in unified {
        // `cgroup.*` files move processes and change the tree: those are no limits.
        if file.contains('/') || file.starts_with("cgroup.") {
            return Err(CgroupError::Unsupported { field: "unified" });
        }
        set(file, value.clone());
    }
    Ok(files)
}

fn memory_files(memory: &LinuxMemory, set: &mut impl FnMut(&str, String)) {
    let limit = memory.limit().filter(|&limit| limit != 0);
    if let Some(limit) = limit {
        set("memory.max", max(limit));
    }
    if let Some(low) = memory.reservation().filter(|&low| low != 0) {
        set("memory.low", max(low));
    }
    // v1's swap limit counts memory and swap together.
    match (memory.swap(), limit) {
        (Some(both), Some(limit)) if both >= limit && limit > 0 => set("memory.swap.max", (both - limit).to_string()),
        (Some(both), _) if both < 0 => set("memory.swap.max", max(both)),
        _ => {}
    }
}

/// v1 writes "no limit" as a negative number.
fn max(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

/// v1's shares (2 to 262144) on v2's scale (1 to 10000), as runc maps them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(json: &str) -> Vec<String> {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        files(&resources).unwrap().into_iter().map(|(file, value)| format!("{file}={value}")).collect()
    }

    #[test]
    fn what_the_kubelet_sends() {
        assert_eq!(
            lines(
                r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"cpus":"0-1"},"memory":{"limit":1048576,
                "swap":1048576},"pids":{"limit":100},"hugepageLimits":[{"pageSize":"2MB","limit":0}],
                "unified":{"memory.oom.group":"1"},"devices":[{"allow":false,"access":"rwm"}]}"#
            ),
            [
                "cpu.weight=39",
                "cpu.max=50000 100000",
                "cpuset.cpus=0-1",
                "memory.max=1048576",
                "memory.swap.max=0",
                "pids.max=100",
                "hugetlb.2MB.max=0",
                "memory.oom.group=1"
            ]
        );
    }

    #[test]
    fn no_limit_is_max() {
        assert_eq!(
            lines(r#"{"cpu":{"quota":-1},"memory":{"limit":-1,"swap":-1},"pids":{"limit":-1}}"#),
            ["cpu.max=max 100000", "memory.max=max", "memory.swap.max=max", "pids.max=max"]
        );
        assert!(lines(r#"{"cpu":{"shares":0},"memory":{"limit":0}}"#).is_empty());
    }

    #[test]
    fn files_that_are_no_limits_are_refused() {
        for json in [
            r#"{"unified":{"cgroup.procs":"1"}}"#,
            r#"{"unified":{"../x/memory.max":"1"}}"#,
            r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":0}]}"#,
            r#"{"cpu":{"realtimeRuntime":1}}"#,
        ] {
            let resources: LinuxResources = serde_json::from_str(json).unwrap();
            assert!(files(&resources).is_err(), "{json}");
        }
    }
}
