//! Bounds the memory that tables of images take: the library keeps up to 128 level-2 tables and 32 blocks of refcounts of
//! each image, of one cluster each, however large that is.
//!
//! A table is counted when it is first touched; once there are more than an image's share, its caches are emptied
//! ([`super::QcowImage`]). All images of the process share one budget.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::header::Header;

/// Bytes that the tables of all images may take.
const TOTAL: u64 = 4 << 20;
/// Blocks of refcounts that the library keeps at most.
const MAX_REFCOUNT_BLOCKS: u64 = 32;

/// Images among which the budget is shared.
static IMAGES: AtomicUsize = AtomicUsize::new(0);

/// What the tables of one file take. One image, or one of the two that an overlay is made of.
#[derive(Debug)]
pub struct Budget {
    cluster: u64,
    /// Bytes of the disk that one level-2 table is for.
    span: u64,
    /// The file, if it is written to, and the bytes of it that one block of refcounts is for.
    counted: Option<(File, u64)>,
    /// A bit for each level-2 table that may be in memory.
    touched: Vec<AtomicU64>,
    /// How many that are.
    tables: AtomicU64,
    /// Blocks of refcounts that may be.
    blocks: AtomicU64,
}

impl Budget {
    /// For an image with this header, in `file` if it is written to.
    pub fn new(header: &Header, file: Option<File>) -> Self {
        let counted = (header.cluster_bits + 3).saturating_sub(header.refcount_order) + header.cluster_bits;
        Self::of(header.size, header.cluster_bits, file.map(|file| (file, 1 << counted)))
    }

    fn of(size: u64, cluster_bits: u32, counted: Option<(File, u64)>) -> Self {
        IMAGES.fetch_add(1, Ordering::Relaxed);
        let span = 1 << (2 * cluster_bits - 3);
        let words = usize::try_from(size.div_ceil(span).div_ceil(64)).unwrap_or(0);
        let touched = (0..words).map(|_| AtomicU64::new(0)).collect();
        let (tables, blocks) = (AtomicU64::new(0), AtomicU64::new(0));
        let budget = Self { cluster: 1 << cluster_bits, span, counted, touched, tables, blocks };
        budget.reset();
        budget
    }

    /// The tables for `len` bytes of the disk at `offset` are used.
    pub fn touch(&self, offset: u64, len: u64) {
        for table in offset / self.span..=(offset + len.max(1) - 1) / self.span {
            let Some(word) = usize::try_from(table / 64).ok().and_then(|word| self.touched.get(word)) else { return };
            let bit = 1 << (table % 64);
            if word.load(Ordering::Relaxed) & bit == 0 && word.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
                self.tables.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Whether the caches are to be emptied.
    pub fn is_spent(&self) -> bool {
        let tables = self.tables.load(Ordering::Relaxed);
        let images = u64::try_from(IMAGES.load(Ordering::Relaxed)).unwrap_or(u64::MAX).max(1);
        // Never with one table alone, which would only be read again.
        tables > 1 && (tables + self.blocks.load(Ordering::Relaxed)) * self.cluster > TOTAL / images
    }

    /// The caches are empty.
    pub fn reset(&self) {
        for word in &self.touched {
            word.store(0, Ordering::Relaxed);
        }
        self.tables.store(0, Ordering::Relaxed);
        let blocks = self.counted.as_ref().map_or(0, |(file, counted)| {
            // A block device's length is its end; nobody uses the position. A file that grows has one more block soon.
            let len = (&*file).seek(SeekFrom::End(0)).unwrap_or(u64::MAX);
            (len / counted + 2).min(MAX_REFCOUNT_BLOCKS)
        });
        self.blocks.store(blocks, Ordering::Relaxed);
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        IMAGES.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image with clusters of 64 KiB (a table for 512 MiB, a block of refcounts for 2 GiB) in a file of this size.
    fn budget(size: u64, file_size: u64) -> Budget {
        let file = tempfile::tempfile().unwrap();
        file.set_len(file_size).unwrap();
        Budget::of(size, 16, Some((file, 2 << 30)))
    }

    #[test]
    fn a_table_counts_once_until_the_caches_are_emptied() {
        let budget = budget(100 << 30, 10 << 30);
        for table in 0..57_u64 {
            assert!(!budget.is_spent(), "{table}");
            budget.touch(table << 29, 4096);
            budget.touch((table << 29) + 65536, 4096);
        }
        assert!(!budget.is_spent(), "57 tables and 7 blocks are 4 MiB");
        budget.touch((58 << 29) - 512, 1024);
        assert!(budget.is_spent());
        budget.reset();
        (0..26).for_each(|table| budget.touch(table << 29, 1));
        assert!(!budget.is_spent());
        let other = Budget::of(1 << 30, 16, None);
        assert!(budget.is_spent(), "the other has half");
        drop(other);
        assert!(!budget.is_spent());
    }

    #[test]
    fn nothing_past_the_disk_counts_and_one_table_may_always_be() {
        let budget = Budget::of(1 << 20, 21, None);
        budget.touch(0, 1 << 20);
        budget.touch(u64::MAX - 1, 1);
        assert!(!budget.is_spent());
    }
}
