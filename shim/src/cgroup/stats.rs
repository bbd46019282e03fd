//! A cgroup's numbers as containerd wants them: `io.containerd.cgroups.v2.Metrics`.

use std::fs;
use std::path::Path;

use containerd_shim::protos::cgroups_v2::metrics::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PidsStat,
};

use super::CgroupError;

/// Reads the numbers of the cgroup at `path`. A controller that is off has none; a cgroup that is gone is an error.
pub fn metrics(path: &Path) -> Result<Metrics, CgroupError> {
    let cpu = fs::read_to_string(path.join("cpu.stat")).map_err(|source| CgroupError::Read {
        path: path.into(),
        file: "cpu.stat",
        source,
    })?;
    let mut metrics = Metrics::new();
    metrics.cpu = Some(cpu_stat(&cpu)).into();
    metrics.memory = Some(memory_stat(path)).into();
    metrics.memory_events = Some(memory_events(&text(path, "memory.events"))).into();
    metrics.pids =
        Some(PidsStat { current: number(path, "pids.current"), limit: number(path, "pids.max"), ..Default::default() })
            .into();
    metrics.io = Some(IOStat { usage: io_entries(&text(path, "io.stat")), ..Default::default() }).into();
    metrics.hugetlb = hugetlb(path);
    Ok(metrics)
}

fn text(path: &Path, file: &str) -> String {
    fs::read_to_string(path.join(file)).unwrap_or_default()
}

/// A file of one number. `max`, the absence of a limit, is told as containerd's own reader does.
fn number(path: &Path, file: &str) -> u64 {
    match text(path, file).trim() {
        "max" => u64::MAX,
        digits => digits.parse().unwrap_or(0),
    }
}

/// Lines of `name value`.
fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, value.trim().parse().ok()?))
    })
}

fn cpu_stat(text: &str) -> CPUStat {
    let mut stat = CPUStat::new();
    for (name, value) in pairs(text) {
        match name {
            "usage_usec" => stat.usage_usec = value,
            "user_usec" => stat.user_usec = value,
            "system_usec" => stat.system_usec = value,
            "nr_periods" => stat.nr_periods = value,
            "nr_throttled" => stat.nr_throttled = value,
            "throttled_usec" => stat.throttled_usec = value,
            "nr_bursts" => stat.nr_bursts = value,
            "burst_usec" => stat.burst_usec = value,
            _ => {}
        }
    }
    stat
}

fn memory_stat(path: &Path) -> MemoryStat {
    let mut stat = MemoryStat::new();
    for (name, value) in pairs(&text(path, "memory.stat")) {
        let field = match name {
            "anon" => &mut stat.anon,
            "file" => &mut stat.file,
            "kernel_stack" => &mut stat.kernel_stack,
            "slab" => &mut stat.slab,
            "sock" => &mut stat.sock,
            "shmem" => &mut stat.shmem,
            "file_mapped" => &mut stat.file_mapped,
            "file_dirty" => &mut stat.file_dirty,
            "file_writeback" => &mut stat.file_writeback,
            "anon_thp" => &mut stat.anon_thp,
            "inactive_anon" => &mut stat.inactive_anon,
            "active_anon" => &mut stat.active_anon,
            "inactive_file" => &mut stat.inactive_file,
            "active_file" => &mut stat.active_file,
            "unevictable" => &mut stat.unevictable,
            "slab_reclaimable" => &mut stat.slab_reclaimable,
            "slab_unreclaimable" => &mut stat.slab_unreclaimable,
            "pgfault" => &mut stat.pgfault,
            "pgmajfault" => &mut stat.pgmajfault,
            "workingset_refault_anon" | "workingset_refault_file" | "workingset_refault" => {
                stat.workingset_refault = stat.workingset_refault.saturating_add(value);
                continue;
            }
            "workingset_activate_anon" | "workingset_activate_file" | "workingset_activate" => {
                stat.workingset_activate = stat.workingset_activate.saturating_add(value);
                continue;
            }
            "workingset_nodereclaim" => &mut stat.workingset_nodereclaim,
            "pgrefill" => &mut stat.pgrefill,
            "pgscan" => &mut stat.pgscan,
            "pgsteal" => &mut stat.pgsteal,
            "pgactivate" => &mut stat.pgactivate,
            "pgdeactivate" => &mut stat.pgdeactivate,
            "pglazyfree" => &mut stat.pglazyfree,
            "pglazyfreed" => &mut stat.pglazyfreed,
            "thp_fault_alloc" => &mut stat.thp_fault_alloc,
            "thp_collapse_alloc" => &mut stat.thp_collapse_alloc,
            _ => continue,
        };
        *field = value;
    }
    stat.usage = number(path, "memory.current");
    stat.usage_limit = number(path, "memory.max");
    stat.max_usage = number(path, "memory.peak");
    stat.swap_usage = number(path, "memory.swap.current");
    stat.swap_limit = number(path, "memory.swap.max");
    stat.swap_max_usage = number(path, "memory.swap.peak");
    stat
}

fn memory_events(text: &str) -> MemoryEvents {
    let mut events = MemoryEvents::new();
    for (name, value) in pairs(text) {
        match name {
            "low" => events.low = value,
            "high" => events.high = value,
            "max" => events.max = value,
            "oom" => events.oom = value,
            "oom_kill" => events.oom_kill = value,
            "oom_group_kill" => events.oom_group_kill = value,
            _ => {}
        }
    }
    events
}

/// Lines of `major:minor key=value …`.
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
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut sizes: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(".current")?;
            (!size.contains('.')).then(|| size.to_owned())
        })
        .collect();
    sizes.sort();
    sizes
        .into_iter()
        .map(|size| HugeTlbStat {
            current: number(path, &format!("hugetlb.{size}.current")),
            max: number(path, &format!("hugetlb.{size}.max")),
            failcnt: pairs(&text(path, &format!("hugetlb.{size}.events"))).next().map_or(0, |(_, value)| value),
            pagesize: size,
            ..Default::default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_become_metrics() {
        let directory = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 7\n"),
            ("memory.stat", "anon 10\nfile 20\nworkingset_refault_anon 1\nworkingset_refault_file 2\nnew_in_7.0 1\n"),
            ("memory.current", "42\n"),
            ("memory.max", "max\n"),
            ("memory.events", "low 0\noom 1\noom_kill 2\n"),
            ("pids.current", "4\n"),
            ("pids.max", "max\n"),
            ("io.stat", "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\nbroken\n"),
            ("hugetlb.2MB.current", "0\n"),
            ("hugetlb.2MB.max", "4096\n"),
            ("hugetlb.2MB.rsvd.current", "0\n"),
        ] {
            fs::write(directory.path().join(file), text).unwrap();
        }
        let metrics = metrics(directory.path()).unwrap();
        assert_eq!((metrics.cpu.usage_usec, metrics.cpu.user_usec, metrics.cpu.nr_periods), (5, 3, 7));
        assert_eq!((metrics.memory.usage, metrics.memory.usage_limit, metrics.memory.anon), (42, u64::MAX, 10));
        assert_eq!(metrics.memory.workingset_refault, 3);
        assert_eq!(metrics.memory_events.oom_kill, 2);
        assert_eq!((metrics.pids.current, metrics.pids.limit), (4, u64::MAX));
        assert_eq!((metrics.io.usage.len(), metrics.io.usage[0].wios), (1, 4));
        assert_eq!((metrics.hugetlb.len(), metrics.hugetlb[0].max), (1, 4096));
    }

    #[test]
    fn a_cgroup_that_is_gone_is_an_error() {
        assert!(metrics(Path::new("/nonexistent")).is_err());
    }
}
