//! A container's cgroup (v2): made at create, limited as the OCI spec says, counted for `Stats`, watched for OOM kills,
//! removed on drop.
//!
//! Making it, its limits and its numbers are the work of `cgroups-rs`. What that can't do is done here, and each such
//! place says why.
//!
//! Invariant: a container's cgroup is a leaf with only its VMM inside, made by this shim; whatever else is found in it
//! is a leftover and is killed with it.

mod group;
mod limits;
mod oom;
mod path;
mod remove;
mod stats;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;

pub use limits::limit;
pub use oom::OomWatch;
pub use path::{hierarchy, place};
pub use remove::remove;
pub use stats::metrics;

/// A cgroup can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No v2 hierarchy.
    #[error("cgroup v2 is needed and is not mounted; boot the node with systemd.unified_cgroup_hierarchy=1")]
    NoHierarchy,
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
    /// A limit that v2 doesn't have.
    #[error("linux.resources.{field}: not supported by vireo")]
    Unsupported {
        /// Which.
        field: &'static str,
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

/// A cgroup that this shim made. Dropping it kills what is inside and removes it; dropping that of cgroups-rs does
/// nothing, and it has no descriptor to clone into.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    directory: File,
}

impl Cgroup {
    /// Makes the cgroup at `path` (a folder of the hierarchy) and sets its limits. Its ancestors are made as needed and
    /// hand it every controller that they have.
    pub fn create(path: &Path, resources: Option<&LinuxResources>) -> Result<Cgroup, CgroupError> {
        let failed = |source| CgroupError::Make { path: path.into(), source };
        group::make(path).map_err(failed)?;
        let directory = File::open(path).map_err(failed)?;
        if remove::populated(path) {
            return Err(failed(io::ErrorKind::ResourceBusy.into()));
        }
        let cgroup = Cgroup { path: path.into(), directory };
        if let Some(resources) = resources {
            limit(path, resources)?;
        }
        Ok(cgroup)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes of huge pages of `size` (`2MB`, `1GB`) may be used here. The kubelet limits the pod's cgroup, and containerd, unless its
    /// `disable_hugetlb_controller` is set (as it is by default), the container's.
    pub fn huge_page_limit(&self, size: &str) -> u64 {
        let file = format!("hugetlb.{size}.max");
        let limits = self.path.ancestors().map(|path| fs::read_to_string(path.join(&file)));
        // `max` is no limit, and so is a file that isn't there.
        limits.flatten().filter_map(|limit| limit.trim().parse().ok()).min().unwrap_or(u64::MAX)
    }

    /// Moves this process inside.
    pub fn enter(&self) -> Result<(), CgroupError> {
        enter(&self.path).map_err(|source| CgroupError::Limit {
            path: self.path.clone(),
            file: "cgroup.procs".into(),
            value: "0".into(),
            source,
        })
    }
}

impl AsFd for Cgroup {
    /// The folder, for `CLONE_INTO_CGROUP`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            log::warn!("cgroup {}: not removed: {error}", self.path.display());
        }
    }
}

/// Moves this process into the cgroup at `path`. cgroups-rs enters through a controller, and none may be on.
pub fn enter(path: &Path) -> io::Result<()> {
    fs::write(path.join("cgroup.procs"), "0")
}

/// The folder of the cgroup that this process is in.
pub fn own() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(hierarchy().ok()?.join(path.trim_start_matches('/')))
}

#[cfg(test)]
pub(crate) mod tests;
