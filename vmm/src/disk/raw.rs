//! A raw image: a regular file or a block device whose bytes are the disk's.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fcntl};

use super::{Access, Image, Place, SECTOR};
use crate::memory::guest_buffers::GuestBuffers;

/// Bytes moved at once where they can't be in place: zeros that the host can't make itself, buffers that aren't aligned.
pub(super) const CHUNK: usize = 16 << 10;

/// Aligned for every kind of direct I/O.
#[repr(align(4096))]
pub(super) struct Chunk(pub(super) [u8; CHUNK]);

static ZEROS: Chunk = Chunk([0; CHUNK]);

/// Why a file can't be a disk.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// It is neither a regular file nor a block device.
    #[error("image is {0}; a raw image file or a block device is needed")]
    Kind(&'static str),
    /// It has no bytes.
    #[error("image is empty")]
    Empty,
    /// Its size isn't whole sectors.
    #[error("image size {0} is not a multiple of 512 bytes")]
    Size(u64),
    /// It is to be written but was opened read-only.
    #[error("image is open for reading only; make the disk read-only or open it for writing")]
    NotWritable,
    /// The host refused to say.
    #[error("image can't be examined")]
    Io(#[source] io::Error),
}

/// See the module.
#[derive(Debug)]
pub struct RawImage {
    file: File,
    size: u64,
    readonly: bool,
    /// The page cache is gone around; what memory, offsets and lengths have to be aligned to then, bytes.
    direct: Option<usize>,
}

impl RawImage {
    /// Takes an open image; it must be open for writing unless `readonly`. With `direct`, the size of the blocks that it will be
    /// read and written in, the host's page cache is gone around if that can be.
    pub fn new(mut file: File, readonly: bool, direct: Option<u32>) -> Result<Self, RawError> {
        let kind = file.metadata().map_err(RawError::Io)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let what = match kind {
                k if k.is_dir() => "a directory",
                k if k.is_fifo() => "a FIFO",
                k if k.is_socket() => "a socket",
                _ => "a character device",
            };
            return Err(RawError::Kind(what));
        }
        // Also tells the size of block devices, whose metadata doesn't.
        let size = file.seek(SeekFrom::End(0)).map_err(RawError::Io)?;
        if size == 0 {
            return Err(RawError::Empty);
        }
        if !size.is_multiple_of(SECTOR) {
            return Err(RawError::Size(size));
        }
        let flags = fcntl(&file, FcntlArg::F_GETFL).map_err(|e| RawError::Io(e.into()))?;
        if !readonly && OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE == OFlag::O_RDONLY {
            return Err(RawError::NotWritable);
        }
        let direct = direct.and_then(|block| go_direct(&file, block, size));
        Ok(Self { file, size, readonly, direct })
    }

    /// Whether the page cache is gone around.
    pub fn is_direct(&self) -> bool {
        self.direct.is_some()
    }
}

/// Sets O_DIRECT, and finds out by trying what has to be aligned to what; takes it back if blocks are too small for it.
pub(super) fn go_direct(file: &File, block: u32, size: u64) -> Option<usize> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL).ok()?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT)).ok()?;
    let mut chunk = Box::new(Chunk([0; CHUNK]));
    let fits = |align: &usize| *align as u64 <= u64::from(block).min(size);
    let found = [512, 4096].into_iter().filter(fits).find(|align| {
        let read = file.read_at(&mut chunk.0[..*align], 0);
        read.is_ok_and(|read| read == *align)
    });
    if found.is_none() {
        fcntl(file, FcntlArg::F_SETFL(flags)).ok()?;
    }
    found
}

