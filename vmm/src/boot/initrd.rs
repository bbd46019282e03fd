//! Where the initial RAM disk goes: as high as it may, so that the kernel can grow above its image.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use super::{Error, copy_to_ram};
use crate::memory::GuestRam;

const PAGE: u64 = 4096;

/// Its place in RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Initrd {
    pub start: u64,
    pub size: u64,
}

/// Copies the file to the last pages below `limit`, above `kernel_end`.
pub(super) fn load(file: &File, ram: &GuestRam, kernel_end: u64, limit: u64) -> Result<Initrd, Error> {
    let size = file_size(file, "initrd")?;
    if size == 0 {
        return Err(Error::InitrdEmpty);
    }
    let too_big = Error::InitrdTooBig { size, kernel_end, limit };
    let Some(start) = limit.checked_sub(size).map(|s| s / PAGE * PAGE).filter(|s| *s >= kernel_end) else {
        return Err(too_big);
    };
    copy_to_ram(file, "initrd", (0, size), ram, start)?;
    Ok(Initrd { start, size })
}

/// A seek tells the size of block devices too.
pub(super) fn file_size(mut file: &File, what: &'static str) -> Result<u64, Error> {
    file.seek(SeekFrom::End(0)).map_err(|source| Error::Read { what, offset: 0, len: 0, source })
}
