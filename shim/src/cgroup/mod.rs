//! A container's cgroup (v2): made at create, limited as the OCI spec says, counted for `Stats`, watched for OOM kills,
//! removed on drop.
//!
//! The files are written directly. `cgroups-rs` would bring its v1 half, D-Bus and a second `nix` for what is here
//! five files.
//!
//! Invariant: a container's cgroup is a leaf with only its VMM inside, made by this shim; whatever else is found in it
//! is a leftover and is killed with it.

mod limits;
mod oom;
mod path;
mod stats;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::LinuxResources;

pub use oom::OomWatch;
pub use path::{hierarchy, place};
pub use stats::metrics;

/// How long a killed cgroup may take to become empty, milliseconds.
const EMPTY_MS: u16 = 5000;

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

/// A cgroup that this shim made. Dropping it kills what is inside and removes it.
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
        let parent = path.parent().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        fs::create_dir_all(parent).map_err(failed)?;
        enable_controllers(parent);
        fs::create_dir_all(path).map_err(failed)?;
        let directory = File::open(path).map_err(failed)?;
        if populated(path) {
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

/// Sets the limits of the cgroup at `path`.
pub fn limit(path: &Path, resources: &LinuxResources) -> Result<(), CgroupError> {
    for (file, value) in limits::files(resources)? {
        fs::write(path.join(&file), &value).map_err(|source| CgroupError::Limit {
            path: path.into(),
            file,
            value,
            source,
        })?;
    }
    Ok(())
}

/// Moves this process into the cgroup at `path`.
pub fn enter(path: &Path) -> io::Result<()> {
    fs::write(path.join("cgroup.procs"), "0")
}

/// The folder of the cgroup that this process is in.
pub fn own() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(hierarchy().ok()?.join(path.trim_start_matches('/')))
}

/// Kills what is in the cgroup at `path` and removes it with the cgroups below; none there is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if populated(path) {
        fs::write(path.join("cgroup.kill"), "1")?;
        wait_empty(path);
    }
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn populated(path: &Path) -> bool {
    says_populated(&fs::read(path.join("cgroup.events")).unwrap_or_default())
}

fn says_populated(events: &[u8]) -> bool {
    events.split(|&byte| byte == b'\n').any(|line| line == b"populated 1")
}

/// Waits until no process is left, or the bound is over. The kernel tells of a change since the last read through the
/// same descriptor, with `POLLPRI`.
fn wait_empty(path: &Path) {
    let Ok(events) = File::open(path.join("cgroup.events")) else { return };
    let mut text = [0; 128];
    while let Ok(count) = events.read_at(&mut text, 0)
        && says_populated(&text[..count])
    {
        let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        match poll(&mut fds, PollTimeout::from(EMPTY_MS)) {
            Ok(0) => return,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// Lets `parent`, and each of its ancestors below the root, hand down every controller. One that can't be enabled shows
/// when a limit needs it.
fn enable_controllers(parent: &Path) {
    let Ok(root) = hierarchy() else { return };
    let mut chain: Vec<&Path> = parent.ancestors().take_while(|ancestor| ancestor.starts_with(&root)).collect();
    chain.reverse();
    for ancestor in chain {
        let controllers = fs::read_to_string(ancestor.join("cgroup.controllers")).unwrap_or_default();
        let enabled = fs::read_to_string(ancestor.join("cgroup.subtree_control")).unwrap_or_default();
        for controller in controllers.split_whitespace() {
            if !enabled.split_whitespace().any(|name| name == controller) {
                let _ = fs::write(ancestor.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
    }
}

#[cfg(test)]
mod tests;
