//! Disks: as asked for, as checked, and the check between the two.

use std::collections::HashMap;
use std::fs::File;

use serde::{Deserialize, Serialize};

use super::FdIndex;
use super::check::{ConfigError, MAX_NAME, Problem, SERIAL_LEN, at, check_name, wrong};
use super::files::{self, Files};
use super::rates::{RateLimit, check_limit};

/// A virtio-blk device on an image or block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskConfig {
    /// For messages: the volume's name.
    pub name: String,
    /// The image, opened for reading, and for writing unless it is `readonly` or there is an `overlay`.
    pub image: FdIndex,
    /// What the image is.
    pub format: ImageFormat,
    /// An empty file, opened for reading and writing, that takes what the guest writes: the image stays as it is.
    pub overlay: Option<FdIndex>,
    /// Offer it to the guest as read-only (VIRTIO_BLK_F_RO).
    pub readonly: bool,
    /// Others may use the image at the same time: it is not locked.
    pub shareable: bool,
    /// What the guest reads as the disk's serial (at most 20 bytes, virtio 1.3 §5.2.6).
    pub serial: Option<String>,
    /// What a completed write is worth.
    pub cache: CacheMode,
    /// Queues, each served by a thread of its own: 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// The units that the disk says it is read and written in.
    pub block_size: BlockSize,
    /// What becomes of requests that fail.
    pub on_error: ErrorPolicy,
    /// Many requests of a queue may be under way at once, where the host has io_uring.
    pub ring: bool,
    /// What all queues together may do.
    pub limit: RateLimit,
}

impl DiskConfig {
    /// A writable disk on a raw image, with nothing special about it.
    pub fn new(name: impl Into<String>, image: FdIndex) -> Self {
        Self {
            name: name.into(),
            image,
            format: ImageFormat::Raw,
            overlay: None,
            readonly: false,
            shareable: false,
            serial: None,
            cache: CacheMode::Writeback,
            queues: 1,
            block_size: BlockSize::default(),
            on_error: ErrorPolicy::Report,
            ring: true,
            limit: RateLimit::default(),
        }
    }
}

/// What a completed write is worth. In each mode a flush that is answered makes all writes before it outlive the host's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheMode {
    /// The host's page cache is gone around (O_DIRECT) where the image and what is below it can; else as `Writeback`.
    None,
    /// Every write outlives the host's power when it is answered, unless the driver asks for less.
    Writethrough,
    /// Writes may stay in the host's page cache until a flush.
    Writeback,
}

/// The units that a disk says it is read and written in, bytes: powers of two, `physical` not less than `logical`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockSize {
    /// The smallest that can be: 512 to 4096. The disk's size is a multiple of it.
    pub logical: u32,
    /// The smallest that is done well: up to 2 MiB.
    pub physical: u32,
}

impl Default for BlockSize {
    fn default() -> Self {
        Self { logical: 512, physical: 512 }
    }
}

/// What becomes of requests that fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorPolicy {
    /// The guest is told.
    Report,
    /// The guest is told that all is well.
    Ignore,
    /// The machine is paused; the request is tried again when it is resumed.
    Stop,
    /// As `Stop` if the host has no space left, else as `Report`.
    StopOnNoSpace,
}

/// The most queues of a disk.
pub const MAX_QUEUES: u16 = 32;

/// How an image says where the disk's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageFormat {
    /// The file's bytes are the disk's, whatever they look like.
    Raw,
    /// qcow2.
    Qcow2,
    /// What the content says, raw or qcow2. Only for images that no guest has ever written to: a guest can make its raw
    /// disk look like anything.
    Detect,
}

