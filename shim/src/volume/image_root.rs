//! A container's root file system, whose every name was chosen by whoever made the image; or a folder that the kubelet mounted
//! into a container.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use vireo_runtimeclass::pod::CONTAINER_DISK_DIR;

use super::{Purpose, VolumeError, open_checked};

/// A folder with more entries than this is not searched to its end.
const MAX_ENTRIES: usize = 4096;

/// The root of a container's file system. Paths are absolute inside it.
#[derive(Debug)]
pub struct ImageRoot {
    root: OwnedFd,
}

impl ImageRoot {
    /// Opens the root file system mounted at `path`.
    pub fn open(path: &Path) -> Result<Self, VolumeError> {
        let root = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(path)
            .map_err(|source| VolumeError::Open { path: path.display().to_string(), source })?;
        Ok(Self { root: root.into() })
    }

    /// Opens a regular file of the image.
    pub fn file(&self, path: &str, purpose: Purpose) -> Result<File, VolumeError> {
        let handle = self.resolve(path, OFlag::O_PATH)?;
        open_checked(&handle, path, purpose, false)
    }

    /// Opens a regular file of the image, if it is there.
    pub fn file_if_any(&self, path: &str, purpose: Purpose) -> Result<Option<File>, VolumeError> {
        match self.file(path, purpose) {
            Ok(file) => Ok(Some(file)),
            Err(VolumeError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a file with state, or makes an empty one with this mode.
    pub fn state(&self, name: &str, mode: Mode) -> Result<File, VolumeError> {
        match self.file(name, Purpose::State) {
            Err(VolumeError::Missing { .. }) => {}
            done => return done,
        }
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&self.root, name, flags, mode) {
            Ok(file) => Ok(file.into()),
            // Somebody else was quicker.
            Err(Errno::EEXIST) => self.file(name, Purpose::State),
            Err(error) => Err(VolumeError::Open { path: name.to_owned(), source: error.into() }),
        }
    }

    /// The path of the one disk image of a containerDisk.
    pub fn container_disk(&self) -> Result<String, VolumeError> {
        let entries = self.entries(CONTAINER_DISK_DIR).map_err(|error| match error {
            VolumeError::Missing { .. } => VolumeError::NoDiskFolder(CONTAINER_DISK_DIR),
            other => other,
        })?;
        match entries.as_slice() {
            [name] => Ok(join(CONTAINER_DISK_DIR, name)),
            _ => Err(VolumeError::DiskCount { folder: CONTAINER_DISK_DIR, count: entries.len() }),
        }
    }

    /// The paths in `folder` whose names start with `prefix`, sorted; none if there is no such folder.
    pub fn starting_with(&self, folder: &str, prefix: &str) -> Result<Vec<String>, VolumeError> {
        let entries = match self.entries(folder) {
            Err(VolumeError::Missing { .. }) => return Ok(Vec::new()),
            other => other?,
        };
        let matching = entries.iter().filter(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes()));
        let mut paths: Vec<_> = matching.map(|name| join(folder, name)).collect();
        paths.sort();
        Ok(paths)
    }

    /// The folder to which the kubelet's link `..data` leads, inside of this one; `None` without the link.
    pub(super) fn current(&self) -> Result<Option<Self>, VolumeError> {
        const LINK: &str = "..data";
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV);
        match openat2(&self.root, LINK, how) {
            Ok(root) => Ok(Some(Self { root })),
            Err(Errno::ENOENT) => Ok(None),
            Err(Errno::EXDEV) => Err(VolumeError::LeavesMount { path: LINK.to_owned() }),
            Err(error) => Err(VolumeError::Open { path: LINK.to_owned(), source: error.into() }),
        }
    }

    /// Whether a path is a folder's.
    pub(super) fn is_folder(&self, path: &str) -> Result<bool, VolumeError> {
        let handle = File::from(self.resolve(path, OFlag::O_PATH)?);
        let metadata = handle.metadata().map_err(|source| VolumeError::Open { path: path.to_owned(), source })?;
        Ok(metadata.is_dir())
    }

    /// The names in a folder, `limit` of them at most, less those that are the kubelet's own.
    pub(super) fn names(&self, folder: &str, limit: usize) -> Result<Vec<OsString>, VolumeError> {
        let mut names = self.all_entries(folder, limit)?;
        names.retain(|name| !name.as_encoded_bytes().starts_with(b".."));
        Ok(names)
    }

    /// The names in a folder, less the hidden ones.
    pub(super) fn entries(&self, folder: &str) -> Result<Vec<OsString>, VolumeError> {
        let mut names = self.all_entries(folder, MAX_ENTRIES)?;
        names.retain(|name| !name.as_encoded_bytes().starts_with(b"."));
        Ok(names)
    }

    fn all_entries(&self, folder: &str, limit: usize) -> Result<Vec<OsString>, VolumeError> {
        let handle = self.resolve(folder, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK)?;
        let fail = |source| VolumeError::Open { path: folder.to_owned(), source };
        let entries = fs::read_dir(format!("/proc/self/fd/{}", handle.as_raw_fd())).map_err(fail)?;
        entries.take(limit).map(|entry| Ok(entry.map_err(fail)?.file_name())).collect()
    }

    /// A new, empty, nameless file in the container's writable layer: it is gone once it is closed.
    pub fn scratch(&self) -> Result<File, VolumeError> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        // An image may have a file of that name. O_TMPFILE would need none, but overlayfs has it only since Linux 6.1.
        for number in 0..MAX_ENTRIES {
            let name = format!(".vireo-overlay-{number}");
            match openat(&self.root, name.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR) {
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(no_scratch(error)),
                Ok(file) => {
                    let removed = unlinkat(&self.root, name.as_str(), UnlinkatFlags::NoRemoveDir);
                    removed.map_err(no_scratch)?;
                    return Ok(file.into());
                }
            }
        }
        Err(no_scratch(Errno::EEXIST))
    }

    fn resolve(&self, path: &str, flags: OFlag) -> Result<OwnedFd, VolumeError> {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
        let relative = path.trim_start_matches('/');
        let relative = if relative.is_empty() { "." } else { relative };
        let owned = || path.to_owned();
        openat2(&self.root, relative, how).map_err(|errno| match errno {
            Errno::ENOENT => VolumeError::Missing { path: owned() },
            Errno::ELOOP => VolumeError::Link { path: owned() },
            Errno::EXDEV => VolumeError::Outside { path: owned() },
            Errno::ENOTDIR if flags.contains(OFlag::O_DIRECTORY) => {
                VolumeError::Kind { path: owned(), found: "no folder", needed: "a folder" }
            }
            other => VolumeError::Open { path: owned(), source: other.into() },
        })
    }
}

fn no_scratch(error: Errno) -> VolumeError {
    VolumeError::Scratch { place: "the container's file system".to_owned(), source: error.into() }
}

/// Names that aren't UTF-8 stay visible in errors, and can't be opened.
fn join(folder: &str, name: &OsString) -> String {
    format!("{folder}/{}", name.to_string_lossy())
}
