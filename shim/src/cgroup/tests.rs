//! On the machine's own hierarchy; skipped where it can't be written.

use std::process::Command;

use super::*;

fn writable(name: &str) -> Option<PathBuf> {
    let path = hierarchy().ok()?.join(format!("vireo-test-{name}-{}", std::process::id()));
    fs::create_dir(&path).ok()?;
    Some(path)
}

#[test]
fn dropping_kills_and_removes() {
    let Some(parent) = writable("drop") else { return };
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
    let Some(parent) = writable("limit") else { return };
    let resources: LinuxResources = serde_json::from_str(r#"{"unified":{"vireo.max":"1"}}"#).unwrap();
    let error = Cgroup::create(&parent.join("leaf"), Some(&resources)).unwrap_err();
    assert!(error.to_string().contains("vireo.max can't be set to \"1\""), "{error}");
    assert!(!parent.join("leaf").exists());
    remove(&parent).unwrap();
}
