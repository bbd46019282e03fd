//! An open file as the library's storage: what it reads and writes goes through here; guest data does not.
//!
//! Three things are added. The library is shown a header made by us instead of the file's own ([`Header::sanitized`]). And
//! what it writes (tables, mostly) reaches the disk in the order in which it was written, after the data written before:
//! a table that points to something is never on stable storage before what it points to. That is what makes a sudden loss
//! of power harmless: the image is as it was after some earlier write, at worst with clusters that nobody uses. And where the page
//! cache is gone around, everything that passes here is aligned as that asks.

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;
use nix::errno::Errno;
use nix::fcntl::FallocateFlags;
use nix::sys::uio::{preadv, pwritev};

use super::header::SANITIZED_LENGTH;
use crate::disk::raw;

/// Where in a header the size of the disk is, which the header that is shown may round up.
const SIZE: std::ops::Range<usize> = 24..32;
/// Segments that one system call takes (`IOV_MAX`).
const MAX_SEGMENTS: usize = 1024;

/// See the module.
#[derive(Debug)]
pub struct Storage {
    file: File,
    /// What is read instead of the file's first bytes.
    header: Option<Mutex<[u8; SANITIZED_LENGTH]>>,
    /// Whether writes have to outlive the host's power.
    durable: bool,
    /// What memory, offsets and lengths are multiples of, bytes: 1 unless the file is open with O_DIRECT.
    align: usize,
    /// Something was written since the last sync.
    dirty: Arc<AtomicBool>,
    /// Held during a sync, so that nobody takes "not dirty" for "on the disk" meanwhile.
    syncing: Mutex<()>,
    helper: CommonStorageHelper,
}

impl Storage {
    /// Storage on `file`.
    pub fn new(file: File, durable: bool) -> Self {
        Self {
            file,
            header: None,
            durable,
            align: 1,
            dirty: Arc::default(),
            syncing: Mutex::default(),
            helper: CommonStorageHelper::default(),
        }
    }

    /// The same, the file's header being shown as `shown`.
    pub fn with_header(self, shown: [u8; SANITIZED_LENGTH]) -> Self {
        Self { header: Some(Mutex::new(shown)), ..self }
    }

    /// The same, of a file that is open with O_DIRECT and takes what is aligned to `align` bytes, [`raw::CHUNK`] at most.
    pub fn with_align(self, align: usize) -> Self {
        Self { align, ..self }
    }

