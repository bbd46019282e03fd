//! A container's cgroup: made at create, limited as the OCI spec says, counted for `Stats`, watched for OOM kills, removed on
//! drop. It is a folder in each [hierarchy](hierarchy) of the node, v1's or v2's.
//!
//! Making it, its limits and its numbers are the work of `cgroups-rs`. What that can't do is done here, and each such
//! place says why.
//!
//! Invariant: a container's cgroup is a leaf with only its VMM inside, made by this shim; whatever else is found in it
//! is a leftover and is killed with it.

mod entrance;
mod group;
mod hierarchy;
mod limits;
mod oom;
mod path;
mod remove;
mod stats;

use std::fs;
use std::io;
use std::path::PathBuf;

use oci_spec::runtime::LinuxResources;

pub use entrance::Entrance;
pub use hierarchy::{Folder, Folders};
pub use limits::limit;
pub use oom::OomWatch;
pub use stats::{Metrics, metrics};

/// A cgroup can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No hierarchy.
    #[error("no cgroup hierarchy is mounted; mount cgroup2 at /sys/fs/cgroup")]
    NoHierarchy,
    /// No hierarchy with a controller.
    #[error("the cgroup controller {controller} is in no hierarchy that is mounted")]
    NoController {
        /// Which, by v1's name.
        controller: &'static str,
    },
    /// A path that can't be one.
    #[error("linux.cgroupsPath {path:?}: {reason}")]
    BadPath {
        /// As the spec has it.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It can't be made.
    #[error("cgroup {path}: can't be made")]
    Make {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A process can't get in.
    #[error("cgroup {path}: can't be entered")]
    Enter {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A limit can't be set.
    #[error("cgroup {path}: {file} can't be set to {value:?}; is the controller enabled on this node?")]
    Limit {
        /// Where.
        path: PathBuf,
        /// Which.
        file: String,
        /// To what.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// A limit that the node's version, or vireo, doesn't have.
    #[error("linux.resources.{field}: not supported by vireo")]
    Unsupported {
        /// Which.
        field: &'static str,
    },
    /// It stays.
    #[error("cgroup {path}: can't be removed")]
    Remove {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of it can't be read.
    #[error("cgroup {path}: {file} can't be read")]
    Read {
        /// Where.
        path: PathBuf,
        /// Which.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// A cgroup that this shim made. Dropping it kills what is inside and removes it; dropping that of cgroups-rs does nothing.
#[derive(Debug)]
pub struct Cgroup {
    folders: Folders,
    entrance: Entrance,
}

impl Cgroup {
    /// Makes a cgroup and sets its limits. Its ancestors are made as needed; v2's hand it every controller that they have.
    pub fn create(folders: &Folders, resources: Option<&LinuxResources>) -> Result<Cgroup, CgroupError> {
        let failed = |folder: &Folder, source| CgroupError::Make { path: folder.path.clone(), source };
        if let Some(folder) = folders.iter().find(|folder| remove::populated(&folder.path)) {
            return Err(failed(folder, io::ErrorKind::ResourceBusy.into()));
        }
        let mut cgroup = Cgroup { folders: folders.clone(), entrance: Entrance::default() };
        for folder in folders.iter() {
            group::make(folder).and_then(|()| cgroup.entrance.add(folder)).map_err(|source| failed(folder, source))?;
        }
        if let Some(resources) = resources {
            limit(folders, resources)?;
        }
        Ok(cgroup)
    }

    /// Its folders.
    pub fn folders(&self) -> &Folders {
        &self.folders
    }

    /// How a process gets in.
    pub fn entrance(&self) -> &Entrance {
        &self.entrance
    }

    /// How many bytes of huge pages of `size` (`2MB`, `1GB`) may be used here. The kubelet limits the pod's cgroup, and containerd, unless its
    /// `disable_hugetlb_controller` is set (as it is by default), the container's.
    pub fn huge_page_limit(&self, size: &str) -> u64 {
        let Ok(folder) = self.folders.of("hugetlb") else { return u64::MAX };
        let file = limits::huge_pages_file(folder, size);
        let limits = folder.path.ancestors().map(|path| fs::read_to_string(path.join(&file)));
        // `max` is no limit, and so is a file that isn't there.
        limits.flatten().filter_map(|limit| limit.trim().parse().ok()).min().unwrap_or(u64::MAX)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.folders) {
            log::warn!("{:#}", anyhow::Error::from(error));
        }
    }
}

/// Kills what is in a cgroup and removes it with those below; none there is fine.
///
/// # Errors
/// The first folder that stays; the others are gone.
pub fn remove(folders: &Folders) -> Result<(), CgroupError> {
    let mut result = Ok(());
    for folder in folders.iter() {
        let removed = remove::remove(&folder.path);
        result = result.and(removed.map_err(|source| CgroupError::Remove { path: folder.path.clone(), source }));
    }
    result
}

#[cfg(test)]
pub(crate) mod tests;
