//! v1's numbers. containerd-shim reads v2's files for them, and cgroups-rs panics at a `memory.numa_stat` or a device's number that it
//! doesn't expect, so that memory and block devices are read here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use cgroups_rs::fs::cpuacct::CpuAcctController;
use cgroups_rs::fs::hugetlb::HugeTlbController;
use containerd_shim::protos::cgroups::metrics::{
    BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl, MemoryStat, Metrics,
    PidsStat, Throttle,
};
use containerd_shim::protos::protobuf::MessageField;

use super::{number, text};
use crate::cgroup::{CgroupError, Folders};

/// Reads the numbers of a cgroup.
pub(super) fn metrics(folders: &Folders) -> Result<Metrics, CgroupError> {
    let gone = |folder: &super::super::Folder| {
        let source = folder.path.metadata().err()?;
        Some(CgroupError::Read { path: folder.path.clone(), file: "", source })
    };
    if let Some(error) = folders.iter().find_map(gone) {
        return Err(error);
    }
    let of =
        |controller| folders.of(controller).ok().filter(|folder| !folder.is_v2()).map(|folder| folder.path.as_path());
    let mut metrics = Metrics { cpu: MessageField::some(cpu(of("cpu"), of("cpuacct"))), ..Default::default() };
    if let Some(path) = of("memory") {
        metrics.memory = MessageField::some(memory(path));
        let control = flat(path, "memory.oom_control");
        let get = |name| control.get(name).copied().unwrap_or(0);
        metrics.memory_oom_control = MessageField::some(MemoryOomControl {
            oom_kill_disable: get("oom_kill_disable"),
            under_oom: get("under_oom"),
            oom_kill: get("oom_kill"),
            ..Default::default()
        });
    }
    if let Some(path) = of("pids") {
        // Here containerd's reader says no limit as 0.
        let limit = Some(number(path, "pids.max")).filter(|&limit| limit != u64::MAX).unwrap_or(0);
        metrics.pids =
            MessageField::some(PidsStat { current: number(path, "pids.current"), limit, ..Default::default() });
    }
    if let Some(path) = of("blkio") {
        metrics.blkio = MessageField::some(block_devices(path));
    }
    if let Some(path) = of("hugetlb") {
        metrics.hugetlb = huge_pages(path);
    }
    Ok(metrics)
}

/// CPU time, nanoseconds, and what quotas cost.
fn cpu(cpu: Option<&Path>, cpuacct: Option<&Path>) -> CPUStat {
    let mut all = CPUStat::default();
    if let Some(path) = cpuacct {
        let counted = CpuAcctController::new(path.into(), PathBuf::new()).cpuacct();
        all.usage = MessageField::some(CPUUsage {
            total: counted.usage,
            kernel: counted.usage_sys,
            user: counted.usage_user,
            per_cpu: counted.usage_percpu.split_whitespace().flat_map(str::parse).collect(),
            ..Default::default()
        });
    }
    if let Some(path) = cpu {
        let stat = flat(path, "cpu.stat");
        let get = |name| stat.get(name).copied().unwrap_or(0);
        all.throttling = MessageField::some(Throttle {
            periods: get("nr_periods"),
            throttled_periods: get("nr_throttled"),
            throttled_time: get("throttled_time"),
            ..Default::default()
        });
    }
    all
}

fn memory(path: &Path) -> MemoryStat {
    let stat = flat(path, "memory.stat");
    let get = |name| stat.get(name).copied().unwrap_or(0);
    MemoryStat {
        cache: get("cache"),
        rss: get("rss"),
        rss_huge: get("rss_huge"),
        mapped_file: get("mapped_file"),
        dirty: get("dirty"),
        writeback: get("writeback"),
        pg_pg_in: get("pgpgin"),
        pg_pg_out: get("pgpgout"),
        pg_fault: get("pgfault"),
        pg_maj_fault: get("pgmajfault"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        hierarchical_memory_limit: get("hierarchical_memory_limit"),
        hierarchical_swap_limit: get("hierarchical_memsw_limit"),
        total_cache: get("total_cache"),
        total_rss: get("total_rss"),
        total_rss_huge: get("total_rss_huge"),
        total_mapped_file: get("total_mapped_file"),
        total_dirty: get("total_dirty"),
        total_writeback: get("total_writeback"),
        total_pg_pg_in: get("total_pgpgin"),
        total_pg_pg_out: get("total_pgpgout"),
        total_pg_fault: get("total_pgfault"),
        total_pg_maj_fault: get("total_pgmajfault"),
        total_inactive_anon: get("total_inactive_anon"),
        total_active_anon: get("total_active_anon"),
        total_inactive_file: get("total_inactive_file"),
        total_active_file: get("total_active_file"),
        total_unevictable: get("total_unevictable"),
        usage: MessageField::some(entry(path, "memory")),
        swap: MessageField::some(entry(path, "memory.memsw")),
        kernel: MessageField::some(entry(path, "memory.kmem")),
        kernel_tcp: MessageField::some(entry(path, "memory.kmem.tcp")),
        ..Default::default()
    }
}

fn entry(path: &Path, prefix: &str) -> MemoryEntry {
    let get = |name| number(path, &format!("{prefix}.{name}"));
    MemoryEntry {
        limit: get("limit_in_bytes"),
        usage: get("usage_in_bytes"),
        max: get("max_usage_in_bytes"),
        failcnt: get("failcnt"),
        ..Default::default()
    }
}

/// What BFQ counts on the devices that it schedules, and throttling on the others. Linux 6.1, for one, counts there only what has a limit.
fn block_devices(path: &Path) -> BlkIOStat {
    let read = |what: &str| {
        let [bfq, mut throttled] =
            ["bfq", "throttle"].map(|by| block_entries(&text(path, &format!("blkio.{by}.{what}_recursive"))));
        throttled.retain(|entry| !bfq.iter().any(|other| (other.major, other.minor) == (entry.major, entry.minor)));
        [bfq, throttled].concat()
    };
    BlkIOStat {
        io_service_bytes_recursive: read("io_service_bytes"),
        io_serviced_recursive: read("io_serviced"),
        ..Default::default()
    }
}

/// Lines of `major:minor operation count`, and one of the sum.
fn block_entries(text: &str) -> Vec<BlkIOEntry> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        let (op, value) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
        Some(BlkIOEntry { op, major, minor, value, ..Default::default() })
    };
    text.lines().filter_map(entry).collect()
}

