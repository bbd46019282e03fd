//! Disks that are made where there are none yet: raw images in a claim, or in a folder of the node.

use std::fs::File;
use std::io;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::Mode;
use nix::sys::statvfs::fstatvfs;

use super::{ImageRoot, Purpose, VolumeError};

const MIB: u64 = 1 << 20;
/// What is left of a file system, bytes (KubeVirt's `minimumReservePVCBytes`).
const RESERVE: u64 = 128 << 10;
/// How much less than wanted will do, in hundredths (KubeVirt's `lessPVCSpaceToleration`): file systems take their share.
const TOLERATED: u64 = 10;

/// A disk that is made if it isn't there. One that is there stays as it is, whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewDisk {
    /// Bytes; all that is free where nobody says.
    pub capacity: Option<u64>,
    /// All of its space is taken at once; else what the guest writes.
    pub preallocation: bool,
}

impl NewDisk {
    /// Opens the disk `name` of a folder for writing, after making it if need be. It is the caller's, and their group's.
    pub(super) fn open(self, root: &ImageRoot, name: &str) -> Result<File, VolumeError> {
        match root.file(name, Purpose::Disk) {
            // An empty one was made by who didn't get further.
            Err(VolumeError::Missing { .. } | VolumeError::Empty { .. }) => {}
            done => return done,
        }
        let mode = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP | Mode::S_IWGRP;
        let file = root.state(name, mode)?;
        self.size_file(&file, name)?;
        Ok(file)
    }

    /// Gives an empty file its size. Another pod may have been quicker, and its guest's data are there already.
    fn size_file(self, file: &File, name: &str) -> Result<(), VolumeError> {
        let failed = |source| VolumeError::Open { path: name.to_owned(), source };
        let space = fstatvfs(file).map_err(|error| failed(error.into()))?;
        let size = self.size(space.blocks_available().saturating_mul(space.fragment_size()))?;
        if file.metadata().map_err(failed)?.len() > 0 {
            return Ok(());
        }
        let sized = if self.preallocation { allocate(file, size) } else { file.set_len(size) };
        sized.map_err(|source| {
            // So that the next attempt begins anew; that this one failed is what matters.
            let _ = file.set_len(0);
            VolumeError::Size { size, place: name.to_owned(), source }
        })
    }

    /// What it becomes where `free` bytes are free: whole MiB.
    fn size(self, free: u64) -> Result<u64, VolumeError> {
        let available = free.saturating_sub(RESERVE);
        let size = match self.capacity {
            None => available,
            Some(wanted) if wanted <= available => wanted,
            Some(wanted) if wanted / 100 * (100 - TOLERATED) <= available => available,
            Some(_) => 0,
        };
        let whole = size / MIB * MIB;
        if whole == 0 {
            let wanted =
                self.capacity.map_or("at least 1 MiB is wanted".into(), |size| format!("{size} bytes are wanted"));
            return Err(VolumeError::NoRoom { wanted, free });
        }
        Ok(whole)
    }
}

fn allocate(file: &File, size: u64) -> io::Result<()> {
    let size = libc::off_t::try_from(size).map_err(io::Error::other)?;
    Ok(fallocate(file, FallocateFlags::empty(), 0, size)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn new(capacity: Option<u64>) -> NewDisk {
        NewDisk { capacity, preallocation: false }
    }

    #[test]
    fn as_large_as_wanted_or_a_little_less() {
        let size = |capacity, free| new(capacity).size(free).ok();
        assert_eq!(size(Some(10 * MIB + 5), 1 << 40), Some(10 * MIB));
        assert_eq!(size(Some(100 * MIB), 100 * MIB), Some(99 * MIB), "the reserve is left");
        assert_eq!(size(Some(100 * MIB), 91 * MIB), Some(90 * MIB));
        assert_eq!(size(Some(100 * MIB), 90 * MIB), None, "90 MiB less the reserve");
        assert_eq!(size(None, 7 * MIB + RESERVE), Some(7 * MIB));
        assert_eq!(size(None, MIB), None);
        let refusal = new(Some(u64::MAX)).size(0).unwrap_err().to_string();
        let expected = "no disk can be made: 18446744073709551615 bytes are wanted, and 0 bytes are free, of which 131072 are left alone";
        assert_eq!(refusal, expected);
    }

    #[test]
    fn it_is_made_once_sparse_or_whole() {
        let dir = tempfile::tempdir().unwrap();
        let root = ImageRoot::open(dir.path()).unwrap();
        let length = |file: File| file.metadata().unwrap().len();
        assert_eq!(length(new(Some(4 * MIB)).open(&root, "disk.img").unwrap()), 4 * MIB);
        assert_eq!(fs::metadata(dir.path().join("disk.img")).unwrap().blocks(), 0);
        assert_eq!(length(new(Some(8 * MIB)).open(&root, "disk.img").unwrap()), 4 * MIB, "one that is there stays");
        fs::write(dir.path().join("empty.img"), "").unwrap();
        let whole = NewDisk { capacity: Some(MIB), preallocation: true }.open(&root, "empty.img").unwrap();
        assert_eq!(whole.metadata().unwrap().blocks() * 512, MIB);
        // Made by another pod since this one looked.
        new(Some(2 * MIB)).size_file(&whole, "empty.img").unwrap();
        assert_eq!(length(whole), MIB);
        assert!(new(Some(1 << 60)).open(&root, "vast.img").is_err());
        assert!(matches!(root.file("vast.img", Purpose::Disk), Err(VolumeError::Empty { .. })));
    }
}
