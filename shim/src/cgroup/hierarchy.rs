//! The hierarchies of cgroups that a node has, and a cgroup's folder in each of them.
//!
//! With cgroup v2 there is one. With v1 each controller has one, or shares one with others, and v2 may be mounted beside them with
//! the controllers that are left (a hybrid node). A cgroup is a folder of one name in all of them, so that its processes are
//! found wherever one looks; what a controller is told and asked depends on which version's hierarchy has it.

use std::fs;
use std::path::{Path, PathBuf};

use super::CgroupError;

/// Where the hierarchies are; v2 alone is here itself.
const MOUNTS: &str = "/sys/fs/cgroup";

/// One hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    root: PathBuf,
    /// v1's controllers, or `name=systemd`; v2's say for themselves.
    v1: Option<Vec<String>>,
}

/// A cgroup's folder in one hierarchy.
#[derive(Debug, Clone)]
pub struct Folder {
    /// The folder.
    pub path: PathBuf,
    hierarchy: Hierarchy,
}

impl Folder {
    /// The root of its hierarchy.
    pub(super) fn root(&self) -> &Path {
        &self.hierarchy.root
    }

    /// Whether its hierarchy is v2's.
    pub(super) fn is_v2(&self) -> bool {
        self.hierarchy.v1.is_none()
    }

    /// Whether a controller of v1 is in its hierarchy.
    pub(super) fn has_v1(&self, controller: &str) -> bool {
        self.hierarchy.v1.iter().flatten().any(|name| name == controller)
    }
}

/// A cgroup's folders: one in each hierarchy, whether they are made or not.
#[derive(Debug, Clone)]
pub struct Folders(Vec<Folder>);

impl Folders {
    /// Those of the cgroup that is at `relative` in each hierarchy of this node.
    ///
    /// # Errors
    /// No hierarchy is mounted.
    pub fn at(relative: &Path) -> Result<Folders, CgroupError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let hierarchies = hierarchies(&mounts);
        if hierarchies.is_empty() {
            return Err(CgroupError::NoHierarchy);
        }
        let folder = |hierarchy: Hierarchy| Folder { path: hierarchy.root.join(relative), hierarchy };
        Ok(Folders(hierarchies.into_iter().map(folder).collect()))
    }

    /// The cgroup that this process is in; it may be another one in each hierarchy.
    pub fn own() -> Option<Folders> {
        let text = fs::read_to_string("/proc/self/cgroup").ok()?;
        let Folders(mut folders) = Folders::at(Path::new("")).ok()?;
        for folder in &mut folders {
            folder.path.push(own_path(&text, &folder.hierarchy)?);
        }
        Some(Folders(folders))
    }

    /// Each folder.
    pub fn iter(&self) -> impl Iterator<Item = &Folder> {
        self.0.iter()
    }

    /// Whether the node has v2 alone.
    pub fn is_unified(&self) -> bool {
        self.0.iter().all(Folder::is_v2)
    }

    /// Whether a controller is in one of the hierarchies, as far as these folders have it.
    pub fn have(&self, controller: &str) -> bool {
        self.0.iter().any(|folder| {
            let v2 = fs::read_to_string(folder.path.join("cgroup.controllers")).unwrap_or_default();
            folder.has_v1(controller) || folder.is_v2() && v2.split_whitespace().any(|name| name == controller)
        })
    }

    /// The folder where a controller is, by v1's name: in v1's hierarchy where that has it, else in v2's.
    pub(super) fn of(&self, controller: &'static str) -> Result<&Folder, CgroupError> {
        let v1 = self.0.iter().find(|folder| folder.has_v1(controller));
        v1.or_else(|| self.0.iter().find(|folder| folder.is_v2())).ok_or(CgroupError::NoController { controller })
    }

    /// Moves this process inside, in every hierarchy. cgroups-rs enters through a controller, and none may be on.
    pub fn enter(&self) -> Result<(), CgroupError> {
        self.0.iter().try_for_each(|folder| {
            fs::write(folder.path.join("cgroup.procs"), "0")
                .map_err(|source| CgroupError::Enter { path: folder.path.clone(), source })
        })
    }
}

/// The hierarchies in `mountinfo` (proc(5)): id, parent, device, root, mount point, options, …, `-`, type, source, options of
/// the hierarchy. One that is mounted twice is taken where it is usually mounted.
fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<(&str, Hierarchy)> = mountinfo.lines().filter_map(mounted).collect();
    found.sort_by_key(|(_, hierarchy)| !hierarchy.root.starts_with(MOUNTS));
    let unified = |(_, hierarchy): &&(&str, Hierarchy)| hierarchy.v1.is_none() && hierarchy.root == Path::new(MOUNTS);
    if let Some((_, unified)) = found.iter().find(unified) {
        return vec![unified.clone()];
    }
    let mut devices = Vec::new();
    found.retain(|(device, _)| {
        !devices.contains(device) && {
            devices.push(*device);
            true
        }
    });
    found.into_iter().map(|(_, hierarchy)| hierarchy).collect()
}