fn huge_pages(path: &Path) -> Vec<HugetlbStat> {
    let pages = HugeTlbController::new(path.into(), PathBuf::new(), false);
    let mut sizes = pages.get_sizes();
    sizes.sort();
    let stat = |size: String| {
        Some(HugetlbStat {
            usage: pages.usage_in_bytes(&size).ok()?,
            max: pages.max_usage_in_bytes(&size).unwrap_or(0),
            failcnt: pages.failcnt(&size).unwrap_or(0),
            pagesize: size,
            ..Default::default()
        })
    };
    sizes.into_iter().filter_map(stat).collect()
}

/// A file of lines `name count`.
fn flat(path: &Path, file: &str) -> HashMap<String, u64> {
    let count =
        |line: &str| line.split_once(' ').and_then(|(name, count)| Some((name.to_owned(), count.parse().ok()?)));
    text(path, file).lines().filter_map(count).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cgroup::{Metrics, stats};

    #[test]
    fn the_kernels_files_become_metrics() {
        let directory = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("cpuacct.usage", "9000\n"),
            ("cpuacct.usage_user", "6000\n"),
            ("cpuacct.usage_sys", "3000\n"),
            ("cpuacct.usage_percpu", "4000 5000 \n"),
            ("cpu.stat", "nr_periods 7\nnr_throttled 4\nthrottled_time 99\n"),
            ("memory.stat", "cache 10\nrss 20\ninactive_file 1\ntotal_cache 11\ntotal_inactive_file 7\nnew_in_7.0 1\n"),
            ("memory.usage_in_bytes", "42\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.max_usage_in_bytes", "43\n"),
            ("memory.failcnt", "2\n"),
            ("memory.memsw.usage_in_bytes", "44\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
            ("pids.current", "4\n"),
            ("pids.max", "max\n"),
            ("blkio.bfq.io_service_bytes_recursive", "7:0 Read 8\nTotal 8\n"),
            (
                "blkio.throttle.io_service_bytes_recursive",
                "7:0 Read 0\n254:40000 Read 1\n254:40000 Write 2\nbroken\nTotal 3\n",
            ),
            ("blkio.throttle.io_serviced_recursive", "254:40000 Write 1\nTotal 1\n"),
        ] {
            fs::write(directory.path().join(file), text).unwrap();
        }
        let folders = Folders::v1(directory.path());
        let all = stats::metrics(&folders).unwrap();
        assert_eq!(all.usage(), stats::Usage { cpu: 9000, memory: 35, memory_limit: None });
        assert_eq!(all.message().unwrap().type_url, "io.containerd.cgroups.v1.Metrics");
        let Metrics::V1(all) = all else { panic!("{all:?}") };
        assert_eq!(
            (all.cpu.usage.user, all.cpu.usage.kernel, &all.cpu.usage.per_cpu[..]),
            (6000, 3000, &[4000, 5000][..])
        );
        assert_eq!((all.cpu.throttling.throttled_periods, all.cpu.throttling.throttled_time), (4, 99));
        assert_eq!((all.memory.rss, all.memory.total_cache, all.memory.swap.usage), (20, 11, 44));
        assert_eq!((all.memory.usage.max, all.memory.usage.failcnt), (43, 2));
        assert_eq!((all.memory_oom_control.oom_kill, all.pids.current, all.pids.limit), (3, 4, 0));
        let bytes: Vec<_> =
            all.blkio.io_service_bytes_recursive.iter().map(|e| (&*e.op, e.major, e.minor, e.value)).collect();
        assert_eq!(bytes, [("Read", 7, 0, 8), ("Read", 254, 40000, 1), ("Write", 254, 40000, 2)]);
        assert_eq!(all.blkio.io_serviced_recursive.len(), 1);
    }

    #[test]
    fn a_cgroup_that_is_gone_is_an_error() {
        assert!(stats::metrics(&Folders::v1(Path::new("/nonexistent"))).is_err());
    }
}
