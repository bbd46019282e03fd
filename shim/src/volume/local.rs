//! Files of this machine that an admin named: in a manifest given to `vireo run`, or in the node's configuration.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{Purpose, VolumeError, open_checked};

/// Opens a file, or for a disk also a block device, of this machine. A disk's own name may not be a symbolic link: which
/// file a guest writes to should be plain to see. A kernel's may (`/vmlinuz`).
pub fn open_local(path: &Path, purpose: Purpose) -> Result<File, VolumeError> {
    let name = path.display().to_string();
    let no_follow = if purpose.is_disk() { libc::O_NOFOLLOW } else { 0 };
    let handle =
        OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC | no_follow).open(path).map_err(
            |source| match source.kind() {
                io::ErrorKind::NotFound => VolumeError::Missing { path: name.clone() },
                _ => VolumeError::Open { path: name.clone(), source },
            },
        )?;
    open_checked(&OwnedFd::from(handle), &name, purpose, true)
}
