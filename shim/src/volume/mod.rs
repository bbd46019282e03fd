//! Opens what a machine is made of: disk images, kernels, initial RAM disks; and makes small disks of the pod's secrets and their like.
//!
//! A file is looked at (`O_PATH`, which runs no driver and wakes no FIFO) before it is opened for use, and what is opened is
//! what was looked at. Whoever made a container image chose every name, link and device node in it, so that inside an image
//! no link is followed, no other file system entered, and nothing but a regular file opened ([`ImageRoot`]). On the
//! machine's own file system, where an admin named the path, a block device will do as well ([`open_local`]).
//!
//! An image is the container's own throw-away copy, and opened by root. What the kubelet mounted into the pod is opened with the pod's
//! identity ([`Mounted`]). What is in an image is for the jailed VMM to judge.

mod block_size;
mod claim;
mod cloud_init;
mod config_disk;
mod device;
mod image_root;
mod iso9660;
mod local;
mod made;
mod mounted;
mod new_disk;
mod small_files;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};

use vireo_vmm::disk::lock::LockError;

pub use block_size::block_sizes;
pub use claim::{ClaimDisk, MAX_VARIABLES, claim_disk, claim_variables, host_disk};
pub use cloud_init::{DataSource, Seed, secret_value};
pub use config_disk::{config_disk, sysprep_disk};
pub use image_root::ImageRoot;
pub use iso9660::IsoError;
pub use local::{is_named_qcow2, local_scratch, open_local, open_or_make_local, refuse_other_formats};
pub use mounted::Mounted;
pub use new_disk::NewDisk;
pub use small_files::{SmallFile, small_files};

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A kernel or initial RAM disk: read once.
    Boot,
    /// A disk that the guest may not write to.
    ReadOnlyDisk,
    /// A disk that the guest may write to.
    Disk,
    /// The machine's own state, which is written to; empty before it has any.
    State,
    /// A small file that is read once, and may be empty.
    Content,
}

impl Purpose {
    fn writes(self) -> bool {
        matches!(self, Self::Disk | Self::State)
    }
    fn is_disk(self) -> bool {
        matches!(self, Self::Disk | Self::ReadOnlyDisk)
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
    /// The kubelet's link doesn't lead to where the kubelet makes it lead.
    #[error("{path} leaves the mount")]
    LeavesMount {
        /// The link.
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
    /// It is called a raw image and doesn't look like one.
    #[error("{path} starts like a {format} image; {cure}")]
    Format {
        /// The file.
        path: String,
        /// What it looks like.
        format: &'static str,
        /// What to do about it.
        cure: &'static str,
    },
    /// No file to take what the guest writes.
    #[error("no file for what the guest writes can be made in {place}")]
    Scratch {
        /// Where.
        place: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No file system can hold an empty disk of that size.
    #[error("no disk of {size} bytes can be made in {place}")]
    Size {
        /// Bytes.
        size: u64,
        /// Where.
        place: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The container has no mount for it.
    #[error("the {what} is not mounted at {place}; the pod has to mount it there{or}")]
    NotMounted {
        /// What.
        what: &'static str,
        /// Where it belongs.
        place: String,
        /// What would do as well, after a comma.
        or: String,
    },
    /// Somebody else has it.
    #[error("{path} is in use by another VM")]
    Locked {
        /// The file.
        path: String,
        /// What the kernel says.
        #[source]
        source: LockError,
    },
    /// What the kubelet mounted can't be used.
    #[error("the {what} mounted at {place}")]
    Mounted {
        /// What.
        what: &'static str,
        /// Where.
        place: String,
        /// Why.
        #[source]
        source: Box<VolumeError>,
    },
    /// None of the files that it should have.
    #[error("has no {}", keys.join(" and no "))]
    NoKey {
        /// Their names.
        keys: &'static [&'static str],
    },
    /// More than a small disk holds.
    #[error("more than {limit} files; fewer are needed")]
    ManyFiles {
        /// How many it may be.
        limit: usize,
    },
    /// Likewise.
    #[error("{path} is too large: all files together may have {limit} bytes")]
    Large {
        /// The file.
        path: String,
        /// Bytes.
        limit: u64,
    },
    /// What is to be text isn't.
    #[error("{path} is no text")]
    NoText {
        /// The file.
        path: String,
    },
    /// A name that the guest's file system can't show.
    #[error(transparent)]
    Iso(#[from] IsoError),
    /// A new disk has no room.
    #[error("no disk can be made: {wanted}, and {free} bytes are free, of which 131072 are left alone")]
    NoRoom {
        /// What is wanted.
        wanted: String,
        /// Bytes.
        free: u64,
    },
    /// Nothing says how large a new disk is to be.
    #[error("{path} is missing or empty, and without a capacity none is made")]
    NoCapacity {
        /// The file.
        path: String,
    },
    /// A device may not be written to.
    #[error("{path} may only be read by the pod's container; make the disk read-only")]
    ReadOnlyDevice {
        /// The device.
        path: String,
    },
    /// A disk that is made here can't be.
    #[error("can't be made")]
    Made(#[source] io::Error),
    /// The folder of a containerDisk isn't there.
    #[error("the image has no {0} folder; a containerDisk image holds one disk image there")]
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
            (true, true) => "an image file or a block device",
            (true, false) => "an image file",
            (false, _) => "a regular file",
        };
        return Err(VolumeError::Kind { path: path.to_owned(), found, needed });
    }
    let may_be_empty = matches!(purpose, Purpose::State | Purpose::Content);
    if kind.is_file() && metadata.size() == 0 && !may_be_empty {
        return Err(VolumeError::Empty { path: path.to_owned() });
    }
    // Through /proc it is this very file that is opened, whatever has become of its name.
    let file = OpenOptions::new()
        .read(true)
        .write(purpose.writes())
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(format!("/proc/self/fd/{}", handle.as_raw_fd()))
        .map_err(fail)?;
    Ok(file)
}
