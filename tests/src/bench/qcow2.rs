//! A qcow2 image whose clusters are all there, in order: what a disk becomes after it was filled once
//! (QEMU, docs/interop/qcow2.txt, version 3).

use std::{fs::File, io, os::unix::fs::FileExt as _};

/// log2 of the bytes of a cluster; QEMU's default.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Clusters before the data: header, refcount table, refcount block, L1 table, L2 table.
const DATA: u64 = 5;
/// Size of the disk: what one L2 table maps at most is 512 MiB.
pub const SIZE: u64 = 128 << 20;
/// The cluster has no other owner (`QCOW_OFLAG_COPIED`).
const COPIED: u64 = 1 << 63;

/// Writes the image to an empty file; `content` fills every cluster.
pub fn write(file: &File, content: &[u8]) -> io::Result<()> {
    let clusters = SIZE / CLUSTER;
    let mut header = b"QFI\xfb".to_vec();
    let word = |header: &mut Vec<u8>, value: u32| header.extend(value.to_be_bytes());
    word(&mut header, 3);
    header.extend([0; 12]); // no backing file
    word(&mut header, CLUSTER_BITS);
    header.extend(SIZE.to_be_bytes());
    word(&mut header, 0); // not encrypted
    word(&mut header, 1); // entries of the L1 table
    header.extend((3 * CLUSTER).to_be_bytes());
    header.extend(CLUSTER.to_be_bytes()); // the refcount table
    word(&mut header, 1); // its clusters
    header.extend([0; 12]); // no snapshots
    header.extend([0; 24]); // no features
    word(&mut header, 4); // log2 of the bits of a refcount
    word(&mut header, 104); // bytes of the header
    file.write_all_at(&header, 0)?;
    file.write_all_at(&(2 * CLUSTER).to_be_bytes(), CLUSTER)?;
    let counts: Vec<u8> = (0..DATA + clusters).flat_map(|_| 1_u16.to_be_bytes()).collect();
    file.write_all_at(&counts, 2 * CLUSTER)?;
    file.write_all_at(&((4 * CLUSTER) | COPIED).to_be_bytes(), 3 * CLUSTER)?;
    let map: Vec<u8> =
        (0..clusters).flat_map(|cluster| (((DATA + cluster) * CLUSTER) | COPIED).to_be_bytes()).collect();
    file.write_all_at(&map, 4 * CLUSTER)?;
    let content: Vec<u8> = content.iter().copied().cycle().take(1 << CLUSTER_BITS).collect();
    for cluster in 0..clusters {
        file.write_all_at(&content, (DATA + cluster) * CLUSTER)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    #[test]
    fn qemu_finds_nothing_wrong_with_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        super::write(file.as_file(), b"vireo").unwrap();
        let output = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(file.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("No errors"), "{text}{output:?}");
        assert!(text.contains("2048/2048 = 100.00% allocated"), "{text}");
    }
}
