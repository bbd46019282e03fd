//! v2's numbers: containerd-shim fills most of them from cgroups-rs; the rest is added here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cgroups_rs::fs::hugetlb::HugeTlbController;
use cgroups_rs::fs::memory::MemController;
use containerd_shim::cgroup::collect_metrics_v2;
use containerd_shim::protos::cgroups_v2::metrics::{HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics};

use super::{number, text};
use crate::cgroup::{CgroupError, group};

/// Reads the numbers of the cgroup at `path`.
pub(super) fn metrics(path: &Path) -> Result<Metrics, CgroupError> {
    let failed = |file, source| CgroupError::Read { path: path.into(), file, source };
    // cgroups-rs takes a cgroup that is gone for one that has used nothing.
    fs::metadata(path.join("cpu.stat")).map_err(|source| failed("cpu.stat", source))?;
    let metrics = collect_metrics_v2(&group::load(path));
    let mut metrics = metrics.map_err(|error| failed("a counter", io::Error::other(error)))?;
    // Here containerd-shim can't tell no limit from a limit of 0, or from no controller.
    metrics.pids.mut_or_insert_default().limit = number(path, "pids.max");
    metrics.memory = Some(memory(path)).into();
    metrics.memory_events = Some(memory_events(path)).into();
    metrics.io = Some(IOStat { usage: io_entries(&text(path, "io.stat")), ..Default::default() }).into();
    metrics.hugetlb = hugetlb(path);
    Ok(metrics)
}

/// Memory's numbers. containerd-shim's read `memory.stat` a second time for what they leave out; here it is read once, which takes the
/// kernel a flush of every CPU's counters.
fn memory(path: &Path) -> MemoryStat {
    let memory = MemController::new(path.into(), PathBuf::new(), true).memory_stat();
    let get = |name: &str| memory.stat.raw.get(name).copied().unwrap_or(0);
    // Since Linux 5.9 they are counted apart for anonymous memory and files.
    let sum = |name: &str| {
        ["", "_anon", "_file"].map(|kind| get(&format!("{name}{kind}"))).into_iter().fold(0, u64::saturating_add)
    };
    MemoryStat {
        anon: get("anon"),
        file: get("file"),
        kernel_stack: get("kernel_stack"),
        slab: get("slab"),
        sock: get("sock"),
        shmem: get("shmem"),
        file_mapped: get("file_mapped"),
        file_dirty: get("file_dirty"),
        file_writeback: get("file_writeback"),
        anon_thp: get("anon_thp"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        slab_reclaimable: get("slab_reclaimable"),
        slab_unreclaimable: get("slab_unreclaimable"),
        pgfault: get("pgfault"),
        pgmajfault: get("pgmajfault"),
        workingset_nodereclaim: get("workingset_nodereclaim"),
        pgrefill: get("pgrefill"),
        pgscan: get("pgscan"),
        pgsteal: get("pgsteal"),
        pgactivate: get("pgactivate"),
        pgdeactivate: get("pgdeactivate"),
        pglazyfree: get("pglazyfree"),
        pglazyfreed: get("pglazyfreed"),
        thp_fault_alloc: get("thp_fault_alloc"),
        thp_collapse_alloc: get("thp_collapse_alloc"),
        workingset_refault: sum("workingset_refault"),
        workingset_activate: sum("workingset_activate"),
        usage: memory.usage_in_bytes,
        // cgroups-rs can't tell no limit from a limit of 0, or from no controller.
        usage_limit: number(path, "memory.max"),
        max_usage: memory.max_usage_in_bytes,
        swap_usage: number(path, "memory.swap.current"),
        swap_limit: number(path, "memory.swap.max"),
        swap_max_usage: number(path, "memory.swap.peak"),
        ..Default::default()
    }
}

fn memory_events(path: &Path) -> MemoryEvents {
    let text = text(path, "memory.events");
    let get = |name: &str| {
        let count = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        text.lines().find_map(count).unwrap_or(0)
    };
    MemoryEvents {
        low: get("low"),
        high: get("high"),
        max: get("max"),
        oom: get("oom"),
        oom_kill: get("oom_kill"),
        oom_group_kill: get("oom_group_kill"),
        ..Default::default()
    }
}

/// Lines of `major:minor key=value …`. cgroups-rs panics at a minor above 32767.
fn io_entries(text: &str) -> Vec<IOEntry> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let mut entry = IOEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, ..Default::default() };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => entry.rbytes = value,
                "wbytes" => entry.wbytes = value,
                "rios" => entry.rios = value,
                "wios" => entry.wios = value,
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(entry).collect()
}

