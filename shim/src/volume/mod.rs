//! Opens what a machine is made of: disk images, kernels, initial RAM disks.
//!
//! A file is looked at (`O_PATH`, which runs no driver and wakes no FIFO) before it is opened for use, and what is opened is
//! what was looked at. Whoever made a container image chose every name, link and device node in it, so that inside an image
//! no link is followed, no other file system entered, and nothing but a regular file opened ([`ImageRoot`]). On the
//! machine's own file system, where an admin named the path, a block device will do as well ([`open_local`]).
//!
//! No file is opened with the pod's identity: an image is the container's own throw-away copy. Volumes that the pod shares
//! with others are not served yet.

mod image_root;
mod local;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};

pub use image_root::ImageRoot;
pub use local::open_local;

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A kernel or initial RAM disk: read once.
    Boot,
    /// A disk that the guest may not write to.
    ReadOnlyDisk,
    /// A disk that the guest may write to.
    Disk,
}

impl Purpose {
    fn writes(self) -> bool {
        self == Self::Disk
    }
    fn is_disk(self) -> bool {
        self != Self::Boot
    }
}

/// Why a file can't be used. `path` is as the user wrote it, or as it stands in the image.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// It isn't there.
    #[error("{path} does not exist")]
    Missing {
        /// The file.
        path: String,
    },
    /// It is a symbolic link, or lies behind one, or leaves the image.
    #[error("{path} is a symbolic link or lies behind one; links are not followed, name the file itself")]
    Link {
        /// The file.
        path: String,
    },
    /// It lies on another file system than the image.
    #[error("{path} leaves the image")]
    Outside {
        /// The file.
        path: String,
    },
    /// It is no regular file (nor a block device, where that will do).
    #[error("{path} is {found}; {needed} is needed")]
    Kind {
        /// The file.
        path: String,
        /// What it is.
        found: &'static str,
        /// What would do.
        needed: &'static str,
    },
    /// It has no content.
    #[error("{path} is empty")]
    Empty {
        /// The file.
        path: String,
    },
    /// It is a disk image of a format that isn't served.
    #[error("{path} is a {format} image; a raw one is needed (qemu-img convert -O raw makes one)")]
    Format {
        /// The file.
        path: String,
        /// Its format.
        format: &'static str,
    },
    /// The folder of a containerDisk isn't there.
    #[error("the image has no {0} folder; a containerDisk image holds one raw disk image there")]
    NoDiskFolder(&'static str),
    /// The folder of a containerDisk doesn't hold one file.
    #[error("{folder} holds {count} files; exactly one disk image is needed there, or the volume's containerDisk.path")]
    DiskCount {
        /// The folder.
        folder: &'static str,
        /// How many were found, or at least so many.
        count: usize,
    },
    /// The kernel said no.
    #[error("{path} can't be opened")]
    Open {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Opens what `handle` (from `O_PATH`) stands for, if it is what `purpose` needs.
fn open_checked(handle: &OwnedFd, path: &str, purpose: Purpose, block_device: bool) -> Result<File, VolumeError> {
    let fail = |source| VolumeError::Open { path: path.to_owned(), source };
    let file = File::from(handle.as_fd().try_clone_to_owned().map_err(fail)?);
    let metadata = file.metadata().map_err(fail)?;
    let kind = metadata.file_type();
    let is_device = kind.is_block_device() && block_device && purpose.is_disk();
    if !kind.is_file() && !is_device {
        let found = match kind {
            _ if kind.is_dir() => "a directory",
            _ if kind.is_symlink() => return Err(VolumeError::Link { path: path.to_owned() }),
            _ if kind.is_fifo() => "a FIFO",
            _ if kind.is_socket() => "a socket",
            _ if kind.is_block_device() => "a block device",
            _ => "a character device",
        };
        let needed = match (purpose.is_disk(), block_device) {
            (true, true) => "a raw image file or a block device",
            (true, false) => "a raw image file",
            (false, _) => "a regular file",
        };
        return Err(VolumeError::Kind { path: path.to_owned(), found, needed });
    }
    if kind.is_file() && metadata.size() == 0 {
        return Err(VolumeError::Empty { path: path.to_owned() });
    }
    // Through /proc it is this very file that is opened, whatever has become of its name.
    let file = OpenOptions::new()
        .read(true)
        .write(purpose.writes())
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(format!("/proc/self/fd/{}", handle.as_raw_fd()))
        .map_err(fail)?;
    if purpose.is_disk() {
        refuse_format(&file, path)?;
    }
    Ok(file)
}

/// Refuses an image whose text could name other files, or that a guest would see as garbage.
fn refuse_format(file: &File, path: &str) -> Result<(), VolumeError> {
    let mut magic = [0; 4];
    let read = file.read_at(&mut magic, 0).map_err(|source| VolumeError::Open { path: path.to_owned(), source })?;
    let format = match &magic[..read] {
        b"QFI\xfb" => "qcow2",
        b"KDMV" => "VMDK",
        _ => return Ok(()),
    };
    Err(VolumeError::Format { path: path.to_owned(), format })
}
