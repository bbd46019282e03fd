//! From `linux.cgroupsPath` to a folder.
//!
//! Two spellings exist. The cgroupfs one is a path below the hierarchy's root. The systemd one, `slice:prefix:name`, is
//! the unit `prefix-name.scope` below the slice; a slice `a-b.slice` lies in `a.slice/a-b.slice`. The scope's folder is
//! made directly, not by asking systemd for a transient unit: a scope needs a process at its birth, and the VMM is born
//! inside its cgroup. systemd leaves folders below its slices that it does not know alone.

use std::fs;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Spec;

use super::CgroupError;

/// Where the v2 hierarchy is mounted.
pub fn hierarchy() -> Result<PathBuf, CgroupError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    find_hierarchy(&mounts).ok_or(CgroupError::NoHierarchy)
}

/// `mountinfo` (proc(5)): id, parent, device, root, mount point, options, …, `-`, type, …
fn find_hierarchy(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup2 ").then_some(())?;
        before.split(' ').nth(4).map(PathBuf::from)
    })
}

/// The folder of container `id`: as its spec says, or `/vireo/<id>`.
pub fn place(spec: Option<&Spec>, id: &str) -> Result<PathBuf, CgroupError> {
    let path = spec.and_then(|spec| spec.linux().as_ref()?.cgroups_path().as_ref());
    let path = path.map_or_else(|| format!("/vireo/{id}"), |path| path.display().to_string());
    resolve(&hierarchy()?, &path)
}

/// The folder, below the hierarchy's root `root`, that a spec's `path` names.
fn resolve(root: &Path, path: &str) -> Result<PathBuf, CgroupError> {
    let bad = |reason| CgroupError::BadPath { path: path.into(), reason };
    let parts: Vec<&str> = path.split(':').collect();
    let relative = match parts[..] {
        [plain] => PathBuf::from(plain.trim_start_matches('/')),
        [slice, prefix, name] => {
            if prefix.contains('/') || name.contains('/') || name.is_empty() {
                return Err(bad("a systemd unit's name has no slash and is not empty"));
            }
            let unit = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
            expand_slice(slice).ok_or_else(|| bad("not a systemd slice"))?.join(unit)
        }
        _ => return Err(bad("neither a path nor slice:prefix:name")),
    };
    if relative.as_os_str().is_empty() || relative.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(bad("a cgroup below the root is needed, without . or .."));
    }
    Ok(root.join(relative))
}

/// `a-b-c.slice` → `a.slice/a-b.slice/a-b-c.slice` (systemd.slice(5)).
fn expand_slice(slice: &str) -> Option<PathBuf> {
    if slice.is_empty() {
        return Some(PathBuf::from("system.slice"));
    }
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some(PathBuf::new());
    }
    let mut path = PathBuf::new();
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() || part.contains('/') {
            return None;
        }
        if !prefix.is_empty() {
            prefix.push('-');
        }
        prefix.push_str(part);
        path.push(format!("{prefix}.slice"));
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(path: &str) -> Result<String, String> {
        resolve(Path::new("/cg"), path).map(|path| path.display().to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn both_spellings() {
        assert_eq!(resolved("/kubepods/pod1/abc").unwrap(), "/cg/kubepods/pod1/abc");
        assert_eq!(
            resolved("kubepods-besteffort-pod1.slice:cri-containerd:abc").unwrap(),
            "/cg/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-containerd-abc.scope"
        );
        assert_eq!(resolved(":cri:abc").unwrap(), "/cg/system.slice/cri-abc.scope");
    }

    #[test]
    fn what_leaves_the_hierarchy_is_refused() {
        for path in ["", "/", "/a/../b", "../b", "a.slice:b:../c", "a--b.slice:x:y", "a:b", "a/b.slice:x:y"] {
            assert!(resolved(path).unwrap_err().starts_with("linux.cgroupsPath "), "{path}");
        }
    }

    #[test]
    fn the_hierarchy_is_found_wherever_it_is_mounted() {
        let mounts =
            "1 0 0:1 / / rw - tmpfs none rw\n2 1 0:2 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_hierarchy(mounts).unwrap(), Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(find_hierarchy("1 0 0:1 / / rw - tmpfs none rw\n"), None);
    }
}
