use std::path::Path;

use super::*;

fn parse(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

/// What is written into a folder that has the kernel's `cpu.max`, which cgroups-rs reads first.
fn lines(json: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("cpu.max"), "max 100000\n").unwrap();
    limit(&Folders::v2(directory.path()), &parse(json)).unwrap();
    written(directory.path())
}

/// The same on v1, where both limits of memory are `now`.
fn lines_v1(now: i64, json: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    for file in ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"] {
        fs::write(directory.path().join(file), now.to_string()).unwrap();
    }
    limit(&Folders::v1(directory.path()), &parse(json)).unwrap();
    written(directory.path())
}

fn written(folder: &Path) -> Vec<String> {
    let mut lines: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|file| format!("{}={}", file.file_name().unwrap().display(), fs::read_to_string(&file).unwrap()))
        .collect();
    lines.sort();
    lines
}

#[test]
fn what_the_kubelet_sends() {
    assert_eq!(
        lines(
            r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"cpus":"0-1","mems":"0"},"memory":{"limit":1048576,
            "swap":1048576,"reservation":4096},"pids":{"limit":100},"hugepageLimits":[{"pageSize":"2MB","limit":0}],
            "unified":{"memory.oom.group":"1"},"devices":[{"allow":false,"access":"rwm"}]}"#
        ),
        [
            "cpu.max=50000 100000",
            "cpu.weight=39",
            "cpuset.cpus=0-1",
            "cpuset.mems=0",
            "hugetlb.2MB.max=0",
            "memory.low=4096",
            "memory.max=1048576",
            "memory.oom.group=1",
            "memory.swap.max=0",
            "pids.max=100",
        ]
    );
}

#[test]
fn no_limit_is_max() {
    assert_eq!(
        lines(
            r#"{"cpu":{"quota":-1},"memory":{"limit":-1,"swap":-1,"reservation":-1},"pids":{"limit":-1},
            "hugepageLimits":[{"pageSize":"2MB","limit":-1}]}"#
        ),
        [
            "cpu.max=max 100000",
            "hugetlb.2MB.max=18446744073709551615",
            "memory.low=max",
            "memory.max=max",
            "memory.swap.max=max",
            "pids.max=max"
        ]
    );
    assert_eq!(lines(r#"{"cpu":{"shares":0},"memory":{"limit":0},"pids":{"limit":0}}"#), ["cpu.max=max 100000\n"]);
}

#[test]
fn on_v1_the_limits_are_written_as_they_come() {
    let json = r#"{"cpu":{"shares":1024,"quota":50000,"period":200000,"cpus":"0-1","mems":"0"},"memory":{"limit":1048576,
        "swap":2097152,"reservation":4096},"pids":{"limit":100},"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#;
    let expected = [
        "cpu.cfs_period_us=200000",
        "cpu.cfs_quota_us=50000",
        "cpu.shares=1024",
        "cpuset.cpus=0-1",
        "cpuset.mems=0",
        "hugetlb.2MB.limit_in_bytes=0",
        "memory.limit_in_bytes=1048576",
        "memory.memsw.limit_in_bytes=2097152",
        "memory.soft_limit_in_bytes=4096",
        "pids.max=100",
    ];
    for now in [1, 1 << 30] {
        assert_eq!(lines_v1(now, json), expected);
    }
    assert_eq!(
        lines_v1(7, r#"{"memory":{"limit":-1},"cpu":{"quota":-1},"pids":{"limit":-1}}"#),
        [
            "cpu.cfs_period_us=100000",
            "cpu.cfs_quota_us=-1",
            "memory.limit_in_bytes=-1",
            "memory.memsw.limit_in_bytes=-1",
            "pids.max=max"
        ]
    );
}

#[test]
fn every_limit_that_fails_is_told() {
    for (json, expected) in [
        (r#"{"cpu":{"shares":2}}"#, r#"cpu.weight can't be set to "1""#),
        (r#"{"cpu":{"quota":1000}}"#, r#"cpu.max can't be set to "1000 100000""#),
        (r#"{"cpu":{"cpus":"0"}}"#, r#"cpuset.cpus can't be set to "0""#),
        (r#"{"cpu":{"mems":"0"}}"#, r#"cpuset.mems can't be set to "0""#),
        (r#"{"memory":{"limit":-1}}"#, r#"memory.max can't be set to "max""#),
        (r#"{"memory":{"reservation":1}}"#, r#"memory.low can't be set to "1""#),
        (r#"{"memory":{"swap":-1}}"#, r#"memory.swap.max can't be set to "max""#),
        (r#"{"pids":{"limit":5}}"#, r#"pids.max can't be set to "5""#),
        (r#"{"hugepageLimits":[{"pageSize":"2MB","limit":7}]}"#, r#"hugetlb.2MB.max can't be set to "7""#),
        (r#"{"unified":{"x.max":"9"}}"#, r#"x.max can't be set to "9""#),
    ] {
        let error = limit(&Folders::v2(Path::new("/nonexistent")), &parse(json)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        let CgroupError::Limit { source, .. } = error else { panic!("{error}") };
        assert_eq!(source.kind(), io::ErrorKind::NotFound);
    }
}

#[test]
fn files_that_are_no_limits_are_refused() {
    for json in [
        r#"{"unified":{"cgroup.procs":"1"}}"#,
        r#"{"unified":{"../x/memory.max":"1"}}"#,
        r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":0}]}"#,
        r#"{"cpu":{"realtimeRuntime":1}}"#,
    ] {
        let refused = limit(&Folders::v2(Path::new("/nonexistent")), &parse(json));
        assert!(matches!(refused, Err(CgroupError::Unsupported { .. })), "{json}");
    }
}

#[test]
fn on_v1_every_limit_that_fails_is_told() {
    for (json, expected) in [
        (r#"{"cpu":{"shares":2}}"#, r#"cpu.shares can't be set to "2""#),
        (r#"{"cpu":{"quota":1000}}"#, r#"cpu.cfs_quota_us can't be set to "1000""#),
        (r#"{"memory":{"limit":-1}}"#, r#"memory.limit_in_bytes can't be set to "-1""#),
        (r#"{"memory":{"reservation":1}}"#, r#"memory.soft_limit_in_bytes can't be set to "1""#),
        (r#"{"memory":{"swap":1}}"#, r#"memory.memsw.limit_in_bytes can't be set to "1""#),
        (r#"{"hugepageLimits":[{"pageSize":"2MB","limit":7}]}"#, r#"hugetlb.2MB.limit_in_bytes can't be set to "7""#),
        (r#"{"unified":{"memory.max":"9"}}"#, "linux.resources.unified: not supported"),
    ] {
        let error = limit(&Folders::v1(Path::new("/nonexistent")), &parse(json)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}
