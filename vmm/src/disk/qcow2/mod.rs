//! qcow2 images, and overlays over images that nobody may write to.
//!
//! The library imago keeps the tables: which cluster of the disk is where. Guest data goes past it, straight between the
//! file and the guest's memory; past the page cache, too, as then everything does, where that is wanted and can be.
//! An image is judged first ([`header`], [`tables`]); it stands alone: one that names a backing or data file is refused, so that no text in an image ever leads to a file. The only image with another one
//! below it is an overlay, which is made here, in an empty file, over a base that came with the machine.
//!
//! Locks: `gate` is held shared by everything that uses a mapping, and alone by what takes mappings away, or tables
//! ([`budget`]).

mod budget;
mod header;
mod storage;
mod tables;
#[cfg(test)]
mod tests;
mod zstd;

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use imago::format::builder::{FormatCreateBuilder, FormatDriverBuilder};
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, Mapping, StorageExt};
use nix::fcntl::FallocateFlags;

use self::budget::Budget;
use self::header::{Compression, Header};
use self::storage::Storage;
use self::zstd::ZstdLayer;
use super::{Access, Hold, Image, Place, SECTOR, raw};
use crate::memory::guest_buffers::GuestBuffers;

pub use header::is_qcow2;

/// Clusters of overlays, bytes: what is copied up at least where the guest writes.
const OVERLAY_CLUSTER: usize = 64 << 10;
/// Where the features that a writer has to clear stand in the header.
const AUTOCLEAR: u64 = 88;

