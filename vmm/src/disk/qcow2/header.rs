//! The header of a qcow2 image (QEMU, docs/interop/qcow2.txt), read strictly: what comes out names no other file, fits the
//! image, and is all that the library is ever shown of it ([`Header::sanitized`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::QcowError as Error;

/// How every qcow2 image starts.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Bytes of a version 2 header, of a version 3 header without extensions, and of that with an empty list of them.
const V2_LENGTH: usize = 72;
const V3_LENGTH: usize = 104;
pub(super) const SANITIZED_LENGTH: usize = 112;
/// Cluster sizes, as powers of two: the format's least and QEMU's most.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// The longest L1 and refcount tables, bytes: an image of 256 TiB with clusters of 64 KiB has as much.
const MAX_TABLE: u64 = 4 << 20;
/// Extensions that name files, by their type.
const BACKING_FORMAT: u32 = 0xE279_2ACA;
const DATA_FILE: u32 = 0x4441_5441;

/// Incompatible features.
mod feature {
    pub const DIRTY: u64 = 1;
    pub const CORRUPT: u64 = 1 << 1;
    pub const DATA_FILE: u64 = 1 << 2;
    pub const COMPRESSION: u64 = 1 << 3;
    pub const EXTENDED_L2: u64 = 1 << 4;
    pub const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// How compressed clusters are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// A header that keeps inside its image. Offsets and sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The length of the file when it was read.
    pub file_size: u64,
    /// 2 or 3.
    pub version: u32,
    /// Size of a cluster, as a power of two.
    pub cluster_bits: u32,
    /// Size of the disk, whole sectors.
    pub size: u64,
    /// Where the level-1 table is: aligned, inside the file.
    pub l1_offset: u64,
    /// Its entries: as many as the disk needs, or more.
    pub l1_entries: u32,
    /// Where the refcount table is: aligned, inside the file.
    pub refcount_offset: u64,
    /// Its clusters.
    pub refcount_clusters: u32,
    /// Width of a refcount in bits, as a power of two.
    pub refcount_order: u32,
    /// Internal snapshots: kept, never shown.
    pub snapshots: u32,
    snapshots_offset: u64,
    /// Features that a writer who doesn't know them has to clear.
    pub autoclear: u64,
    /// How compressed clusters are.
    pub compression: Compression,
}

/// Whether a file starts as a qcow2 image does.
pub fn is_qcow2(file: &File) -> io::Result<bool> {
    let mut magic = [0; 4];
    Ok(file.read_at(&mut magic, 0)? == magic.len() && magic == MAGIC)
}

