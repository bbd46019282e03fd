//! A look at an image's tables before it is used: what they name has to lie in the file, and nothing may be named twice.
//!
//! A bounded look: an image with more tables than [`MAX_SCAN`] is looked at in part. What it misses is met at run time, as
//! I/O errors: the library checks each table when it loads it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::QcowError as Error;
use super::header::Header;

/// Bytes of level-2 tables that are read at most: those of 256 GiB with clusters of 64 KiB.
const MAX_SCAN: u64 = 32 << 20;
/// Clusters that are kept book of at most: 4 TiB of 64 KiB, 8 MiB of book.
const MAX_BOOK: u64 = 1 << 26;
/// The offset in an entry of a level-1, level-2 or refcount table.
const OFFSET: u64 = 0x00FF_FFFF_FFFF_FE00;
/// Of a level-2 entry: the cluster is compressed.
const COMPRESSED: u64 = 1 << 62;

/// Checks the tables of the image in `file`; those of refcounts only if it is to be written.
pub fn check(file: &File, header: &Header, writable: bool) -> Result<(), Error> {
    let mut book = Book::new(header);
    book.claim("the header", 0, header.cluster_size())?;
    book.claim("the level-1 table", header.l1_offset, u64::from(header.l1_entries) * 8)?;
    let refcounts = u64::from(header.refcount_clusters) << header.cluster_bits;
    book.claim("the refcount table", header.refcount_offset, refcounts)?;
    if writable {
        let entries = read_table(file, header.refcount_offset, refcounts)?;
        check_refcounts(header, &entries, &mut book)?;
    }
    let l1 = read_table(file, header.l1_offset, u64::from(header.l1_entries) * 8)?;
    let tables = || l1.iter().map(|entry| entry & OFFSET).filter(|offset| *offset != 0);
    for offset in tables() {
        book.claim("a level-2 table", offset, header.cluster_size())?;
    }
    let scanned = usize::try_from(MAX_SCAN >> header.cluster_bits).unwrap_or(usize::MAX);
    for offset in tables().take(scanned) {
        for entry in read_table(file, offset, header.cluster_size())? {
            check_entry(header, entry, &mut book)?;
        }
    }
    Ok(())
}

/// A block of refcounts for clusters that the file doesn't have would only serve to be searched for ever.
fn check_refcounts(header: &Header, entries: &[u64], book: &mut Book) -> Result<(), Error> {
    let per_block = header.cluster_bits + 3 - header.refcount_order;
    let clusters = header.file_size.div_ceil(header.cluster_size());
    let needed = usize::try_from((clusters >> per_block) + 2).unwrap_or(usize::MAX);
    for (index, offset) in entries.iter().map(|entry| entry & OFFSET).enumerate().filter(|(_, offset)| *offset != 0) {
        if index >= needed {
            return Err(Error::Misplaced { what: "a refcount block past the file's end", offset });
        }
        book.claim("a refcount block", offset, header.cluster_size())?;
    }
    Ok(())
}

fn check_entry(header: &Header, entry: u64, book: &mut Book) -> Result<(), Error> {
    if entry & COMPRESSED != 0 {
        let bits = 62 - (header.cluster_bits - 8);
        let descriptor = entry & (COMPRESSED - 1);
        let offset = descriptor & ((1 << bits) - 1) & (OFFSET | 0x1FF);
        return book.pack(offset, ((descriptor >> bits) + 1) * 512 - offset % 512);
    }
    match entry & OFFSET {
        0 => Ok(()),
        offset => book.claim("data", offset, 1),
    }
}

fn read_table(file: &File, offset: u64, len: u64) -> Result<Vec<u64>, Error> {
    let len = usize::try_from(len).map_err(|_| Error::Io(io::ErrorKind::InvalidData.into()))?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).map_err(Error::short("a table"))?;
    let entry = |raw: &[u8]| raw.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    Ok(bytes.chunks_exact(8).map(entry).collect())
}

/// Which clusters of the file are whose.
struct Book {
    file_size: u64,
    cluster_bits: u32,
    /// A bit for each cluster that belongs to one thing alone; empty for files too large to keep book of.
    owned: Vec<u64>,
    /// A bit for each cluster with compressed data, which several may share.
    packed: Vec<u64>,
}

impl Book {
    fn new(header: &Header) -> Self {
        let clusters = header.file_size.div_ceil(header.cluster_size());
        let kept = if clusters > MAX_BOOK { 0 } else { clusters };
        let words = usize::try_from(kept.div_ceil(64)).unwrap_or(0);
        let (owned, packed) = (vec![0; words], vec![0; words]);
        Self { file_size: header.file_size, cluster_bits: header.cluster_bits, owned, packed }
    }

    /// `len` bytes at `offset` are `what`, and nothing else.
    fn claim(&mut self, what: &'static str, offset: u64, len: u64) -> Result<(), Error> {
        if offset & ((1 << self.cluster_bits) - 1) != 0 {
            return Err(Error::Misplaced { what, offset });
        }
        for cluster in self.clusters(what, offset, len)? {
            if get(&self.packed, cluster) || set(&mut self.owned, cluster) {
                return Err(Error::Overlap { what, offset: cluster << self.cluster_bits });
            }
        }
        Ok(())
    }

    /// `len` bytes at `offset` are compressed data.
    fn pack(&mut self, offset: u64, len: u64) -> Result<(), Error> {
        let what = "compressed data";
        // Its length is in whole sectors, of which the file need not have the last.
        let len = len.min(self.file_size.saturating_sub(offset)).max(1);
        for cluster in self.clusters(what, offset, len)? {
            if get(&self.owned, cluster) {
                return Err(Error::Overlap { what, offset });
            }
            set(&mut self.packed, cluster);
        }
        Ok(())
    }

    fn clusters(&self, what: &'static str, offset: u64, len: u64) -> Result<std::ops::RangeInclusive<u64>, Error> {
        let end = offset.saturating_add(len.max(1));
        // The file's last cluster may be short.
        if end > self.file_size {
            return Err(Error::Truncated { what, end, file_size: self.file_size });
        }
        Ok(offset >> self.cluster_bits..=(end - 1) >> self.cluster_bits)
    }
}

fn get(bits: &[u64], index: u64) -> bool {
    usize::try_from(index / 64).ok().and_then(|word| bits.get(word)).is_some_and(|word| word >> (index % 64) & 1 != 0)
}

/// Sets a bit that is kept; whether it was set before.
fn set(bits: &mut [u64], index: u64) -> bool {
    let Some(word) = usize::try_from(index / 64).ok().and_then(|word| bits.get_mut(word)) else { return false };
    let mask = 1 << (index % 64);
    let before = *word & mask != 0;
    *word |= mask;
    before
}
