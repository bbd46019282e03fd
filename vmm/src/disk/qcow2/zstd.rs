//! Clusters compressed with Zstandard, which the library doesn't know: a layer over its view of an image that finds and
//! unpacks them itself.
//!
//! It looks them up in the file, where the library's own tables may not have arrived yet. For a compressed cluster that makes no
//! difference: nobody makes new ones, so that the entry in the file is the one there always was. Whoever has the library
//! overwrite one unpacks it first, and lets nobody look at it meanwhile ([`super::QcowImage`]).

use std::fmt;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

use imago::format::drivers::{FormatDriverInstance, PreparedDataMapping};
use imago::format::{Format, PreallocateMode};
use imago::io_buffers::IoVectorMut;
use imago::qcow2::Qcow2;
use imago::{ShallowMapping, StorageExt};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::header::Header;
use super::storage::Storage;

/// The most that a frame may want to look back, bytes: no cluster is longer.
const MAX_WINDOW: u64 = 2 << 20;

/// See the module.
pub struct ZstdLayer {
    inner: Qcow2<Storage>,
    /// The image once more.
    storage: Storage,
    cluster_bits: u32,
    l1_offset: u64,
    decoder: Mutex<FrameDecoder>,
}

impl ZstdLayer {
    /// A layer over `inner`, which `header` is the header of; `storage` is the same file.
    pub fn new(inner: Qcow2<Storage>, storage: Storage, header: &Header) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW);
        let (cluster_bits, l1_offset) = (header.cluster_bits, header.l1_offset);
        Self { inner, storage, cluster_bits, l1_offset, decoder: Mutex::new(decoder) }
    }

    fn entry(&self, table: u64, index: u64) -> io::Result<u64> {
        let mut entry = [0; 8];
        self.storage.read(&mut entry[..], table + index * 8)?;
        Ok(u64::from_be_bytes(entry))
    }

    /// Where the compressed bytes of the cluster at `offset` are, and at most how many.
    fn compressed(&self, offset: u64) -> io::Result<(u64, usize)> {
        let bits = self.cluster_bits;
        let cluster = offset >> bits;
        let l2_bits = bits - 3;
        let l2 = self.entry(self.l1_offset, cluster >> l2_bits)? & 0x00FF_FFFF_FFFF_FE00;
        let entry = self.entry(l2, cluster & ((1 << l2_bits) - 1))?;
        if entry & 1 << 62 == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a cluster is no longer compressed"));
        }
        let offset_bits = 62 - (bits - 8);
        let descriptor = entry & ((1 << 62) - 1);
        let start = descriptor & ((1 << offset_bits) - 1) & ((1 << 56) - 1);
        // At most two clusters: the field is that wide.
        let len = ((descriptor >> offset_bits) + 1) * 512 - start % 512;
        Ok((start, usize::try_from(len).map_err(io::Error::other)?))
    }

    /// Unpacks the cluster that `offset` lies in.
    fn unpack(&self, offset: u64) -> io::Result<Vec<u8>> {
        let (start, len) = self.compressed(offset)?;
        let mut packed = vec![0; len];
        self.storage.read(&mut packed[..], start)?;
        let mut cluster = vec![0; 1 << self.cluster_bits];
        let mut decoder = self.decoder.lock().unwrap_or_else(PoisonError::into_inner);
        decode(&mut decoder, &packed, &mut cluster)?;
        Ok(cluster)
    }
}

/// Unpacks the one frame at the start of `packed`, as long as `cluster` has room; it has to fill that.
fn decode(decoder: &mut FrameDecoder, mut packed: &[u8], cluster: &mut [u8]) -> io::Result<()> {
    let bad = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    decoder.init(&mut packed).map_err(bad)?;
    let mut filled = 0;
    while filled < cluster.len() {
        // A block at a time, each of 128 KiB at most.
        let finished = decoder.decode_blocks(&mut packed, BlockDecodingStrategy::UptoBlocks(1)).map_err(bad)?;
        filled += decoder.read(&mut cluster[filled..])?;
        if finished && filled < cluster.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a compressed cluster is too short"));
        }
    }
    Ok(())
}

impl fmt::Debug for ZstdLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZstdLayer").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl fmt::Display for ZstdLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl FormatDriverInstance for ZstdLayer {
    type Storage = Storage;

    fn format(&self) -> Format {
        Format::Qcow2
    }

    unsafe fn probe(_storage: &Storage) -> io::Result<bool> {
        Ok(false)
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn collect_storage_dependencies(&self) -> Vec<&Storage> {
        self.inner.collect_storage_dependencies()
    }

    fn writable(&self) -> bool {
        self.inner.writable()
    }

    fn zero_granularity(&self) -> Option<u64> {
        self.inner.zero_granularity()
    }

    fn prepare_data_mapping(
        &self,
        offset: u64,
        length: u64,
        overwrite: bool,
    ) -> io::Result<PreparedDataMapping<'_, Storage>> {
        self.inner.prepare_data_mapping(offset, length, overwrite)
    }

    fn commit_data_mapping(&self, mapping: PreparedDataMapping<'_, Storage>) -> io::Result<()> {
        self.inner.commit_data_mapping(mapping)
    }

    fn ensure_zero_mapping(&self, offset: u64, length: u64) -> io::Result<(u64, u64)> {
        self.inner.ensure_zero_mapping(offset, length)
    }

    unsafe fn discard_to_zero_unsafe(&self, offset: u64, length: u64) -> io::Result<(u64, u64)> {
        // SAFETY: the caller's word.
        unsafe { self.inner.discard_to_zero_unsafe(offset, length) }
    }

    fn get_mapping(&self, offset: u64, max_length: u64) -> io::Result<(ShallowMapping<'_, Storage>, u64)> {
        self.inner.get_mapping(offset, max_length)
    }

    fn readv_special(&self, mut bufv: IoVectorMut<'_>, mut offset: u64) -> io::Result<()> {
        let size = 1 << self.cluster_bits;
        while !bufv.is_empty() {
            let cluster = self.unpack(offset)?;
            let inside = offset % size;
            let len = (size - inside).min(bufv.len());
            let (mut part, rest) = bufv.split_at(len);
            let range = usize::try_from(inside).unwrap_or(0)..usize::try_from(inside + len).unwrap_or(0);
            part.copy_from_slice(&cluster[range]);
            bufv = rest;
            offset += len;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        // SAFETY: the caller's word.
        unsafe { self.inner.invalidate_cache() }
    }

    fn resize_grow(&self, _new_size: u64, _mode: PreallocateMode) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn resize_shrink(&mut self, _new_size: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