impl Header {
    /// Reads the header of `file`, of `file_size` bytes, to be written to or not.
    pub fn read(file: &File, file_size: u64, writable: bool) -> Result<Self, Error> {
        let mut raw = [0; SANITIZED_LENGTH];
        let there = usize::try_from(file_size).unwrap_or(usize::MAX).min(SANITIZED_LENGTH);
        file.read_exact_at(&mut raw[..there], 0).map_err(Error::Io)?;
        if raw[..4] != MAGIC {
            return Err(Error::NotQcow2);
        }
        if there < V2_LENGTH {
            return Err(Error::Truncated { what: "the header", end: V2_LENGTH as u64, file_size });
        }
        let version = be32(&raw, 4);
        let length = match version {
            2 => V2_LENGTH,
            3 => be32(&raw, 100) as usize,
            other => return Err(Error::Version(other)),
        };
        let cluster_bits = be32(&raw, 20);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(Error::Invalid { what: "cluster size", value: 1_u64.checked_shl(cluster_bits).unwrap_or(0) });
        }
        let cluster = 1_u64 << cluster_bits;
        if version == 3 && (length < V3_LENGTH || !length.is_multiple_of(8) || length as u64 > cluster) {
            return Err(Error::Invalid { what: "header length", value: length as u64 });
        }
        if (there as u64) < length.min(SANITIZED_LENGTH) as u64 {
            return Err(Error::Truncated { what: "the header", end: length as u64, file_size });
        }
        let features = if version == 3 { be64(&raw, 72) } else { 0 };
        let extensions = Extensions::read(file, length as u64, cluster, version)?;
        Self::refuse_dependencies(file, &raw, features, &extensions)?;
        let compression = check_features(features, raw[V3_LENGTH], length, writable)?;
        let header = Self {
            file_size,
            version,
            cluster_bits,
            size: be64(&raw, 24),
            l1_entries: be32(&raw, 36),
            l1_offset: be64(&raw, 40),
            refcount_offset: be64(&raw, 48),
            refcount_clusters: be32(&raw, 56),
            refcount_order: if version == 3 { be32(&raw, 96) } else { 4 },
            snapshots: be32(&raw, 60),
            snapshots_offset: be64(&raw, 64),
            autoclear: if version == 3 { be64(&raw, 88) } else { 0 },
            compression,
        };
        header.check_layout()?;
        Ok(header)
    }

    /// An image that stands on another file, or is encrypted.
    fn refuse_dependencies(
        file: &File,
        raw: &[u8; SANITIZED_LENGTH],
        features: u64,
        extensions: &Extensions,
    ) -> Result<(), Error> {
        let (backing_offset, backing_length) = (be64(raw, 8), be32(raw, 16));
        if backing_offset != 0 {
            return Err(Error::BackingFile(text(file, backing_offset, backing_length)));
        }
        if extensions.backing_format {
            return Err(Error::BackingFile(String::new()));
        }
        if features & feature::DATA_FILE != 0 || extensions.data_file.is_some() {
            return Err(Error::DataFile(extensions.data_file.clone().unwrap_or_default()));
        }
        if be32(raw, 32) != 0 {
            return Err(Error::Encrypted);
        }
        Ok(())
    }

    fn check_layout(&self) -> Result<(), Error> {
        let cluster = self.cluster_size();
        if self.size == 0 || !self.size.is_multiple_of(crate::disk::SECTOR) || self.size > i64::MAX.unsigned_abs() {
            return Err(Error::Invalid { what: "disk size", value: self.size });
        }
        if self.refcount_order > 6 {
            return Err(Error::Invalid { what: "refcount order", value: self.refcount_order.into() });
        }
        let l1_size = u64::from(self.l1_entries) * 8;
        if l1_size > MAX_TABLE || u64::from(self.l1_entries) < self.size.div_ceil(cluster << (self.cluster_bits - 3)) {
            return Err(Error::Invalid { what: "number of level-1 entries", value: self.l1_entries.into() });
        }
        let refcounts = u64::from(self.refcount_clusters) << self.cluster_bits;
        if refcounts == 0 || refcounts > MAX_TABLE.max(cluster) {
            return Err(Error::Invalid { what: "refcount table clusters", value: self.refcount_clusters.into() });
        }
        for (what, offset, len) in
            [("the level-1 table", self.l1_offset, l1_size), ("the refcount table", self.refcount_offset, refcounts)]
        {
            if offset == 0 || !offset.is_multiple_of(cluster) {
                return Err(Error::Misplaced { what, offset });
            }
            let end = offset.saturating_add(len);
            if end > self.file_size {
                return Err(Error::Truncated { what, end, file_size: self.file_size });
            }
        }
        Ok(())
    }

    /// Bytes of all clusters of the disk.
    pub fn whole_size(&self) -> u64 {
        self.size.next_multiple_of(self.cluster_size())
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The header as the library is to see it: without extensions, names, and features that are dealt with elsewhere, and
    /// with a disk of whole clusters, so that its last one can be written as a whole.
    pub fn sanitized(&self) -> [u8; SANITIZED_LENGTH] {
        let mut raw = [0; SANITIZED_LENGTH];
        let mut put = |at: usize, bytes: &[u8]| raw[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(4, &self.version.to_be_bytes());
        put(20, &self.cluster_bits.to_be_bytes());
        put(24, &self.whole_size().to_be_bytes());
        put(36, &self.l1_entries.to_be_bytes());
        put(40, &self.l1_offset.to_be_bytes());
        put(48, &self.refcount_offset.to_be_bytes());
        put(56, &self.refcount_clusters.to_be_bytes());
        put(60, &self.snapshots.to_be_bytes());
        put(64, &self.snapshots_offset.to_be_bytes());
        put(96, &self.refcount_order.to_be_bytes());
        put(100, &(u32::try_from(V3_LENGTH).unwrap_or(0)).to_be_bytes());
        raw
    }
}

/// Features that change what the tables mean, or say that they mean nothing.
fn check_features(features: u64, compression: u8, length: usize, writable: bool) -> Result<Compression, Error> {
    if features & feature::CORRUPT != 0 {
        return Err(Error::Marked("corrupt"));
    }
    // Only refcounts are wrong, which a reader doesn't look at.
    if features & feature::DIRTY != 0 && writable {
        return Err(Error::Marked("dirty"));
    }
    if features & feature::EXTENDED_L2 != 0 {
        return Err(Error::Feature("extended L2 entries".to_owned()));
    }
    let unknown = features & !feature::KNOWN;
    if unknown != 0 {
        return Err(Error::Feature(format!("incompatible feature {}", unknown.trailing_zeros())));
    }
    let kind = if length > V3_LENGTH { compression } else { 0 };
    match (features & feature::COMPRESSION != 0, kind) {
        (false, 0) => Ok(Compression::Zlib),
        (true, 1) => Ok(Compression::Zstd),
        (_, other) => Err(Error::Feature(format!("compression type {other}"))),
    }
}

/// What header extensions say of other files.
#[derive(Debug, Default)]
struct Extensions {
    backing_format: bool,
    data_file: Option<String>,
}

impl Extensions {
    /// Walks the list, which ends inside the first cluster.
    fn read(file: &File, mut at: u64, cluster: u64, version: u32) -> Result<Self, Error> {
        let mut found = Self::default();
        // In version 2 they name nothing that the header itself doesn't.
        if version == 2 {
            return Ok(found);
        }
        loop {
            let mut head = [0; 8];
            if at + 8 > cluster {
                return Err(Error::Invalid { what: "length of the header extensions", value: at });
            }
            file.read_exact_at(&mut head, at).map_err(Error::short("the header's extensions"))?;
            let (kind, length) = (be32(&head, 0), be32(&head, 4));
            match kind {
                0 => return Ok(found),
                BACKING_FORMAT => found.backing_format = true,
                DATA_FILE => found.data_file = Some(text(file, at + 8, length)),
                _ => {}
            }
            at += 8 + u64::from(length).next_multiple_of(8);
        }
    }
}

/// A name in the image, for a message: what can be read of it, cut to what names may have.
fn text(file: &File, offset: u64, length: u32) -> String {
    let mut bytes = [0; 1023];
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
    let read = file.read_at(&mut bytes[..length], offset).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}
