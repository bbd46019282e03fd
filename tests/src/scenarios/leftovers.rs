//! What there is on a node that a pod could leave behind.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::Result;

use super::{CONTAINERDS, eventually::eventually, pod::BUNDLES, shell};

/// Things by kind and name, each with how many there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftovers(BTreeMap<String, usize>);

/// Folders in which every file counts.
const FOLDERS: [&str; 9] = [
    "/run/containerd/s",
    "/run/containerd/fifo",
    "/run/containerd/io.containerd.runtime.v2.task",
    "/run/containerd/io.containerd.sandbox.controller.v1.shim/k8s.io",
    "/run/containerd/io.containerd.grpc.v1.cri",
    "/var/run/netns",
    "/run/vireo",
    "/var/lib/cni/networks",
    "/tmp",
];

/// Likewise, in the data of each containerd.
const DATA: [&str; 4] = [
    "io.containerd.grpc.v1.cri/containers",
    "io.containerd.grpc.v1.cri/sandboxes",
    "io.containerd.runtime.v2.task",
    "io.containerd.sandbox.controller.v1.shim/k8s.io",
];

impl Leftovers {
    /// Looks at the node.
    pub fn look() -> Result<Self> {
        let mut all = Self(BTreeMap::new());
        all.processes()?;
        all.mounts()?;
        for folder in FOLDERS {
            all.files("file", Path::new(folder));
        }
        for version in CONTAINERDS {
            for folder in DATA {
                all.files("file", &Path::new("/var/lib").join(format!("containerd-{version}")).join(folder));
            }
        }
        all.cgroups(Path::new("/sys/fs/cgroup"));
        for link in fs::read_dir("/sys/class/net")?.flatten() {
            all.count("link", &link.file_name().to_string_lossy());
        }
        for line in shell::output(["nft", "--stateless", "list", "ruleset"])?.lines() {
            all.count("nft", line.trim());
        }
        Ok(all)
    }

    /// Waits until the node is as it was; else what is more (`+`) or less (`-`).
    pub fn compare(&self, limit: Duration) -> Result<Vec<String>> {
        let mut difference = Vec::new();
        let same = eventually("the node as it was", limit, || {
            difference = self.difference(&Self::look()?);
            Ok(difference.is_empty().then_some(()))
        });
        // Not in time is an answer here; a node that can't be looked at is not.
        match same {
            Err(error) if difference.is_empty() => Err(error),
            _ => Ok(difference),
        }
    }

    fn difference(&self, now: &Self) -> Vec<String> {
        let names = self.0.keys().chain(now.0.keys().filter(|name| !self.0.contains_key(*name)));
        names
            .filter_map(|name| {
                let of = |all: &Self| all.0.get(name).copied().unwrap_or_default();
                let (before, after) = (of(self), of(now));
                match before.cmp(&after) {
                    std::cmp::Ordering::Less => Some(format!("+{} {name}", after - before)),
                    std::cmp::Ordering::Equal => None,
                    std::cmp::Ordering::Greater => Some(format!("-{} {name}", before - after)),
                }
            })
            .collect()
    }

    fn count(&mut self, kind: &str, name: &str) {
        *self.0.entry(format!("{kind} {name}")).or_default() += 1;
    }

    /// By command line: pids change when containerd is restarted.
    fn processes(&mut self) -> Result<()> {
        for entry in fs::read_dir("/proc")?.flatten() {
            if entry.file_name().to_string_lossy().parse::<u32>().is_err() {
                continue;
            }
            // Kernel threads have no command line, ended processes no file.
            let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
            if line.is_empty() {
                let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
                if stat.contains(") Z ") {
                    self.count("zombie", stat.split(['(', ')']).nth(1).unwrap_or("?"));
                }
            } else {
                self.count("process", String::from_utf8_lossy(&line).replace('\0', " ").trim_end());
            }
        }
        Ok(())
    }

    fn mounts(&mut self) -> Result<()> {
        for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            self.count("mount", words.get(4).unwrap_or(&"?"));
        }
        Ok(())
    }

    fn cgroups(&mut self, folder: &Path) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            self.count("cgroup", &entry.path().display().to_string());
            self.cgroups(&entry.path());
        }
    }

    fn files(&mut self, kind: &str, folder: &Path) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            // containerd renames a bundle so before it removes it; killed in between, it never looks at it again (`atomicDelete` in its runtime's bundle.go).
            if folder == Path::new(BUNDLES) && entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            self.count(kind, &entry.path().display().to_string());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.files(kind, &entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Leftovers;

    fn of(names: &[&str]) -> Leftovers {
        let mut all = Leftovers(std::collections::BTreeMap::new());
        for name in names {
            all.count("mount", name);
        }
        all
    }

    #[test]
    fn a_second_mount_of_one_place_is_seen() {
        let before = of(&["/a", "/b"]);
        assert_eq!(before.difference(&of(&["/a", "/a", "/c"])), ["+1 mount /a", "-1 mount /b", "+1 mount /c"]);
        assert!(before.difference(&of(&["/b", "/a"])).is_empty());
    }
}
