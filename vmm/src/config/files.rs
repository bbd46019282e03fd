//! What an open file must be to serve as a machine's kernel, disk, tap, `/dev/kvm` or `/dev/vhost-net`.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::FdIndex;
use super::firmware::FirmwareProblem;

/// `/dev/kvm`, `/dev/net/tun` and `/dev/vhost-net`: misc devices with fixed minors (Linux, admin-guide/devices.txt).
const KVM_DEVICE: (u64, u64) = (10, 232);
const TUN_DEVICE: (u64, u64) = (10, 200);
const VHOST_NET_DEVICE: (u64, u64) = (10, 238);
/// Flags that a tap must have been attached with, as `TUNGETIFF` tells them.
const TAP_FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// What can be wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileProblem {
    /// An index past the end.
    #[error("names file {index}, but {count} came with the config")]
    NoSuchFile {
        /// The index.
        index: u16,
        /// Files there are.
        count: usize,
    },
    /// An index that two values name.
    #[error("names file {0}, which something else uses already")]
    UsedTwice(u16),
    /// A file that nothing names.
    #[error("file {0} came with the config, but nothing names it")]
    Unused(usize),
    /// A file of the wrong kind.
    #[error("is {found}; {needed} is needed")]
    Kind {
        /// What it is.
        found: &'static str,
        /// What it should be.
        needed: &'static str,
    },
    /// Nothing in it.
    #[error("is empty")]
    Empty,
    /// Something in it.
    #[error("is not empty")]
    NotEmpty,
    /// A descriptor that can't read.
    #[error("is not open for reading")]
    NotReadable,
    /// A descriptor that can't write.
    #[error("is not open for writing")]
    NotWritable,
    /// A descriptor that can write where nothing may.
    #[error("is read-only, but open for writing")]
    Writable,
    /// A descriptor whose flags would change what reads and writes do.
    #[error("is open with {0}, which must not be")]
    Flag(&'static str),
    /// A tap or a socket that would block the thread that serves it.
    #[error("is not non-blocking (O_NONBLOCK)")]
    Blocking,
    /// A tap that is not attached, or to the wrong kind of interface.
    #[error("is not attached to a tap with IFF_NO_PI and IFF_VNET_HDR")]
    NotAttached,
    /// Firmware of the wrong kind or size.
    #[error(transparent)]
    Firmware(#[from] FirmwareProblem),
    /// One queue of several, on a tap that has one.
    #[error("is not attached with IFF_MULTI_QUEUE, as one of several queues must be")]
    OneQueue,
    /// The kernel would not tell.
    #[error("can't be examined: {0}")]
    Io(io::Error),
}

impl From<io::Error> for FileProblem {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<nix::Error> for FileProblem {
    fn from(e: nix::Error) -> Self {
        Self::Io(e.into())
    }
}

/// The files of a config: each can be taken once.
pub(super) struct Files(Vec<Option<OwnedFd>>);

impl Files {
    pub(super) fn new(fds: Vec<OwnedFd>) -> Self {
        Self(fds.into_iter().map(Some).collect())
    }

    pub(super) fn take(&mut self, FdIndex(index): FdIndex) -> Result<File, FileProblem> {
        let count = self.0.len();
        let slot = self.0.get_mut(usize::from(index)).ok_or(FileProblem::NoSuchFile { index, count })?;
        slot.take().map(File::from).ok_or(FileProblem::UsedTwice(index))
    }

    pub(super) fn finish(self) -> Result<(), FileProblem> {
        self.0.iter().position(Option::is_some).map_or(Ok(()), |unused| Err(FileProblem::Unused(unused)))
    }
}

/// A disk's image.
pub(super) struct Image {
    pub(super) file: File,
    /// Tells whether two descriptors are one image.
    pub(super) identity: (u64, u64, u64),
}

pub(super) fn kvm(file: File) -> Result<File, FileProblem> {
    device(&file, KVM_DEVICE, "/dev/kvm")?;
    readable_and_writable(&file)?;
    Ok(file)
}

pub(super) fn boot_file(file: File) -> Result<(File, u64), FileProblem> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(FileProblem::Kind { found: kind(meta.file_type()), needed: "a regular file" });
    }
    readable(&file)?;
    if meta.len() == 0 {
        return Err(FileProblem::Empty);
    }
    Ok((file, meta.len()))
}

/// As [`boot_file`], for a file that is written too.
pub(super) fn writable_file(file: File) -> Result<File, FileProblem> {
    let (file, _) = boot_file(file)?;
    readable_and_writable(&file)?;
    Ok(file)
}

