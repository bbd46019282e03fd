//! How a new process gets into a cgroup before it runs anything: it is cloned into v2's folder, and writes itself into v1's. cgroups-rs
//! has no descriptors for either.

use std::fs::File;
use std::io;

use super::hierarchy::Folder;

/// The open ways into a cgroup.
#[derive(Debug, Default)]
pub struct Entrance {
    /// v2's folder, for `CLONE_INTO_CGROUP`.
    pub(crate) v2: Option<File>,
    /// v1's `cgroup.procs`, for the process itself to write `0` to.
    pub(crate) v1: Vec<File>,
}

impl Entrance {
    /// Opens the way into one more hierarchy.
    pub(super) fn add(&mut self, folder: &Folder) -> io::Result<()> {
        if folder.is_v2() {
            self.v2 = Some(File::open(&folder.path)?);
        } else {
            self.v1.push(File::options().write(true).open(folder.path.join("cgroup.procs"))?);
        }
        Ok(())
    }
}