    /// Set by whoever has written to the file past this, before anybody takes that for done.
    pub fn dirty(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.dirty)
    }

    /// The file, for guest data. Whoever has written to it says so by [`Storage::written`].
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Guest data was written, which what is written next may point to.
    pub fn written(&self) {
        self.dirty.store(true, Ordering::Release);
    }

    /// Writes guest data, whole blocks of it.
    pub fn write_data(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        raw::write_aligned(&self.file, bytes, offset, self.align)?;
        self.written();
        Ok(())
    }

    /// Writes zeros, as guest data.
    pub fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        raw::write_zeros(&self.file, offset, len)?;
        self.written();
        Ok(())
    }

    /// Returns once everything written so far is on stable storage.
    pub fn settle(&self) -> io::Result<()> {
        if !self.durable {
            return Ok(());
        }
        let _syncing = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.dirty.swap(false, Ordering::AcqRel) {
            self.file.sync_data().inspect_err(|_| self.dirty.store(true, Ordering::Release))?;
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        // Not by metadata, which a block device's size is not part of. Nobody uses the file's position.
        (&self.file).seek(SeekFrom::End(0))
    }

    /// Writes to the header, but for the disk's size; what is written is shown from now on. What is written as it was shown, as
    /// whole blocks are for a part of them, stays as the file has it.
    fn write_header(&self, header: &Mutex<[u8; SANITIZED_LENGTH]>, slices: &[IoSlice], offset: u64) -> io::Result<()> {
        let mut bytes = slices.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<_>>();
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let mut header = header.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = Box::new(raw::Chunk([0; raw::CHUNK]));
        self.file.read_exact_at(&mut kept.0[..SANITIZED_LENGTH.next_multiple_of(self.align)], 0)?;
        for (place, (shown, byte)) in (at..).zip(header.iter_mut().skip(at).zip(&mut bytes)) {
            let was = std::mem::replace(shown, *byte);
            if was == *byte || SIZE.contains(&place) {
                *byte = kept.0[place];
            }
        }
        self.write_data(&bytes, offset)
    }

    /// Reads where the header is: a few small reads when the image is opened.
    fn read_header(
        &self,
        header: &Mutex<[u8; SANITIZED_LENGTH]>,
        slices: &mut [IoSliceMut],
        mut offset: u64,
    ) -> io::Result<()> {
        let header = *header.lock().unwrap_or_else(PoisonError::into_inner);
        for slice in slices {
            self.file.read_exact_at(slice, offset)?;
            let shown = usize::try_from(offset).ok().and_then(|at| header.get(at..)).unwrap_or_default();
            slice.iter_mut().zip(shown).for_each(|(to, from)| *to = *from);
            offset += slice.len() as u64;
        }
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        if end > self.len()? {
            // What lies past the end reads as zeros as soon as the file is long enough.
            let last = (self.align as u64).min(end);
            raw::write_zeros(&self.file, end - last, last)?;
        }
        raw::write_zeroes(&self.file, offset, len, true)
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("image")
    }
}

/// Repeats a call that was interrupted.
fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

fn position(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl imago::Storage for Storage {
    fn mem_align(&self) -> usize {
        self.align
    }

    fn req_align(&self) -> usize {
        self.align
    }

    fn size(&self) -> io::Result<u64> {
        self.len()
    }

    unsafe fn pure_readv(&self, bufv: IoVectorMut<'_>, mut offset: u64) -> io::Result<()> {
        let mut slices = bufv.into_inner();
        if let Some(header) = self.header.as_ref().filter(|_| offset < SANITIZED_LENGTH as u64) {
            return self.read_header(header, &mut slices, offset);
        }
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let count = rest.len().min(MAX_SEGMENTS);
            let done = retry(|| preadv(&self.file, &mut rest[..count], position(offset).map_err(|_| Errno::EINVAL)?))?;
            if done == 0 {
                for slice in rest {
                    slice.fill(0);
                }
                break;
            }
            offset += done as u64;
            IoSliceMut::advance_slices(&mut rest, done);
        }
        Ok(())
    }

    unsafe fn pure_writev(&self, bufv: IoVector<'_>, mut offset: u64) -> io::Result<()> {
        self.settle()?;
        let mut slices = bufv.into_inner();
        if let Some(header) = self.header.as_ref().filter(|_| offset < SANITIZED_LENGTH as u64) {
            return self.write_header(header, &slices, offset);
        }
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let count = rest.len().min(MAX_SEGMENTS);
            let done = retry(|| pwritev(&self.file, &rest[..count], position(offset).map_err(|_| Errno::EINVAL)?))?;
            if done == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            offset += done as u64;
            IoSlice::advance_slices(&mut rest, done);
        }
        self.written();
        Ok(())
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.zero(offset, length)?;
        self.written();
        Ok(())
    }

    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.zero(offset, length)?;
        self.written();
        Ok(())
    }

    unsafe fn pure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        raw::fallocate(&self.file, FallocateFlags::FALLOC_FL_PUNCH_HOLE, offset, length).or_else(|e| {
            // A discard is a hint.
            if raw::unsupported(e) { Ok(()) } else { Err(e.into()) }
        })
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.settle()
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }

    fn resize(&self, new_size: u64, _mode: PreallocateMode) -> io::Result<()> {
        self.file.set_len(new_size)
    }
}
