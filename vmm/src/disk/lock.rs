//! Keeps two machines off one image, by locks of the open file description (fcntl(2), F_OFD_SETLK) on the whole file.
//!
//! A lock lasts until every copy of the descriptor is closed, and so until the machine's process is gone, however it ends.
//! QEMU's own locks are on bytes of the file, and exclude ours. A block device's lock is that of its device node: two nodes of
//! one device don't know of each other.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// Why an image could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else uses it in a way that excludes ours.
    #[error("already locked by another VM or program{}; stop that, or make the disk shareable in both", .0)]
    Locked(&'static str),
    /// The file system doesn't do it.
    #[error("can't be locked; make the disk shareable if nothing else uses it")]
    Io(#[source] io::Error),
}

/// Locks an image: against every other user if it is to be written, else against those who write.
pub fn lock(file: &File, readonly: bool) -> Result<(), LockError> {
    let kind = if readonly { libc::F_RDLCK } else { libc::F_WRLCK };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(kind))) {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN | Errno::EACCES) if readonly => Err(LockError::Locked(", which writes to it")),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(LockError::Locked("")),
        Err(error) => Err(LockError::Io(error.into())),
    }
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    // Both constants are small.
    let kind = libc::c_short::try_from(kind).unwrap_or_default();
    let start = libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default();
    // A length of 0 reaches to the end, wherever that will be.
    libc::flock { l_type: kind, l_whence: start, l_start: 0, l_len: 0, l_pid: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    #[test]
    fn writers_exclude_everybody_and_readers_writers() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || OpenOptions::new().read(true).write(true).open(file.path()).unwrap();
        let (first, second) = (open(), open());
        lock(&first, true).unwrap();
        lock(&second, true).unwrap();
        let error = lock(&second, false).unwrap_err().to_string();
        assert!(error.starts_with("already locked by another VM or program;"), "{error}");
        drop(first);
        lock(&second, false).unwrap();
        let error = lock(&open(), true).unwrap_err().to_string();
        assert!(error.starts_with("already locked by another VM or program, which writes to it;"), "{error}");
        // The lock is the description's: it lasts as long as any copy of the descriptor.
        let copy = second.try_clone().unwrap();
        drop(second);
        assert!(lock(&open(), true).is_err());
        drop(copy);
        lock(&open(), false).unwrap();
    }
}