/// Why an image can't be used.
#[derive(Debug, thiserror::Error)]
pub enum QcowError {
    /// It doesn't start as one.
    #[error("is no qcow2 image")]
    NotQcow2,
    /// Part of it is missing.
    #[error("is truncated: {what} reaches to byte {end}, the file has {file_size}")]
    Truncated {
        /// Which part.
        what: &'static str,
        /// Where it ends.
        end: u64,
        /// What there is.
        file_size: u64,
    },
    /// It ends too early.
    #[error("is truncated: the file ends within {0}")]
    Short(&'static str),
    /// A version that is not 2 or 3.
    #[error("qcow2 version {0} is not known; 2 and 3 are")]
    Version(u32),
    /// It is encrypted.
    #[error("is encrypted; qemu-img convert makes one that is not")]
    Encrypted,
    /// It stands on another image.
    #[error("backing file {0:?} refused: images may not name host paths; qemu-img convert makes one that stands alone")]
    BackingFile(String),
    /// Its data is elsewhere.
    #[error("data file {0:?} refused: images may not name host paths; qemu-img convert makes one that stands alone")]
    DataFile(String),
    /// Whoever wrote it last gave up on it, or on its refcounts.
    #[error("is marked as {0}; qemu-img check -r all repairs it")]
    Marked(&'static str),
    /// It needs something that isn't served.
    #[error("needs {0}, which is not supported by vireo; qemu-img convert makes one without")]
    Feature(String),
    /// A number that makes no sense.
    #[error("is no sound qcow2 image: {what} {value}")]
    Invalid {
        /// Of what.
        what: &'static str,
        /// The number.
        value: u64,
    },
    /// A table or cluster where none can be.
    #[error("is corrupt: {what} at byte {offset}")]
    Misplaced {
        /// Which one.
        what: &'static str,
        /// Where.
        offset: u64,
    },
    /// Something in the place of something else.
    #[error("is corrupt: {what} overlaps something else at byte {offset}")]
    Overlap {
        /// Which one.
        what: &'static str,
        /// Where.
        offset: u64,
    },
    /// It has zstd clusters and internal snapshots, and is to be written: a table that a snapshot shares is moved when it is
    /// written to, while it is looked into for where clusters are.
    #[error(
        "has zstd clusters and internal snapshots, which can't be written together; qemu-img snapshot -d deletes snapshots"
    )]
    ZstdSnapshots,
    /// It can't be read.
    #[error("can't be read")]
    Io(#[source] io::Error),
}

impl QcowError {
    /// For reads of something that the file may be too short for.
    fn short(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Short(what),
            _ => Self::Io(error),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct QcowImage {
    access: FormatAccess<Storage>,
    size: u64,
    readonly: bool,
    gate: RwLock<()>,
    /// The page cache is gone around.
    direct: Option<Direct>,
    /// Of each file with tables: the image's own, and that of the image below it.
    budgets: Vec<Budget>,
    /// What is written over compressed clusters has to be unpacked before, as the library can't.
    unpacks: bool,
    /// Held by who reads compressed clusters or unpacks them for good.
    unpacked: Mutex<Unpacked>,
}

/// How to go around the page cache.
#[derive(Debug)]
struct Direct {
    /// What memory, offsets and lengths have to be multiples of, bytes.
    align: usize,
    /// To be set before a write in place is answered, see [`Storage::dirty`].
    dirty: Arc<AtomicBool>,
}

/// The compressed cluster that was read last: guests read them in smaller parts. A cluster that is compressed never
/// changes; once written to it isn't compressed any more, and not to be looked for here.
#[derive(Debug)]
struct Unpacked {
    /// Bytes of a cluster of the image that has compressed ones.
    cluster: u64,
    /// Where on the disk `bytes` start.
    offset: Option<u64>,
    bytes: Vec<u8>,
}

impl Unpacked {
    /// Makes `bytes` the cluster at `start` of `layer`.
    fn load(&mut self, layer: &FormatAccess<Storage>, start: u64) -> io::Result<()> {
        if self.offset != Some(start) {
            self.offset = None;
            self.bytes.resize(to_usize(self.cluster.min(layer.size() - start))?, 0);
            layer.read(&mut self.bytes[..], start)?;
            self.offset = Some(start);
        }
        Ok(())
    }
}

impl QcowImage {
    /// Opens an image. It is locked, and `file` open for writing unless `readonly`. With `direct`, the size of the blocks that it will
    /// be read and written in, the host's page cache is gone around if that can be.
    pub fn open(file: File, readonly: bool, direct: Option<u32>) -> Result<Self, QcowError> {
        let own = if readonly { None } else { Some(file.try_clone().map_err(QcowError::Io)?) };
        let Layer { access, header, direct } = open_layer(file, readonly, direct)?;
        let budgets = vec![Budget::new(&header, own)];
        let image = Self::new(access, header.size, readonly, header.cluster_size(), budgets);
        Ok(Self { unpacks: header.compression == Compression::Zstd && !readonly, direct, ..image })
    }

    /// Whether the page cache is gone around.
    #[cfg(test)]
    pub(super) fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Whether memory is where the file takes it from.
    fn is_aligned(&self, buffers: &GuestBuffers) -> bool {
        self.direct.as_ref().is_none_or(|direct| buffers.is_aligned(direct.align))
    }

    /// Makes an overlay in `scratch`, an empty file (or takes up the one that it made there before), over the image in
    /// `base`, which is raw unless `is_qcow2`. What is written to it is not meant to outlive the machine.
    pub fn overlay(mut scratch: File, mut base: File, is_qcow2: bool) -> Result<Self, QcowError> {
        let (base, size, cluster, below) = if is_qcow2 {
            let Layer { access, header, .. } = open_layer(base, true, None)?;
            (access, header.size, header.cluster_size(), Some(Budget::new(&header, None)))
        } else {
            // Also tells the size of block devices, whose metadata doesn't.
            let size = base.seek(SeekFrom::End(0)).map_err(QcowError::Io)?;
            if size == 0 || !size.is_multiple_of(SECTOR) {
                return Err(QcowError::Invalid { what: "size of the raw image below", value: size });
            }
            let raw = Raw::open_image(Storage::new(base, false), false).map_err(QcowError::Io)?;
            (FormatAccess::new(raw), size, OVERLAY_CLUSTER as u64, None)
        };
        let storage = |file: &File| Ok(Storage::new(file.try_clone()?, false));
        if scratch.seek(SeekFrom::End(0)).map_err(QcowError::Io)? == 0 {
            let create = Qcow2::<Storage>::create_builder(storage(&scratch).map_err(QcowError::Io)?);
            create.size(size).cluster_size(OVERLAY_CLUSTER).create().map_err(QcowError::Io)?;
        }
        let top = Qcow2::<Storage>::builder(storage(&scratch).map_err(QcowError::Io)?).write(true);
        let top_size = scratch.seek(SeekFrom::End(0)).map_err(QcowError::Io)?;
        let header = Header::read(&scratch, top_size, true)?;
        let budgets = [Budget::new(&header, Some(scratch))].into_iter().chain(below).collect();
        let top = top.backing(Some(base)).data_file(None).open(DenyImplicitOpenGate::default());
        Ok(Self::new(FormatAccess::new(top.map_err(QcowError::Io)?), size, false, cluster, budgets))
    }

    fn new(access: FormatAccess<Storage>, size: u64, readonly: bool, cluster: u64, budgets: Vec<Budget>) -> Self {
        let unpacked = Mutex::new(Unpacked { cluster, offset: None, bytes: Vec::new() });
        Self { access, size, readonly, gate: RwLock::default(), direct: None, budgets, unpacks: false, unpacked }
    }

    /// The tables for a range are about to be used.
    fn touch(&self, offset: u64, len: u64) {
        self.budgets.iter().for_each(|budget| budget.touch(offset, len));
    }

    /// Has the library forget its tables, if they take too much. Only with the gate held alone.
    fn forget_tables(&self) {
        if !self.wants_release() {
            return;
        }
        // SAFETY: all that was changed has been written, and nobody changes or uses anything meanwhile: the gate is ours.
        let done = self.access.flush().and_then(|()| unsafe { self.access.invalidate_cache() });
        if let Err(error) = done {
            // What couldn't be written is still there. Tried again after as many tables more.
            eprintln!("qcow2: the tables can't be written: {error}");
        }
        self.budgets.iter().for_each(Budget::reset);
    }

    /// Reads `len` bytes at `offset` of `layer`, which are compressed there, into the first `buffers`. How many it were: it
    /// ends early where they are no longer compressed.
    fn read_packed(
        &self,
        layer: &FormatAccess<Storage>,
        mut offset: u64,
        len: u64,
        buffers: &mut GuestBuffers,
    ) -> io::Result<u64> {
        let mut unpacked = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, end) = (offset, offset + len);
        while offset < end {
            let start = offset - offset % unpacked.cluster;
            if self.unpacks && !self.is_packed(start)? {
                break;
            }
            unpacked.load(layer, start)?;
            let part = (start + unpacked.cluster).min(end) - offset;
            let from = to_usize(offset - start)?;
            buffers.fill_front(&unpacked.bytes[from..from + to_usize(part)?]);
            offset += part;
        }
        Ok(offset - first)
    }

    fn is_packed(&self, offset: u64) -> io::Result<bool> {
        Ok(matches!(self.access.get_mapping(offset, 1)?.0, Mapping::Special { .. }))
    }

    /// Puts clusters of a range that are compressed in the library's stead into clusters of their own.
    fn unpack(&self, offset: u64, len: u64) -> io::Result<()> {
        if !self.unpacks {
            return Ok(());
        }
        let mut unpacked = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        let (cluster, end) = (unpacked.cluster, offset + len);
        let mut start = offset - offset % cluster;
        while start < end {
            if self.is_packed(start)? {
                unpacked.load(&self.access, start)?;
                // A whole one: nothing of what was there is looked at.
                let mapping = self.access.prepare_data_mapping(start, cluster, true)?;
                if mapping.length() != cluster {
                    return Err(io::Error::other("a cluster is in two places"));
                }
                mapping.storage().write_data(&unpacked.bytes, mapping.offset())?;
                self.access.commit_data_mapping(mapping)?;
            }
            start += cluster;
        }
        Ok(())
    }

    /// The places in the file of those whole clusters of a range that the image has alone: what can be given back once
    /// the range is mapped to nothing.
    fn owned(&self, mut offset: u64, len: u64) -> io::Result<Vec<(BorrowedFd<'_>, u64, u64)>> {
        let mut places = Vec::new();
        let end = offset + len;
        while offset < end {
            let (mapping, len) = self.access.get_mapping(offset, end - offset)?;
            if let Mapping::Raw { storage, offset: at, writable: true, .. } = mapping {
                places.push((storage.file(), at, len));
            }
            offset += len.max(1);
        }
        Ok(places)
    }

    /// Takes the mappings of a range's whole clusters away and gives their space back; the rest of the range stays as it
    /// is, or is written with zeros if it has to read as such.
    fn unmap(&self, offset: u64, len: u64, zero: bool) -> io::Result<()> {
        let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.forget_tables();
        self.touch(offset, len);
        let cluster = self.access.inner().zero_granularity().unwrap_or(OVERLAY_CLUSTER as u64);
        let end = offset + len;
        let first = offset.next_multiple_of(cluster).min(end);
        // What the last cluster has past the disk's end is nobody's.
        let last = if end == self.size { self.access.size() } else { (end - end % cluster).max(first) };
        if zero {
            self.write_zeros(offset, first - offset)?;
            self.write_zeros(last.min(end), end - last.min(end))?;
        }
        // One level-2 table at a time: making one may take clusters that were given back before it.
        let span = cluster * (cluster / 8);
        let mut at = first;
        while at < last {
            let stop = ((at / span + 1) * span).min(last);
            self.unmap_clusters(at, stop - at, zero)?;
            at = stop;
        }
        Ok(())
    }

    fn unmap_clusters(&self, mut offset: u64, len: u64, zero: bool) -> io::Result<()> {
        let end = offset + len;
        let owned = self.owned(offset, len)?;
        while offset < end {
            // SAFETY: nobody holds a mapping: whoever does holds the gate.
            match unsafe { self.access.inner().discard_to_zero_unsafe(offset, end - offset) } {
                Ok((start, len)) if len > 0 => offset = start + len,
                // Version 2 knows no zeros but written ones.
                Err(error) if error.kind() != io::ErrorKind::Unsupported => return Err(error),
                _ => return if zero { self.write_zeros(offset, end - offset) } else { Ok(()) },
            }
        }
        for (file, at, len) in owned {
            // The clusters belong to nobody now. That a host can't punch holes costs space alone.
            let _ = raw::fallocate(file, FallocateFlags::FALLOC_FL_PUNCH_HOLE, at, len);
        }
        Ok(())
    }

    /// Writes zeros to what doesn't read as such.
    fn write_zeros(&self, mut offset: u64, len: u64) -> io::Result<()> {
        self.unpack(offset, len)?;
        let end = offset + len;
        while offset < end {
            let (mapping, mut len) = self.access.get_mapping(offset, end - offset)?;
            if !matches!(mapping, Mapping::Zero { .. }) {
                let mapping = self.access.prepare_data_mapping(offset, len, true)?;
                len = mapping.length();
                mapping.storage().write_zeros(mapping.offset(), len)?;
                self.access.commit_data_mapping(mapping)?;
            }
            offset += len.max(1);
        }
        Ok(())
    }
}

fn to_usize(value: u64) -> io::Result<usize> {
    usize::try_from(value).map_err(io::Error::other)
}

/// An image without anything below it.
struct Layer {
    access: FormatAccess<Storage>,
    header: Header,
    direct: Option<Direct>,
}

/// Judges an image and opens it; `direct` as for [`QcowImage::open`].
fn open_layer(mut file: File, readonly: bool, direct: Option<u32>) -> Result<Layer, QcowError> {
    let size = file.seek(SeekFrom::End(0)).map_err(QcowError::Io)?;
    let header = Header::read(&file, size, !readonly)?;
    if header.compression == Compression::Zstd && header.snapshots > 0 && !readonly {
        return Err(QcowError::ZstdSnapshots);
    }
    tables::check(&file, &header, !readonly)?;
    if header.autoclear != 0 && header.version == 3 && !readonly {
        // Bitmaps and the like that nobody keeps from now on (docs/interop/qcow2.txt, autoclear features).
        file.write_all_at(&[0; 8], AUTOCLEAR).map_err(QcowError::Io)?;
    }
    // From here on for every clone of the descriptor. Clusters have to be whole blocks, so that no two of them share one.
    let align = direct.and_then(|block| raw::go_direct(&file, block, header.cluster_size().min(size)));
    let storage = |file| Storage::new(file, !readonly).with_header(header.sanitized()).with_align(align.unwrap_or(1));
    let again = file.try_clone().map_err(QcowError::Io)?;
    let first = storage(file);
    let direct = align.map(|align| Direct { align, dirty: first.dirty() });
    let builder = Qcow2::<Storage>::builder(first).write(!readonly).backing(None).data_file(None);
    let inner = builder.open(DenyImplicitOpenGate::default()).map_err(QcowError::Io)?;
    let access = match header.compression {
        Compression::Zlib => FormatAccess::new(inner),
        Compression::Zstd => FormatAccess::new(ZstdLayer::new(inner, storage(again), &header)),
    };
    Ok(Layer { access, header, direct })
}

impl Image for QcowImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn readonly(&self) -> bool {
        self.readonly
    }