pub(super) fn disk(mut file: File, readonly: bool) -> Result<Image, FileProblem> {
    let meta = file.metadata()?;
    let identity = if meta.is_file() {
        (meta.dev(), meta.ino(), 0)
    } else if meta.file_type().is_block_device() {
        (0, 0, meta.rdev())
    } else {
        return Err(FileProblem::Kind { found: kind(meta.file_type()), needed: "an image file or a block device" });
    };
    let flags = if readonly { readable(&file)? } else { readable_and_writable(&file)? };
    if readonly && flags & OFlag::O_ACCMODE != OFlag::O_RDONLY {
        return Err(FileProblem::Writable);
    }
    // The first would move every write to the end, the second refuses buffers that the guest has not aligned.
    for (flag, text) in [(OFlag::O_APPEND, "O_APPEND"), (OFlag::O_DIRECT, "O_DIRECT")] {
        if flags.contains(flag) {
            return Err(FileProblem::Flag(text));
        }
    }
    // A block device's metadata has no size.
    if file.seek(SeekFrom::End(0))? == 0 {
        return Err(FileProblem::Empty);
    }
    Ok(Image { file, identity })
}

/// A file to make an overlay in.
pub(super) fn scratch(file: File) -> Result<File, FileProblem> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(FileProblem::Kind { found: kind(meta.file_type()), needed: "a regular file" });
    }
    if readable_and_writable(&file)?.contains(OFlag::O_APPEND) {
        return Err(FileProblem::Flag("O_APPEND"));
    }
    if meta.len() != 0 {
        return Err(FileProblem::NotEmpty);
    }
    Ok(file)
}

/// A socket that a thread may wait for beside others.
pub(super) fn socket(file: File) -> Result<File, FileProblem> {
    let meta = file.metadata()?;
    if !meta.file_type().is_socket() {
        return Err(FileProblem::Kind { found: kind(meta.file_type()), needed: "a socket" });
    }
    if readable_and_writable(&file)?.contains(OFlag::O_NONBLOCK) { Ok(file) } else { Err(FileProblem::Blocking) }
}

/// A queue of a tap, and the interface's name. With `several` queues they must be `IFF_MULTI_QUEUE`.
pub(super) fn tap(file: File, several: bool) -> Result<(File, [libc::c_char; libc::IFNAMSIZ]), FileProblem> {
    device(&file, TUN_DEVICE, "a tap (/dev/net/tun)")?;
    if !readable_and_writable(&file)?.contains(OFlag::O_NONBLOCK) {
        return Err(FileProblem::Blocking);
    }
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: `file` is a tun device, whose TUNGETIFF writes one ifreq.
    let attached = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETIFF, &raw mut request) } == 0;
    // SAFETY: TUNGETIFF filled the flags; zeroed otherwise.
    let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    if !attached || flags & TAP_FLAGS != TAP_FLAGS {
        return Err(FileProblem::NotAttached);
    }
    if several && flags & libc::IFF_MULTI_QUEUE == 0 {
        return Err(FileProblem::OneQueue);
    }
    Ok((file, request.ifr_name))
}

pub(super) fn vhost_net(file: File) -> Result<File, FileProblem> {
    device(&file, VHOST_NET_DEVICE, "/dev/vhost-net")?;
    readable_and_writable(&file)?;
    Ok(file)
}

fn device(file: &File, (major, minor): (u64, u64), needed: &'static str) -> Result<(), FileProblem> {
    let meta = file.metadata()?;
    let rdev = meta.rdev();
    if !meta.file_type().is_char_device() {
        return Err(FileProblem::Kind { found: kind(meta.file_type()), needed });
    }
    if (u64::from(libc::major(rdev)), u64::from(libc::minor(rdev))) != (major, minor) {
        return Err(FileProblem::Kind { found: "another character device", needed });
    }
    Ok(())
}

fn readable(file: &File) -> Result<OFlag, FileProblem> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    if flags.contains(OFlag::O_PATH) || flags & OFlag::O_ACCMODE == OFlag::O_WRONLY {
        return Err(FileProblem::NotReadable);
    }
    Ok(flags)
}

fn readable_and_writable(file: &File) -> Result<OFlag, FileProblem> {
    let flags = readable(file)?;
    if flags & OFlag::O_ACCMODE == OFlag::O_RDWR { Ok(flags) } else { Err(FileProblem::NotWritable) }
}

fn kind(kind: std::fs::FileType) -> &'static str {
    match kind {
        k if k.is_file() => "a regular file",
        k if k.is_dir() => "a directory",
        k if k.is_symlink() => "a symbolic link",
        k if k.is_fifo() => "a FIFO",
        k if k.is_socket() => "a socket",
        k if k.is_block_device() => "a block device",
        k if k.is_char_device() => "a character device",
        _ => "not a file",
    }
}
