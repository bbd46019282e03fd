//! The blocks that a volume is made of, for guests that want to see the same.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Logical blocks that a machine can show, bytes.
const LOGICAL: std::ops::RangeInclusive<u32> = 512..=4096;

/// Logical and physical block size of an open image, bytes: a device's own, or the block of the file system that a file is
/// in, as far as a machine can show them.
pub fn block_sizes(image: &File) -> io::Result<(u32, u32)> {
    let metadata = image.metadata()?;
    let (logical, physical) = if metadata.file_type().is_block_device() {
        let device = metadata.rdev();
        let queue = format!("/sys/dev/block/{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
        (limit(&queue, "logical_block_size")?, limit(&queue, "physical_block_size")?)
    } else {
        let block = u32::try_from(metadata.blksize()).unwrap_or(u32::MAX);
        (block, block)
    };
    let logical = logical.clamp(*LOGICAL.start(), *LOGICAL.end());
    Ok((logical, physical.clamp(logical, 2 << 20)))
}

/// A limit of a device's queue; a partition's is that of its disk.
fn limit(device: &str, name: &str) -> io::Result<u32> {
    let read = fs::read_to_string(format!("{device}/queue/{name}"));
    let text = read.or_else(|_| fs::read_to_string(format!("{device}/../queue/{name}")))?;
    text.trim().parse().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_blocks_are_its_file_systems() {
        let (logical, physical) = block_sizes(&tempfile::tempfile().unwrap()).unwrap();
        assert!(LOGICAL.contains(&logical) && logical <= physical, "{logical} {physical}");
    }
}