/// Changes the allocation of a range of an image, never its size.
pub(super) fn fallocate(file: impl AsFd, flags: FallocateFlags, offset: u64, len: u64) -> Result<(), Errno> {
    let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    let len = i64::try_from(len).map_err(|_| Errno::EINVAL)?;
    loop {
        match nix::fcntl::fallocate(&file, flags | FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, len) {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

/// Makes a range inside of a file read as zeros, giving its space back if `unmap` and the host can.
pub(super) fn write_zeroes(file: &File, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE;
    let ways = if unmap {
        &[punch, FallocateFlags::FALLOC_FL_ZERO_RANGE][..]
    } else {
        &[FallocateFlags::FALLOC_FL_ZERO_RANGE]
    };
    for way in ways {
        match fallocate(file, *way, offset, len) {
            Err(e) if unsupported(e) => {}
            done => return Ok(done?),
        }
    }
    write_zeros(file, offset, len)
}

/// Writes zeros as bytes.
pub(super) fn write_zeros(file: &File, mut offset: u64, len: u64) -> io::Result<()> {
    let end = offset + len;
    while offset < end {
        let part = usize::try_from(end - offset).unwrap_or(CHUNK).min(CHUNK);
        file.write_all_at(&ZEROS.0[..part], offset)?;
        offset += part as u64;
    }
    Ok(())
}

/// Writes bytes from wherever they are to a file that wants `align`, as `offset` and their number are.
pub(super) fn write_aligned(file: &File, bytes: &[u8], mut offset: u64, align: usize) -> io::Result<()> {
    if bytes.as_ptr().addr().is_multiple_of(align) {
        return file.write_all_at(bytes, offset);
    }
    let mut chunk = Box::new(Chunk([0; CHUNK]));
    for bytes in bytes.chunks(CHUNK) {
        let part = &mut chunk.0[..bytes.len()];
        part.copy_from_slice(bytes);
        file.write_all_at(part, offset)?;
        offset += part.len() as u64;
    }
    Ok(())
}

/// The file system or device can't do it for this range: EINVAL is how block devices refuse unaligned ones.
pub(super) fn unsupported(error: Errno) -> bool {
    matches!(error, Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS | Errno::ENODEV)
}

impl Image for RawImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn readonly(&self) -> bool {
        self.readonly
    }

    fn has_places(&self) -> bool {
        true
    }

    fn in_place(&self, buffers: &GuestBuffers, offset: u64, access: Access) -> Option<Place<'_>> {
        let fits = match self.direct {
            Some(align) => buffers.is_aligned(align),
            // The page cache takes a write at once. By way of a ring a thread of the kernel's would do it, one at a time.
            None => access == Access::Read,
        };
        fits.then(|| Place { file: self.file.as_fd(), offset })
    }

    fn sync_in_place(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn read(&self, buffers: &mut GuestBuffers, mut offset: u64) -> io::Result<()> {
        if self.direct.is_none_or(|align| buffers.is_aligned(align)) {
            return buffers.read_exact_at(self.file.as_fd(), offset);
        }
        let mut chunk = Box::new(Chunk([0; CHUNK]));
        while !buffers.is_empty() {
            let part = &mut chunk.0[..buffers.len().min(CHUNK)];
            self.file.read_exact_at(part, offset)?;
            buffers.fill_front(part);
            offset += part.len() as u64;
        }
        Ok(())
    }

    fn write(&self, buffers: &mut GuestBuffers, mut offset: u64) -> io::Result<()> {
        if self.direct.is_none_or(|align| buffers.is_aligned(align)) {
            return buffers.write_all_at(self.file.as_fd(), offset);
        }
        let mut chunk = Box::new(Chunk([0; CHUNK]));
        while !buffers.is_empty() {
            let part = &mut chunk.0[..buffers.len().min(CHUNK)];
            buffers.take_front(part);
            self.file.write_all_at(part, offset)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        match fallocate(&self.file, FallocateFlags::FALLOC_FL_PUNCH_HOLE, offset, len) {
            // A discard is a hint.
            Err(e) if unsupported(e) => Ok(()),
            done => Ok(done?),
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        write_zeroes(&self.file, offset, len, unmap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn image(content: &[u8]) -> RawImage {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(content, 0).unwrap();
        RawImage::new(file, false, None).unwrap()
    }

    #[test]
    fn refuses_what_is_no_disk() {
        let file = tempfile::tempfile().unwrap();
        assert!(matches!(RawImage::new(file.try_clone().unwrap(), false, None), Err(RawError::Empty)));
        file.set_len(513).unwrap();
        assert!(matches!(RawImage::new(file, false, None), Err(RawError::Size(513))));
        let error = RawImage::new(File::open("/").unwrap(), true, None).unwrap_err();
        assert_eq!(error.to_string(), "image is a directory; a raw image file or a block device is needed");
        assert!(matches!(RawImage::new(File::open("/dev/null").unwrap(), true, None), Err(RawError::Kind(_))));
        let named = tempfile::NamedTempFile::new().unwrap();
        named.as_file().set_len(512).unwrap();
        let reader = File::open(named.path()).unwrap();
        assert!(matches!(RawImage::new(reader.try_clone().unwrap(), false, None), Err(RawError::NotWritable)));
        assert!(RawImage::new(reader, true, None).unwrap().readonly());
    }

    #[test]
    fn zeroes_and_frees_ranges() {
        let image = image(&vec![7; 256 << 10]);
        let before = image.file.metadata().unwrap().blocks();
        image.write_zeroes(512, 1024, false).unwrap();
        image.write_zeroes(64 << 10, 64 << 10, true).unwrap();
        image.discard(128 << 10, 128 << 10).unwrap();
        write_zeros(&image.file, 0, 512).unwrap();
        image.flush().unwrap();
        let mut bytes = vec![1; 256 << 10];
        image.file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes[..1536].iter().all(|b| *b == 0));
        assert_eq!(bytes[1536], 7);
        assert!(bytes[64 << 10..128 << 10].iter().all(|b| *b == 0));
        assert!(image.file.metadata().unwrap().blocks() < before, "space is given back");
        assert_eq!(image.file.metadata().unwrap().len(), 256 << 10);
    }

    /// Where the file system has no direct I/O (tmpfs before Linux 6.6), the page cache serves.
    #[test]
    fn goes_around_the_page_cache_where_blocks_are_large_enough() {
        let folder = std::env::var_os("CARGO_TARGET_TMPDIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let file = || {
            let file = tempfile::tempfile_in(&folder).unwrap();
            file.write_all_at(&vec![7; 64 << 10], 0).unwrap();
            file
        };
        let flags = |file: &File| OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL).unwrap());
        for block in [512, 4096] {
            let file = file();
            let image = RawImage::new(file.try_clone().unwrap(), false, Some(block)).unwrap();
            assert_eq!(image.is_direct(), flags(&file).contains(OFlag::O_DIRECT), "{block}");
            let disk = crate::disk::testing::Disk::new(std::sync::Arc::new(image));
            // The buffers of this one are cut at 512 bytes, which not every file system takes.
            disk.write(4096, &[9; 8192]).unwrap();
            assert_eq!(disk.read(0, 64 << 10).unwrap()[4095..12289], [&[7][..], &[9; 8192], &[7]].concat());
            disk.image.write_zeroes(4096, 4096, false).unwrap();
            assert_eq!(disk.read(4096, 4096).unwrap(), [0; 4096]);
        }
        assert!(!RawImage::new(file(), false, None).unwrap().is_direct());
    }
}
