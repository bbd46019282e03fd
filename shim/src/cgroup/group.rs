//! cgroups-rs on this node's hierarchies.

use std::error::Error as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::error::Error;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup, Controller as _, Hierarchy, Subsystem};

use super::hierarchy::Folder;

/// The v2 hierarchy below a folder: the one that cgroups-rs brings is always `/sys/fs/cgroup`.
#[derive(Clone, Debug)]
struct Unified(PathBuf);

impl Hierarchy for Unified {
    /// Those that containerd-shim reads statistics from here.
    fn subsystems(&self) -> Vec<Subsystem> {
        let (path, base) = (|| self.0.clone(), PathBuf::new);
        vec![
            Subsystem::Cpu(CpuController::new(path(), base(), true)),
            Subsystem::Pid(PidController::new(path(), base(), true)),
        ]
    }

    fn root(&self) -> PathBuf {
        self.0.clone()
    }

    fn root_control_group(&self) -> Cgroup {
        Cgroup::load(Box::new(self.clone()), "")
    }

    fn parent_control_group(&self, path: &str) -> Cgroup {
        Cgroup::load(Box::new(self.clone()), Path::new(path).parent().unwrap_or(Path::new("")))
    }

    fn v2(&self) -> bool {
        true
    }
}

/// Makes a cgroup's folder and those above it. v2's hand down every controller that `/sys/fs/cgroup` has; one that can't be enabled
/// shows when a limit needs it. v1's CPU sets begin as those above them, without which they take no process.
pub fn make(folder: &Folder) -> io::Result<()> {
    if folder.is_v2() {
        // cgroups-rs panics at a path that isn't UTF-8.
        let below = folder.path.strip_prefix(folder.root()).ok().and_then(Path::to_str);
        let below = below.ok_or(io::ErrorKind::InvalidInput)?;
        Cgroup::new(Box::new(Unified(folder.root().into())), below).map(drop).map_err(cause)
    } else if folder.has_v1("cpuset") {
        folder.path.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        CpuSetController::new(folder.path.clone(), PathBuf::new(), false).create().map_err(cause)
    } else {
        fs::create_dir_all(&folder.path)
    }
}

/// v2's cgroup at `path`, for its statistics.
pub fn load(path: &Path) -> Cgroup {
    Unified(path.into()).root_control_group()
}

/// The kernel's answer behind an error of cgroups-rs, whose own text has it in Rust's notation.
pub fn cause(error: Error) -> io::Error {
    let kernel = error.source().and_then(|source| source.downcast_ref::<io::Error>()?.raw_os_error());
    kernel.map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error)
}
