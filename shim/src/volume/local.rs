//! Files of this machine that an admin named: in a manifest given to `vireo run`, or in the node's configuration.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{ImageRoot, NewDisk, Purpose, VolumeError, open_checked};

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

/// Opens a disk of this machine for writing, and makes it first if it isn't there.
pub fn open_or_make_local(path: &Path, new: NewDisk) -> Result<File, VolumeError> {
    match open_local(path, Purpose::Disk) {
        Err(VolumeError::Missing { .. }) if new.capacity.is_none() => {
            Err(VolumeError::NoCapacity { path: path.display().to_string() })
        }
        Err(VolumeError::Missing { .. }) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            new.open(&ImageRoot::open(folder)?, &name)
        }
        done => done,
    }
}

/// A new, empty, nameless file of this machine, for what a guest writes until it ends: in `$TMPDIR`, or in `/var/tmp`, which
/// unlike `/tmp` is on a disk.
pub fn local_scratch() -> Result<File, VolumeError> {
    let place = std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from);
    let options = OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(&place);
    options.map_err(|source| VolumeError::Scratch { place: place.display().to_string(), source })
}

/// Whether an admin calls a file a qcow2 image. Its content doesn't count: the guest that last wrote to it may have made
/// that look like anything.
pub fn is_named_qcow2(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "qcow2")
}

/// Refuses a file that is to be a raw image and starts like one of another format, which the guest would see as garbage.
/// `cure` is what to do about a qcow2 image.
pub fn refuse_other_formats(file: &File, path: &Path, cure: &'static str) -> Result<(), VolumeError> {
    let path = || path.display().to_string();
    let mut magic = [0; 4];
    let read = file.read_at(&mut magic, 0).map_err(|source| VolumeError::Open { path: path(), source })?;
    let (format, cure) = match &magic[..read] {
        b"QFI\xfb" => ("qcow2", cure),
        b"KDMV" => ("VMDK", "qemu-img convert makes a raw or qcow2 one"),
        _ => return Ok(()),
    };
    Err(VolumeError::Format { path: path(), format, cure })
}
