//! What the kubelet has put into the pod's container: folders, files and devices.
//!
//! The kubelet has chosen where each of them is, and its word is taken for that; what lies in a folder is whoever's. So
//! everything below a folder is opened as an image's files are, and with the rights of the pod's user. Nothing is kept open
//! that would be in the way when the kubelet unmounts it.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};

use super::{ImageRoot, Purpose, VolumeError, open_checked};
use crate::launch::Identity;

/// What is mounted at one place of the container.
#[derive(Debug, Clone)]
pub struct Mounted {
    /// For messages: as in `claim`.
    pub what: &'static str,
    place: PathBuf,
    source: PathBuf,
    identity: Identity,
}

impl Mounted {
    /// What is mounted at `place`, if anything is; `uid` and `gid` are whom its files are opened as, with the groups of the container.
    pub fn find(oci: &Spec, (uid, gid): (u32, u32), place: &Path, what: &'static str) -> Option<Self> {
        let mounts = oci.mounts().iter().flatten();
        let source = mounts
            .filter(|mount| *mount.destination() == place)
            .filter_map(|mount| mount.source().clone())
            .next_back()?;
        let user = oci.process().as_ref().map(Process::user);
        let groups = user.and_then(|user| user.additional_gids().clone()).unwrap_or_default();
        Some(Self { what, place: place.to_owned(), source, identity: Identity { uid, gid, groups } })
    }

    /// Where it is on the node.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// Does `work` in the folder that is mounted, as the pod's user.
    pub fn folder<T: Send>(
        &self,
        work: impl FnOnce(&ImageRoot) -> Result<T, VolumeError> + Send,
    ) -> Result<T, VolumeError> {
        let root = ImageRoot::open(&self.source)?;
        self.with(|| work(&root))
    }

    /// Opens the file that is mounted, as the pod's user.
    pub fn file(&self, purpose: Purpose) -> Result<File, VolumeError> {
        let name = self.place.file_name().unwrap_or_default().to_string_lossy();
        let handle = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(&self.source);
        let handle = handle.map_err(|source| VolumeError::Open { path: self.source.display().to_string(), source })?;
        let handle = OwnedFd::from(handle);
        self.with(|| open_checked(&handle, &name, purpose, false))
    }

    fn with<T: Send>(&self, work: impl FnOnce() -> Result<T, VolumeError> + Send) -> Result<T, VolumeError> {
        let place = || self.place.display().to_string();
        let done = self.identity.with(work).map_err(|source| VolumeError::Open { path: place(), source })?;
        done.map_err(|error| VolumeError::Mounted { what: self.what, place: place(), source: Box::new(error) })
    }
}
