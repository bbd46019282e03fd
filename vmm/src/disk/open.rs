//! From open files to an image: lock, format, overlay.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::Image;
use super::lock::{self, LockError};
use super::qcow2::{self, QcowError, QcowImage};
use super::raw::{self, RawImage};
use crate::config::{CacheMode, DiskPlan, ImageFormat};

/// How to open an image.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Its format.
    pub format: ImageFormat,
    /// Whether the guest may only read.
    pub readonly: bool,
    /// Whether others may use it at the same time: it is not locked.
    pub shareable: bool,
    /// Go around the host's page cache where that can be.
    pub direct: bool,
    /// Logical blocks, bytes: what the disk is read and written in.
    pub block: u32,
}

impl From<&DiskPlan> for Options {
    fn from(plan: &DiskPlan) -> Self {
        let DiskPlan { format, readonly, shareable, .. } = *plan;
        let (direct, block) = (plan.cache == CacheMode::None, plan.block_size.logical);
        Self { format, readonly, shareable, direct, block }
    }
}

/// Why a file can't be a disk.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// It is no raw image.
    #[error(transparent)]
    Raw(#[from] raw::RawError),
    /// It is no qcow2 image to be used.
    #[error(transparent)]
    Qcow2(#[from] QcowError),
    /// It is of a format that isn't served.
    #[error("is a {0} image; raw and qcow2 are supported (qemu-img convert -O qcow2 makes one)")]
    Format(&'static str),
    /// It can't have several writers.
    #[error("a qcow2 image can't be shareable, as only one machine may write to it; a raw one can")]
    Shared,
    /// It doesn't end with a block.
    #[error("disk of {size} bytes is not a multiple of its block size, {block}")]
    Blocks {
        /// Bytes of the disk.
        size: u64,
        /// Bytes of a logical block.
        block: u32,
    },
    /// The host refused to say.
    #[error("image can't be examined")]
    Io(#[source] io::Error),
}

/// Opens the image in `file`. With `scratch`, an empty file or one that this made an overlay before, what the guest writes
/// goes there, and `file` is only read.
pub fn open(file: File, scratch: Option<File>, options: Options) -> Result<Arc<dyn Image>, OpenError> {
    let readonly = options.readonly || scratch.is_some();
    if !options.shareable {
        lock::lock(&file, readonly)?;
    }
    let is_qcow2 = match options.format {
        ImageFormat::Raw => false,
        ImageFormat::Qcow2 => true,
        ImageFormat::Detect => detect(&file)?,
    };
    // Each writer would keep tables of its own.
    if is_qcow2 && options.shareable && !readonly {
        return Err(OpenError::Shared);
    }
    let direct = options.direct.then_some(options.block);
    let image: Arc<dyn Image> = match scratch {
        Some(scratch) if !options.readonly => Arc::new(QcowImage::overlay(scratch, file, is_qcow2)?),
        _ if is_qcow2 => Arc::new(QcowImage::open(file, readonly, direct)?),
        _ => Arc::new(RawImage::new(file, readonly, direct)?),
    };
    if !image.size().is_multiple_of(options.block.into()) {
        return Err(OpenError::Blocks { size: image.size(), block: options.block });
    }
    Ok(image)
}

/// Whether an image is qcow2. Other formats that can be told by their start are refused, as a guest would see garbage.
fn detect(file: &File) -> Result<bool, OpenError> {
    if qcow2::is_qcow2(file).map_err(OpenError::Io)? {
        return Ok(true);
    }
    let mut start = [0; 68];
    let read = file.read_at(&mut start, 0).map_err(OpenError::Io)?;
    let known =
        [(0, &b"KDMV"[..], "VMDK"), (0, b"vhdxfile", "VHDX"), (0, b"QED\0", "QED"), (0, b"LUKS\xba\xbe", "LUKS")];
    let vdi = (64, &[0x7F, 0x10, 0xDA, 0xBE][..], "VDI");
    let found =
        known.into_iter().chain([vdi]).find(|(at, magic, _)| start[..read].get(*at..*at + magic.len()) == Some(*magic));
    found.map_or(Ok(false), |(_, _, format)| Err(OpenError::Format(format)))
}
