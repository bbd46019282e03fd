//! On the machine's own hierarchy.

use std::process::Command;

use super::*;

/// A cgroup of a test's own, or the end of the test.
pub fn writable(name: &str) -> PathBuf {
    let path = hierarchy().unwrap_or_else(|error| panic!("{error}, or run: mount -t cgroup2 none /sys/fs/cgroup"));
    let path = path.join(format!("vireo-test-{name}-{}", std::process::id()));
    fs::create_dir(&path).unwrap_or_else(|error| panic!("no cgroup {}: {error}; run as root", path.display()));
    path
}

#[test]
fn dropping_kills_and_removes() {
    let parent = writable("drop");
    let path = parent.join("leaf");
    let cgroup = Cgroup::create(&path, None).unwrap();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    fs::write(path.join("cgroup.procs"), child.id().to_string()).unwrap();
    drop(cgroup);
    assert!(!child.wait().unwrap().success());
    assert!(!path.exists());
    remove(&parent).unwrap();
    remove(&parent).unwrap();
    assert!(!parent.exists());
}

#[test]
fn a_limit_without_its_controller_is_an_error() {
    let parent = writable("limit");
    let resources: LinuxResources = serde_json::from_str(r#"{"unified":{"vireo.max":"1"}}"#).unwrap();
    let error = Cgroup::create(&parent.join("leaf"), Some(&resources)).unwrap_err();
    assert!(error.to_string().contains("vireo.max can't be set to \"1\""), "{error}");
    assert!(!parent.join("leaf").exists());
    remove(&parent).unwrap();
}
