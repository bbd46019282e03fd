//! Disks: as asked for, as checked, and the check between the two.

use std::collections::HashMap;
use std::fs::File;

use serde::{Deserialize, Serialize};

use super::FdIndex;
use super::check::{ConfigError, MAX_NAME, Problem, SERIAL_LEN, at, check_name, wrong};
use super::files::{self, Files};

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
}

impl DiskConfig {
    /// A writable disk on a raw image, with nothing special about it.
    pub fn new(name: impl Into<String>, image: FdIndex) -> Self {
        let (name, format) = (name.into(), ImageFormat::Raw);
        Self { name, image, format, overlay: None, readonly: false, shareable: false, serial: None }
    }
}

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
}

impl DiskPlan {
    /// A writable disk on a raw image, with nothing special about it.
    pub fn new(name: impl Into<String>, image: File) -> Self {
        let (name, format) = (name.into(), ImageFormat::Raw);
        Self { name, image, format, overlay: None, readonly: false, shareable: false, serial: None }
    }
}

pub(super) fn check_disks(disks: Vec<DiskConfig>, files: &mut Files) -> Result<Vec<DiskPlan>, ConfigError> {
    let mut plans: Vec<DiskPlan> = Vec::with_capacity(disks.len());
    let mut seen = HashMap::new();
    for (i, disk) in disks.into_iter().enumerate() {
        let DiskConfig { name, image, format, overlay, readonly, shareable, serial } = disk;
        check_name(&format!("disks[{i}].name"), &name)?;
        let serial =
            serial.map(|s| check_serial(&s).map_err(|p| wrong(format!("disks[{i}].serial"), p))).transpose()?;
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
        plans.push(DiskPlan { name, image: image.file, format, overlay, readonly, shareable, serial });
    }
    Ok(plans)
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
