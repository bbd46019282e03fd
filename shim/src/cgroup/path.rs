//! From `linux.cgroupsPath` to a folder.
//!
//! Two spellings exist. The cgroupfs one is a path below the hierarchy's root. The systemd one, `slice:prefix:name`, is
//! the unit `prefix-name.scope` below the slice; a slice `a-b.slice` lies in `a.slice/a-b.slice`. The scope's folder is
//! made directly, not by asking systemd for a transient unit: a scope needs a process at its birth, and the VMM is born
//! inside its cgroup. systemd leaves folders below its slices that it does not know alone.

use std::path::{Component, PathBuf};

use oci_spec::runtime::Spec;

use super::{CgroupError, Folders};

impl Folders {
    /// The folders of container `id`: where its spec says, or `/vireo/<id>`.
    pub fn of_container(spec: Option<&Spec>, id: &str) -> Result<Folders, CgroupError> {
        let path = spec.and_then(|spec| spec.linux().as_ref()?.cgroups_path().as_ref());
        let path = path.map_or_else(|| format!("/vireo/{id}"), |path| path.display().to_string());
        Folders::at(&resolve(&path)?)
    }
}

/// The path below each hierarchy's root that a spec's `path` names.
fn resolve(path: &str) -> Result<PathBuf, CgroupError> {
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
    Ok(relative)
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
        resolve(path).map(|path| path.display().to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn both_spellings() {
        assert_eq!(resolved("/kubepods/pod1/abc").unwrap(), "kubepods/pod1/abc");
        assert_eq!(
            resolved("kubepods-besteffort-pod1.slice:cri-containerd:abc").unwrap(),
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-containerd-abc.scope"
        );
        assert_eq!(resolved(":cri:abc").unwrap(), "system.slice/cri-abc.scope");
    }

    #[test]
    fn what_leaves_the_hierarchy_is_refused() {
        for path in ["", "/", "/a/../b", "../b", "a.slice:b:../c", "a--b.slice:x:y", "a:b", "a/b.slice:x:y"] {
            assert!(resolved(path).unwrap_err().starts_with("linux.cgroupsPath "), "{path}");
        }
    }
}
