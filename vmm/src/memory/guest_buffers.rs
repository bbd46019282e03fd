//! Scatter-gather lists over guest memory, for system calls that read and write it in place.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::{GuestAddress, GuestMemory, Permissions};

use super::GuestRam;

/// Segments that one system call takes (`IOV_MAX`).
pub const MAX_SEGMENTS: usize = 1024;

/// Why a range can't be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BufferError {
    /// Part of the range isn't RAM.
    #[error("guest buffer lies outside of RAM")]
    OutsideRam,
    /// The list is full.
    #[error("more than {MAX_SEGMENTS} segments in one request")]
    TooManySegments,
}

/// A list of ranges of guest memory. Reused from request to request so that the hot path doesn't allocate.
///
/// Invariant: every entry points into a region of `ram`, which lives as long as the list.
pub struct GuestBuffers {
    ram: GuestRam,
    iovecs: Vec<libc::iovec>,
    len: usize,
}

// SAFETY: the pointers lead into `ram`'s mappings, which are shared, stay where they are, and are only ever accessed by
// the kernel or by volatile copies.
unsafe impl Send for GuestBuffers {}

impl std::fmt::Debug for GuestBuffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestBuffers")
            .field("segments", &self.iovecs.len())
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl GuestBuffers {
    /// An empty list over `ram`.
    pub fn new(ram: GuestRam) -> Self {
        Self { ram, iovecs: Vec::new(), len: 0 }
    }

    /// Empties the list.
    pub fn clear(&mut self) {
        self.iovecs.clear();
        self.len = 0;
    }

    /// Bytes in the list.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the list holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Segments in the list; a range that spans two memory regions counts twice.
    pub fn segments(&self) -> usize {
        self.iovecs.len()
    }

    /// The list as system calls take it. It is good for as long as the list stays as it is.
    pub fn as_iovecs(&self) -> (*const libc::iovec, u32) {
        (self.iovecs.as_ptr(), u32::try_from(self.iovecs.len()).unwrap_or(u32::MAX))
    }

    /// Becomes a list of the same ranges.
    pub fn copy_from(&mut self, other: &Self) {
        self.ram.clone_from(&other.ram);
        self.iovecs.clone_from(&other.iovecs);
        self.len = other.len;
    }

    /// Appends `len` bytes at `addr`. On an error the list is left as it was.
    pub fn push(&mut self, addr: GuestAddress, len: usize) -> Result<(), BufferError> {
        let before = self.iovecs.len();
        let added = self.append(addr, len);
        if added.is_err() {
            self.iovecs.truncate(before);
        } else {
            self.len += len;
        }
        added
    }

    fn append(&mut self, addr: GuestAddress, len: usize) -> Result<(), BufferError> {
        let slices = self.ram.get_slices(addr, len, Permissions::ReadWrite).map_err(|_| BufferError::OutsideRam)?;
        for slice in slices {
            let slice = slice.map_err(|_| BufferError::OutsideRam)?;
            if self.iovecs.len() == MAX_SEGMENTS {
                return Err(BufferError::TooManySegments);
            }
            let iov_base = slice.ptr_guard_mut().as_ptr().cast();
            self.iovecs.push(libc::iovec { iov_base, iov_len: slice.len() });
        }
        Ok(())
    }

    /// Takes the first `segments` segments off the list.
    pub fn drop_front(&mut self, segments: usize) {
        let gone: usize = self.iovecs.drain(..segments.min(self.iovecs.len())).map(|v| v.iov_len).sum();
        self.len -= gone;
    }

    /// Reads from `fd` at `offset` until the list is full, and empties it.
    pub fn read_exact_at(&mut self, fd: BorrowedFd, offset: u64) -> io::Result<()> {
        // SAFETY: each iovec is valid for writes of its length (invariant).
        self.transfer(offset, |iov, count, offset| unsafe { libc::preadv(fd.as_raw_fd(), iov, count, offset) })
    }

    /// Writes the whole list to `fd` at `offset`, and empties it.
    pub fn write_all_at(&mut self, fd: BorrowedFd, offset: u64) -> io::Result<()> {
        // SAFETY: each iovec is valid for reads of its length (invariant).
        self.transfer(offset, |iov, count, offset| unsafe { libc::pwritev(fd.as_raw_fd(), iov, count, offset) })
    }

    /// Reads `len` bytes (at most all) from `fd` at `offset` into the front of the list, and takes them off it. What lies
    /// past the file's end reads as zeros, unless all of it does.
    pub fn read_front(&mut self, fd: BorrowedFd, offset: u64, len: usize) -> io::Result<()> {
        let len = len.min(self.len);
        // SAFETY: each iovec is valid for writes of its length (invariant).
        let left = self.transfer_front(len, offset, |iov, count, offset| unsafe {
            libc::preadv(fd.as_raw_fd(), iov, count, offset)
        })?;
        if left == len && len > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.zero_front(left);
        Ok(())
    }

    /// Writes the first `len` bytes (at most all) of the list to `fd` at `offset`, and takes them off it.
    pub fn write_front(&mut self, fd: BorrowedFd, offset: u64, len: usize) -> io::Result<()> {
        let len = len.min(self.len);
        // SAFETY: each iovec is valid for reads of its length (invariant).
        let left = self.transfer_front(len, offset, |iov, count, offset| unsafe {
            libc::pwritev(fd.as_raw_fd(), iov, count, offset)
        })?;
        if left > 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
    }

    /// Copies `bytes` to the front of the list, as many as it holds, and takes them off it.
    pub fn fill_front(&mut self, bytes: &[u8]) {
        let mut done = 0;
        for v in &self.iovecs {
            let part = v.iov_len.min(bytes.len() - done);
            // SAFETY: the segment is valid for writes of its length (invariant) and lies in memory that no Rust object is in.
            unsafe { std::ptr::copy_nonoverlapping(bytes[done..].as_ptr(), v.iov_base.cast(), part) };
            done += part;
        }
        self.advance(done);
    }

    /// Copies the front of the list to `bytes`, as many as it holds, and takes them off it.
    pub fn take_front(&mut self, bytes: &mut [u8]) {
        let mut done = 0;
        for v in &self.iovecs {
            let part = v.iov_len.min(bytes.len() - done);
            // SAFETY: as in `fill_front`, for reads.
            unsafe { std::ptr::copy_nonoverlapping(v.iov_base.cast(), bytes[done..].as_mut_ptr(), part) };
            done += part;
        }
        self.advance(done);
    }

    /// Whether every segment starts and ends at a multiple of `align` (a power of two) in this process's memory.
    pub fn is_aligned(&self, align: usize) -> bool {
        self.iovecs.iter().all(|v| (v.iov_base.addr() | v.iov_len) & (align - 1) == 0)
    }

    /// Zeroes the first `len` bytes (at most all) of the list, and takes them off it.
    pub fn zero_front(&mut self, len: usize) {
        let len = len.min(self.len);
        let mut left = len;
        for v in &self.iovecs {
            let part = v.iov_len.min(left);
            // SAFETY: as in `fill_front`.
            unsafe { std::ptr::write_bytes(v.iov_base.cast::<u8>(), 0, part) };
            left -= part;
        }
        self.advance(len);
    }

    /// Reads once from `fd` into the list, which stays as it is. Returns the bytes read.
    pub fn read(&self, fd: BorrowedFd) -> io::Result<usize> {
        // SAFETY: each iovec is valid for writes of its length (invariant).
        let done = unsafe { libc::readv(fd.as_raw_fd(), self.iovecs.as_ptr(), self.count()) };
        usize::try_from(done).map_err(|_| io::Error::last_os_error())
    }

    /// Writes the list once to `fd`. Returns the bytes written.
    pub fn write(&self, fd: BorrowedFd) -> io::Result<usize> {
        // SAFETY: each iovec is valid for reads of its length (invariant).
        let done = unsafe { libc::writev(fd.as_raw_fd(), self.iovecs.as_ptr(), self.count()) };
        usize::try_from(done).map_err(|_| io::Error::last_os_error())
    }

    /// Copies bytes into the list at `offset`, as many as it holds there.
    pub fn put(&self, offset: usize, bytes: &[u8]) {
        // SAFETY: `each` hands out places inside a segment, which is valid for writes (invariant); volatile because the
        // guest may look at any time.
        self.each(offset).zip(bytes).for_each(|(to, byte)| unsafe { to.write_volatile(*byte) });
    }

    /// Copies bytes out of the list at `offset`, as many as it holds there.
    pub fn get(&self, offset: usize, bytes: &mut [u8]) {
        // SAFETY: as in `put`, for reads.
        self.each(offset).zip(bytes).for_each(|(from, byte)| *byte = unsafe { from.read_volatile() });
    }

    /// The places of all bytes from `offset` on. For small things: data goes by system calls.
    fn each(&self, offset: usize) -> impl Iterator<Item = *mut u8> {
        let mut skip = offset;
        self.iovecs.iter().flat_map(move |v| {
            let first = skip.min(v.iov_len);
            skip -= first;
            // Inside the segment, or the iterator is empty.
            (first..v.iov_len).map(|at| v.iov_base.cast::<u8>().wrapping_add(at))
        })
    }

    fn count(&self) -> libc::c_int {
        libc::c_int::try_from(self.iovecs.len()).unwrap_or(libc::c_int::MAX)
    }

    fn transfer(
        &mut self,
        offset: u64,
        call: impl FnMut(*const libc::iovec, libc::c_int, i64) -> isize,
    ) -> io::Result<()> {
        let left = self.transfer_front(self.len, offset, call)?;
        if left > 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    // Short transfers are taken up where they ended; one that moves nothing is the end of the file. Returns what is left then.
    fn transfer_front(
        &mut self,
        len: usize,
        offset: u64,
        mut call: impl FnMut(*const libc::iovec, libc::c_int, i64) -> isize,
    ) -> io::Result<usize> {
        let mut offset = i64::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut left = len;
        while left > 0 {
            let (count, beyond) = self.front(left);
            // The last segment ends where the transfer does, for this call.
            self.iovecs[count - 1].iov_len -= beyond;
            let count_arg = libc::c_int::try_from(count).unwrap_or(libc::c_int::MAX);
            let done = call(self.iovecs.as_ptr(), count_arg, offset);
            self.iovecs[count - 1].iov_len += beyond;
            match usize::try_from(done) {
                Ok(0) => return Ok(left),
                Ok(bytes) => {
                    self.advance(bytes);
                    left -= bytes.min(left);
                    offset = offset.checked_add(i64::try_from(done).unwrap_or(i64::MAX)).unwrap_or(i64::MAX);
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(0)
    }

    /// How many segments the first `len` bytes (not 0, at most all) take, and how many bytes the last of these has beyond.
    fn front(&self, len: usize) -> (usize, usize) {
        if len == self.len {
            return (self.iovecs.len(), 0);
        }
        let mut covered = 0;
        for (index, v) in self.iovecs.iter().enumerate() {
            covered += v.iov_len;
            if covered >= len {
                return (index + 1, covered - len);
            }
        }
        (self.iovecs.len(), 0)
    }

    /// Takes the first `bytes` bytes (at most all) off the list.
    fn advance(&mut self, bytes: usize) {
        let mut left = bytes.min(self.len);
        self.len -= left;
        let whole = self
            .iovecs
            .iter()
            .take_while(|v| {
                v.iov_len <= left && {
                    left -= v.iov_len;
                    true
                }
            })
            .count();
        self.iovecs.drain(..whole);
        if let Some(first) = self.iovecs.first_mut() {
            // SAFETY: `left` is less than the segment's length, so the pointer stays inside it.
            first.iov_base = unsafe { first.iov_base.cast::<u8>().add(left) }.cast();
            first.iov_len -= left;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;
    use vm_memory::{Bytes, GuestMemoryMmap};

    fn ram() -> GuestRam {
        // Two regions side by side: a range may span both.
        Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)]).unwrap())
    }

    #[test]
    fn reads_and_writes_in_place() {
        let ram = ram();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"0123456789", 0).unwrap();
        let mut list = GuestBuffers::new(Arc::clone(&ram));
        list.push(GuestAddress(0xFFC), 6).unwrap();
        list.push(GuestAddress(0x10), 2).unwrap();
        assert_eq!((list.segments(), list.len()), (3, 8));
        list.read_exact_at(file.as_fd(), 1).unwrap();
        assert!(list.is_empty());
        let mut bytes = [0; 6];
        ram.read_slice(&mut bytes, GuestAddress(0xFFC)).unwrap();
        assert_eq!(&bytes, b"123456");
        list.push(GuestAddress(0xFFC), 6).unwrap();
        list.write_all_at(file.as_fd(), 4).unwrap();
        let mut content = [0; 10];
        file.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(&content, b"0123123456");
        list.push(GuestAddress(0), 100).unwrap();
        assert_eq!(list.read_exact_at(file.as_fd(), 0).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn refuses_what_is_not_ram() {
        let mut list = GuestBuffers::new(ram());
        for (addr, len) in [(0x2000, 1), (0x1FFF, 2), (u64::MAX, 2), (0, 0x2001), (0, usize::MAX)] {
            assert_eq!(list.push(GuestAddress(addr), len), Err(BufferError::OutsideRam), "{addr:#x}+{len:#x}");
        }
        assert_eq!((list.segments(), list.len()), (0, 0));
        for _ in 0..MAX_SEGMENTS {
            list.push(GuestAddress(0), 1).unwrap();
        }
        assert_eq!(list.push(GuestAddress(0), 1), Err(BufferError::TooManySegments));
    }

    #[test]
    fn advances_over_segment_borders() {
        let ram = ram();
        let mut list = GuestBuffers::new(Arc::clone(&ram));
        list.push(GuestAddress(0), 4).unwrap();
        list.push(GuestAddress(0x100), 4).unwrap();
        list.advance(6);
        list.put(0, b"xyz");
        assert_eq!((list.segments(), list.len()), (1, 2));
        let mut bytes = [0; 5];
        ram.read_slice(&mut bytes, GuestAddress(0x100)).unwrap();
        assert_eq!(&bytes, b"\0\0xy\0");
    }
}