    fn has_places(&self) -> bool {
        true
    }

    fn wants_release(&self) -> bool {
        self.budgets.iter().any(Budget::is_spent)
    }

    fn hold(&self) -> Hold<'_> {
        if self.wants_release() {
            let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
            self.forget_tables();
        }
        Some(self.gate.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn in_place(&self, buffers: &GuestBuffers, offset: u64, access: Access) -> Option<Place<'_>> {
        // The page cache takes a write at once.
        if access == Access::Write && self.direct.is_none() || !self.is_aligned(buffers) {
            return None;
        }
        let wanted = buffers.len() as u64;
        self.touch(offset, wanted);
        match self.access.get_mapping(offset, wanted).ok()? {
            // What is written to has to be the image's alone: no snapshot's, and not below an overlay.
            (Mapping::Raw { storage, offset, writable, .. }, len)
                if len == wanted && (writable || access == Access::Read) =>
            {
                Some(Place { file: storage.file(), offset })
            }
            _ => None,
        }
    }

    fn written_in_place(&self) {
        if let Some(direct) = &self.direct {
            direct.dirty.store(true, Ordering::Release);
        }
    }

    fn read(&self, buffers: &mut GuestBuffers, mut offset: u64) -> io::Result<()> {
        self.touch(offset, buffers.len() as u64);
        let aligned = self.is_aligned(buffers);
        while !buffers.is_empty() {
            let (mapping, mut len) = self.access.get_mapping(offset, buffers.len() as u64)?;
            match mapping {
                Mapping::Raw { storage, offset: at, .. } if aligned => {
                    buffers.read_front(storage.file(), at, to_usize(len)?)?;
                }
                Mapping::Raw { storage, offset: at, .. } => {
                    let mut bytes = vec![0; to_usize(len)?.min(raw::CHUNK)];
                    storage.read(&mut bytes[..], at)?;
                    buffers.fill_front(&bytes);
                    len = bytes.len() as u64;
                }
                Mapping::Zero { .. } => buffers.zero_front(to_usize(len)?),
                Mapping::Special { layer, offset: at, .. } => len = self.read_packed(layer, at, len, buffers)?,
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
            offset += len;
        }
        Ok(())
    }

    fn write(&self, buffers: &mut GuestBuffers, mut offset: u64) -> io::Result<()> {
        self.touch(offset, buffers.len() as u64);
        self.unpack(offset, buffers.len() as u64)?;
        let aligned = self.is_aligned(buffers);
        while !buffers.is_empty() {
            let wanted = if aligned { buffers.len() } else { buffers.len().min(raw::CHUNK) };
            let mapping = self.access.prepare_data_mapping(offset, wanted as u64, true)?;
            let len = mapping.length();
            let storage = mapping.storage();
            if aligned {
                buffers.write_front(storage.file(), mapping.offset(), to_usize(len)?)?;
                // Before the mapping is: once that is flushed, the data has been.
                storage.written();
            } else {
                let mut bytes = vec![0; to_usize(len)?];
                buffers.take_front(&mut bytes);
                storage.write_data(&bytes, mapping.offset())?;
            }
            self.access.commit_data_mapping(mapping)?;
            offset += len;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.access.flush()?;
        self.access.sync()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.unmap(offset, len, false)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        if unmap {
            return self.unmap(offset, len, true);
        }
        // Alone, as clusters that are compressed go away.
        let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.forget_tables();
        self.touch(offset, len);
        let (mut offset, end) = (offset, offset + len);
        while offset < end {
            let (start, len) = match self.access.inner().ensure_zero_mapping(offset, end - offset) {
                Ok((start, len)) if len > 0 => (start, len),
                Err(error) if error.kind() != io::ErrorKind::Unsupported => return Err(error),
                _ => (end, 0),
            };
            self.write_zeros(offset, start - offset)?;
            offset = start + len;
        }
        Ok(())
    }
}