/// The hierarchy that a line of `mountinfo` mounts, and its device.
fn mounted(line: &str) -> Option<(&str, Hierarchy)> {
    let (before, after) = line.split_once(" - ")?;
    let (mut before, mut after) = (before.split(' ').skip(2), after.split(' '));
    let (device, root) = (before.next()?, before.nth(1)?.into());
    match after.next()? {
        "cgroup2" => Some((device, Hierarchy { root, v1: None })),
        "cgroup" => {
            let names: Vec<String> = after.nth(1)?.split(',').map(str::to_owned).collect();
            // A hierarchy with a name is somebody's own, but for systemd's: its processes are its units'.
            let foreign = names.iter().any(|name| name.starts_with("name=") && name != "name=systemd");
            (!foreign).then_some((device, Hierarchy { root, v1: Some(names) }))
        }
        _ => None,
    }
}

/// The path in `hierarchy` that `/proc/self/cgroup` has: lines of `id:controllers:path` (cgroups(7)), v2's without controllers.
fn own_path(text: &str, hierarchy: &Hierarchy) -> Option<PathBuf> {
    text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let is_it = match &hierarchy.v1 {
            None => controllers.is_empty(),
            Some(names) => controllers.split(',').any(|name| names.iter().any(|own| own == name)),
        };
        is_it.then(|| path.trim_start_matches('/').into())
    })
}

#[cfg(test)]
impl Folders {
    /// A folder that takes what is written to it for v2's.
    pub(super) fn v2(path: &Path) -> Folders {
        Folders(vec![Folder { path: path.into(), hierarchy: Hierarchy { root: path.into(), v1: None } }])
    }

    /// A folder that takes what is written to it for v1's, all controllers together.
    pub(super) fn v1(path: &Path) -> Folders {
        let names = ["cpu", "cpuacct", "cpuset", "memory", "pids", "hugetlb", "blkio"].map(str::to_owned);
        let hierarchy = Hierarchy { root: path.into(), v1: Some(names.into()) };
        Folders(vec![Folder { path: path.into(), hierarchy }])
    }

    /// Whether a folder is there.
    pub(crate) fn exists(&self) -> bool {
        self.iter().any(|folder| folder.path.exists())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 20 0:27 / /mnt/memory rw - cgroup cgroup rw,memory
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
35 31 0:31 / /sys/fs/cgroup/elogind rw - cgroup cgroup rw,name=elogind
36 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
    const UNIFIED: &str = "\
32 31 0:29 / /opt/net_cls rw - cgroup cgroup rw,net_cls
36 31 0:32 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate
";

    fn roots(mountinfo: &str) -> Vec<String> {
        hierarchies(mountinfo).iter().map(|hierarchy| hierarchy.root.display().to_string()).collect()
    }

    #[test]
    fn v2_alone_is_the_only_one() {
        assert_eq!(roots(UNIFIED), ["/sys/fs/cgroup"]);
        assert_eq!(roots("1 0 0:1 / / rw - tmpfs none rw\n"), [""; 0]);
    }

    #[test]
    fn each_hierarchy_counts_once_where_it_is_usually_mounted() {
        let folders = ["cpu,cpuacct", "memory", "systemd", "unified"].map(|name| format!("/sys/fs/cgroup/{name}"));
        assert_eq!(roots(HYBRID), folders);
    }

    #[test]
    fn a_controller_is_in_v1_or_else_in_v2() {
        let folder = |hierarchy: Hierarchy| Folder { path: hierarchy.root.join("a"), hierarchy };
        let folders = Folders(hierarchies(HYBRID).into_iter().map(folder).collect());
        assert!(!folders.is_unified());
        assert_eq!(folders.of("cpuacct").unwrap().path, Path::new("/sys/fs/cgroup/cpu,cpuacct/a"));
        assert!(folders.of("hugetlb").unwrap().is_v2());
        let folders = Folders(folders.0.into_iter().filter(|folder| !folder.is_v2()).collect());
        let missing = folders.of("hugetlb").unwrap_err();
        assert!(missing.to_string().contains("hugetlb"), "{missing}");
    }

    #[test]
    fn a_process_knows_its_own() {
        let text = "4:memory:/a\n2:cpu,cpuacct:/b/c\n1:name=systemd:/\n0::/d\n";
        let paths = hierarchies(HYBRID).iter().map(|hierarchy| own_path(text, hierarchy)).collect::<Option<Vec<_>>>();
        assert_eq!(paths.unwrap(), ["b/c", "a", "", "d"].map(PathBuf::from));
    }
}
