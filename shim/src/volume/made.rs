//! Disks that are made here: in memory, and written to by nobody any more.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A file with this content, open for reading.
pub(super) fn sealed(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"vireo-disk", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    file.write_all(content)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    // A VMM takes no read-only disk that is open for writing.
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn nobody_writes_to_it() {
        let file = sealed(b"content").unwrap();
        assert_eq!(io::read_to_string(&file).unwrap(), "content");
        assert_eq!(file.write_at(b"x", 0).unwrap_err().raw_os_error(), Some(libc::EBADF), "open for reading");
        let writable = File::options().write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()));
        assert_eq!(writable.unwrap().write_at(b"x", 0).unwrap_err().raw_os_error(), Some(libc::EPERM), "sealed");
    }
}