/// A virtio-blk device that may be built.
#[derive(Debug)]
pub struct DiskPlan {
    /// For messages: the volume's name.
    pub name: String,
    /// A regular file or a block device, not empty; opened for writing if and only if neither `readonly` nor under an
    /// `overlay`. Its content is not checked yet.
    pub image: File,
    /// What it is.
    pub format: ImageFormat,
    /// A regular file that was empty when checked, opened for reading and writing; only if not `readonly`.
    pub overlay: Option<File>,
    /// Offered as VIRTIO_BLK_F_RO.
    pub readonly: bool,
    /// Not locked.
    pub shareable: bool,
    /// Printable ASCII, filled up with zeroes (virtio 1.3 §5.2.6).
    pub serial: Option<[u8; 20]>,
    /// What a completed write is worth.
    pub cache: CacheMode,
    /// 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// In range; that the disk's size is a multiple of it is not checked yet.
    pub block_size: BlockSize,
    /// What becomes of requests that fail.
    pub on_error: ErrorPolicy,
    /// Many requests of a queue may be under way at once, where the host has io_uring.
    pub ring: bool,
    /// What all queues together may do, in bounds.
    pub limit: RateLimit,
}

impl DiskPlan {
    /// A writable disk on a raw image, with nothing special about it.
    pub fn new(name: impl Into<String>, image: File) -> Self {
        Self {
            name: name.into(),
            image,
            format: ImageFormat::Raw,
            overlay: None,
            readonly: false,
            shareable: false,
            serial: None,
            cache: CacheMode::Writeback,
            queues: 1,
            block_size: BlockSize::default(),
            on_error: ErrorPolicy::Report,
            ring: true,
            limit: RateLimit::default(),
        }
    }
}

pub(super) fn check_disks(disks: Vec<DiskConfig>, files: &mut Files) -> Result<Vec<DiskPlan>, ConfigError> {
    let mut plans: Vec<DiskPlan> = Vec::with_capacity(disks.len());
    let mut seen = HashMap::new();
    for (i, disk) in disks.into_iter().enumerate() {
        let DiskConfig { name, image, format, overlay, readonly, shareable, serial, .. } = disk;
        let DiskConfig { cache, queues, block_size, on_error, ring, limit, .. } = disk;
        check_name(&format!("disks[{i}].name"), &name)?;
        let serial =
            serial.map(|s| check_serial(&s).map_err(|p| wrong(format!("disks[{i}].serial"), p))).transpose()?;
        if !(1..=MAX_QUEUES).contains(&queues) {
            return Err(wrong(format!("disks[{i}].queues"), Problem::Queues(queues)));
        }
        check_block_size(block_size).map_err(|problem| wrong(format!("disks[{i}].block_size"), problem))?;
        check_limit(&format!("disks[{i}].limit"), limit)?;
        let path = format!("disks[{i}].image");
        let reads = readonly || overlay.is_some();
        let image = files.take(image).and_then(|f| files::disk(f, reads)).map_err(at(path.as_str()))?;
        if let Some((other, other_reads)) = seen.insert(image.identity, (i, reads))
            && !(reads && other_reads)
        {
            return Err(wrong(path, Problem::SharedImage(other)));
        }
        let path = format!("disks[{i}].overlay");
        if readonly && overlay.is_some() {
            return Err(wrong(path, Problem::OverlayOfReadOnly));
        }
        let overlay = overlay.map(|index| files.take(index).and_then(files::scratch).map_err(at(path))).transpose()?;
        let image = image.file;
        plans.push(DiskPlan {
            name,
            image,
            format,
            overlay,
            readonly,
            shareable,
            serial,
            cache,
            queues,
            block_size,
            on_error,
            ring,
            limit,
        });
    }
    Ok(plans)
}

fn check_block_size(BlockSize { logical, physical }: BlockSize) -> Result<(), Problem> {
    let good = logical.is_power_of_two() && physical.is_power_of_two();
    if good && (512..=4096).contains(&logical) && (logical..=2 << 20).contains(&physical) {
        return Ok(());
    }
    Err(Problem::BlockSize { logical, physical })
}

fn check_serial(serial: &str) -> Result<[u8; SERIAL_LEN], Problem> {
    let mut bytes = [0; SERIAL_LEN];
    let printable = serial.bytes().all(|b| (b' '..=b'~').contains(&b));
    match bytes.get_mut(..serial.len()) {
        Some(head) if printable => head.copy_from_slice(serial.as_bytes()),
        _ => return Err(Problem::Serial(serial.chars().take(MAX_NAME).collect())),
    }
    Ok(bytes)
}
