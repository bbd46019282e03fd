//! A container's root file system: containerd's list of mounts, mounted at the bundle's `rootfs`, unmounted on drop.
//!
//! The mounting itself is `containerd_shim`'s (overlays with more layers than a page of options holds are compacted); it
//! runs on a blocking thread, which for that may leave the process's working directory for its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use containerd_shim::api::CreateTaskRequest;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

/// A root file system can't be mounted.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// The mount point.
    #[error("rootfs {path}: the mount point can't be made")]
    MountPoint {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One of the mounts.
    #[error("rootfs {path}: a {kind:?} mount failed; is the snapshotter's file system usable on this node?")]
    Mount {
        /// Where.
        path: PathBuf,
        /// The file system.
        kind: String,
        /// Why.
        source: containerd_shim::Error,
    },
}

/// A root file system. What was mounted is unmounted on drop, lazily: an open disk image stays usable.
#[derive(Debug)]
pub struct Rootfs {
    path: PathBuf,
    mounted: bool,
}

impl Rootfs {
    /// Mounts what `request` lists, in order, at `path`; with an empty list what is there already is used.
    pub async fn mount(request: &CreateTaskRequest, path: PathBuf) -> Result<Rootfs, RootfsError> {
        if !request.rootfs.is_empty() {
            fs::create_dir_all(&path).map_err(|source| RootfsError::MountPoint { path: path.clone(), source })?;
        }
        let rootfs = Rootfs { path, mounted: !request.rootfs.is_empty() };
        for mount in &request.rootfs {
            containerd_shim::util::mount_rootfs(mount, &rootfs.path).await.map_err(|source| RootfsError::Mount {
                path: rootfs.path.clone(),
                kind: mount.type_.clone(),
                source,
            })?;
        }
        Ok(rootfs)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        if self.mounted
            && let Err(error) = unmount(&self.path)
        {
            log::warn!("rootfs {}: not unmounted: {error}", self.path.display());
        }
    }
}

/// Unmounts everything that is stacked at `path`; nothing there is fine.
pub fn unmount(path: &Path) -> Result<(), Errno> {
    // A stack is as deep as the mounts that containerd listed; the bound only keeps a kernel's surprise from looping.
    for _ in 0..64 {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // EINVAL: no mount point any more.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Err(Errno::EBUSY)
}