fn hugetlb(path: &Path) -> Vec<HugeTlbStat> {
    let pages = HugeTlbController::new(path.into(), PathBuf::new(), true);
    let mut sizes = pages.get_sizes();
    sizes.sort();
    let stat = |size: String| {
        Some(HugeTlbStat {
            current: pages.usage_in_bytes(&size).ok()?,
            // cgroups-rs can't read `max`.
            max: number(path, &format!("hugetlb.{size}.max")),
            failcnt: pages.failcnt(&size).unwrap_or(0),
            pagesize: size,
            ..Default::default()
        })
    };
    sizes.into_iter().filter_map(stat).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUGETLB: [(&str, &str); 3] = [("current", "2\n"), ("max", "max\n"), ("events", "max 3\n")];

    #[test]
    fn the_kernels_files_become_metrics() {
        let directory = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 7\nnr_throttled 4\nthrottled_usec 9\n"),
            (
                "memory.stat",
                "anon 10\nfile 20\ninactive_file 7\nworkingset_refault_anon 1\nworkingset_refault_file 2\nnew_in_7.0 1\n",
            ),
            ("memory.current", "42\n"),
            ("memory.max", "max\n"),
            ("memory.swap.max", "max\n"),
            ("memory.events", "low 0\noom 1\noom_kill 2\n"),
            ("pids.current", "4\n"),
            ("pids.max", "max\n"),
            ("io.stat", "254:40000 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\nbroken\n"),
        ] {
            fs::write(directory.path().join(file), text).unwrap();
        }
        let sizes = HugeTlbController::new(PathBuf::new(), PathBuf::new(), true).get_sizes();
        for (size, (file, text)) in sizes.iter().flat_map(|size| HUGETLB.map(|file| (size, file))) {
            fs::write(directory.path().join(format!("hugetlb.{size}.{file}")), text).unwrap();
        }
        let metrics = metrics(directory.path()).unwrap();
        assert_eq!((metrics.cpu.usage_usec, metrics.cpu.user_usec, metrics.cpu.nr_periods), (5, 3, 7));
        assert_eq!((metrics.memory.usage, metrics.memory.usage_limit, metrics.memory.anon), (42, u64::MAX, 10));
        assert_eq!((metrics.memory.workingset_refault, metrics.memory.swap_limit), (3, u64::MAX));
        // The kubelet's working set is usage without inactive files.
        assert_eq!(metrics.memory.inactive_file, 7);
        assert_eq!((metrics.cpu.nr_throttled, metrics.cpu.throttled_usec), (4, 9));
        assert_eq!((metrics.memory_events.oom, metrics.memory_events.oom_kill), (1, 2));
        assert_eq!((metrics.pids.current, metrics.pids.limit), (4, u64::MAX));
        assert_eq!((metrics.io.usage.len(), metrics.io.usage[0].wios), (1, 4));
        let hugetlb: Vec<_> = metrics.hugetlb.iter().map(|pages| (pages.current, pages.max, pages.failcnt)).collect();
        assert_eq!(hugetlb, vec![(2, u64::MAX, 3); sizes.len()]);
    }

    #[test]
    fn controllers_that_are_off_have_no_numbers() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("cpu.stat"), "usage_usec 5\n").unwrap();
        let metrics = metrics(directory.path()).unwrap();
        assert_eq!((metrics.memory.usage_limit, metrics.memory.swap_limit, metrics.pids.limit), (0, 0, 0));
        assert!(metrics.hugetlb.is_empty() && metrics.io.usage.is_empty());
    }

    #[test]
    fn a_cgroup_that_is_gone_is_an_error() {
        assert!(metrics(Path::new("/nonexistent")).is_err());
    }
}
