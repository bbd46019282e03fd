//! On the machine's own hierarchy.

use std::path::Path;
use std::process::Command;

use super::*;

/// A cgroup of a test's own, in each of the machine's hierarchies, or the end of the test.
pub fn writable(name: &str) -> Folders {
    let folders = Folders::at(Path::new(&format!("vireo-test-{name}-{}", std::process::id())));
    let folders = folders.unwrap_or_else(|error| panic!("{error}"));
    for folder in folders.iter() {
        group::make(folder).unwrap_or_else(|error| panic!("no cgroup {}: {error}; run as root", folder.path.display()));
    }
    folders
}

/// The cgroup called `leaf` in another one.
fn leaf(parent: &Folders) -> Folders {
    let folder = parent.iter().next().unwrap();
    Folders::at(&folder.path.strip_prefix(folder.root()).unwrap().join("leaf")).unwrap()
}

#[test]
fn dropping_kills_and_removes() {
    let parent = writable("drop");
    let folders = leaf(&parent);
    let cgroup = Cgroup::create(&folders, None).unwrap();
    // A process in each hierarchy: one that is in some of them only is a leftover, too.
    let mut children = Vec::new();
    for folder in folders.iter() {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(folder.path.join("cgroup.procs"), child.id().to_string()).unwrap();
        children.push(child);
    }
    assert!(matches!(Cgroup::create(&folders, None), Err(CgroupError::Make { .. })));
    drop(cgroup);
    for mut child in children {
        assert!(!child.wait().unwrap().success());
    }
    assert!(!folders.exists());
    remove(&parent).unwrap();
    remove(&parent).unwrap();
    assert!(!parent.exists());
}

#[test]
fn limits_reach_the_kernel() {
    let parent = writable("limits");
    let folders = leaf(&parent);
    let parse = |json: &str| -> LinuxResources { serde_json::from_str(json).unwrap() };
    // Where v2 has no controllers to give, as beside v1, there is nothing to look at.
    let read = |controller, v1: &str, v2: &str| {
        let folder = folders.of(controller).unwrap();
        let file = folder.path.join(if folder.is_v2() { v2 } else { v1 });
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())).trim().to_owned()
    };
    let small = r#"{"cpu":{"shares":512,"quota":50000,"period":100000,"cpus":"0","mems":"0"},
        "memory":{"limit":16777216},"pids":{"limit":10}}"#;
    let cgroup = Cgroup::create(&folders, Some(&parse(small))).unwrap();
    let large = r#"{"cpu":{"quota":20000,"period":50000},"memory":{"limit":33554432},"pids":{"limit":20}}"#;
    limit(&folders, &parse(large)).unwrap();
    assert_eq!(read("memory", "memory.limit_in_bytes", "memory.max"), "33554432");
    assert_eq!(read("pids", "pids.max", "pids.max"), "20");
    assert_eq!(read("cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    assert!(["20000", "20000 50000"].contains(&&*read("cpu", "cpu.cfs_quota_us", "cpu.max")));
    limit(&folders, &parse(small)).unwrap();
    assert_eq!(read("memory", "memory.limit_in_bytes", "memory.max"), "16777216");
    let mut child = Command::new("true").spawn().unwrap();
    assert!(child.wait().unwrap().success());
    let usage = metrics(&folders).unwrap().usage();
    assert_eq!(usage.memory_limit, Some(16_777_216));
    drop(cgroup);
    assert!(metrics(&folders).is_err());
    remove(&parent).unwrap();
}

#[test]
fn a_limit_that_is_refused_leaves_nothing() {
    let parent = writable("limit");
    let folders = leaf(&parent);
    let resources: LinuxResources = serde_json::from_str(r#"{"pids":{"limit":5},"cpu":{"cpus":"none"}}"#).unwrap();
    let error = Cgroup::create(&folders, Some(&resources)).unwrap_err();
    assert!(error.to_string().contains(r#"cpuset.cpus can't be set to "none""#), "{error}");
    assert!(!folders.exists());
    remove(&parent).unwrap();
}
