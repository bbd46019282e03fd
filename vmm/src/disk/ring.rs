//! io_uring: many requests to one file at once, without a thread for each.
//!
//! Rings are made before the process is jailed ([`prepare`]), because the jail lets nobody make one. Each is restricted for
//! good to reads, writes and syncs of files that are open already, so that it opens no way around the jail. Where the host
//! has no io_uring, or forbids it, there are none, and requests are done one after the other.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use io_uring::register::Restriction;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::config::DiskPlan;
use crate::memory::guest_buffers::GuestBuffers;

/// Requests under way in a ring at most.
pub const WINDOW: usize = 64;
/// Rings of a process at most: each takes some 10 KiB.
const MAX_RINGS: usize = 64;
/// Threads of the kernel that work for one ring at most, where a request has to wait: bounded and unbounded work.
const WORKERS: [u32; 2] = [16, 4];

/// Rings that nobody uses.
static STOCK: Mutex<Vec<IoUring>> = Mutex::new(Vec::new());

/// As many rings as a disk uses: one for each of its queues, if any.
pub fn wanted(disk: &DiskPlan) -> usize {
    if disk.ring { disk.queues.into() } else { 0 }
}

/// Makes `count` rings, [`MAX_RINGS`] at most; whether there are that many now. Fails where the host doesn't want any, which
/// is no error.
pub fn prepare(count: usize) -> bool {
    let mut stock = STOCK.lock().unwrap_or_else(PoisonError::into_inner);
    while stock.len() < count.min(MAX_RINGS) {
        match restricted() {
            Ok(ring) => stock.push(ring),
            Err(_) => return false,
        }
    }
    true
}

fn restricted() -> io::Result<IoUring> {
    let entries = u32::try_from(WINDOW).map_err(io::Error::other)?;
    let ring = IoUring::builder().setup_r_disabled().build(entries)?;
    let submitter = ring.submitter();
    let mut allowed = [
        Restriction::sqe_op(opcode::Readv::CODE),
        Restriction::sqe_op(opcode::Writev::CODE),
        Restriction::sqe_op(opcode::Fsync::CODE),
        Restriction::sqe_flags_allowed(0),
    ];
    submitter.register_iowq_max_workers(&mut { WORKERS })?;
    submitter.register_restrictions(&mut allowed)?;
    submitter.register_enable_rings()?;
    Ok(ring)
}

/// What is to be done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Fill the buffers from this offset.
    Read(u64),
    /// Write the buffers at this offset.
    Write(u64),
    /// Put completed writes on stable storage.
    Sync,
}

/// A ring in use; it goes back to the stock.
pub struct Ring(Option<IoUring>);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ring")
    }
}

impl Ring {
    /// Takes one from the stock.
    pub fn take() -> Option<Self> {
        STOCK.lock().unwrap_or_else(PoisonError::into_inner).pop().map(|ring| Self(Some(ring)))
    }

    /// Queues `work`, to be told of as `token`. Not begun before [`Ring::wait`].
    ///
    /// # Safety
    /// `buffers` stays as it is, and `file` open, until the token has come back from [`Ring::completed`]. At most [`WINDOW`]
    /// tokens are out.
    pub unsafe fn push(&mut self, file: BorrowedFd, work: Work, buffers: &GuestBuffers, token: u64) -> io::Result<()> {
        let Some(ring) = &mut self.0 else { return Err(io::ErrorKind::NotConnected.into()) };
        let file = Fd(file.as_raw_fd());
        let (iovecs, count) = buffers.as_iovecs();
        let entry: squeue::Entry = match work {
            Work::Read(offset) => opcode::Readv::new(file, iovecs, count).offset(offset).build(),
            Work::Write(offset) => opcode::Writev::new(file, iovecs, count).offset(offset).build(),
            Work::Sync => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        };
        // SAFETY: what the entry points to stays (promised by the caller).
        unsafe { ring.submission().push(&entry.user_data(token)) }.map_err(io::Error::other)
    }

    /// Begins what is queued, and waits until something is done.
    pub fn wait(&mut self) -> io::Result<()> {
        let Some(ring) = &mut self.0 else { return Err(io::ErrorKind::NotConnected.into()) };
        loop {
            match ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done.map(|_| ()),
            }
        }
    }

    /// Something that is done: its token, and the bytes moved.
    pub fn completed(&mut self) -> Option<(u64, io::Result<usize>)> {
        let done: cqueue::Entry = self.0.as_mut()?.completion().next()?;
        let result = usize::try_from(done.result()).map_err(|_| io::Error::from_raw_os_error(-done.result()));
        Some((done.user_data(), result))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        STOCK.lock().unwrap_or_else(PoisonError::into_inner).extend(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::sync::Arc;

    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    #[test]
    fn a_ring_reads_and_is_good_for_nothing_else() {
        assert!(prepare(1), "this host has io_uring");
        let ram = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4096)]).unwrap());
        let mut buffers = GuestBuffers::new(Arc::clone(&ram));
        buffers.push(GuestAddress(16), 8).unwrap();
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"0123456789", 0).unwrap();
        let mut ring = Ring::take().unwrap();
        // SAFETY: both live to the end of the test.
        unsafe { ring.push(file.as_fd(), Work::Read(2), &buffers, 7).unwrap() };
        ring.wait().unwrap();
        assert!(matches!(ring.completed(), Some((7, Ok(8)))));
        let mut bytes = [0; 8];
        ram.read_slice(&mut bytes, GuestAddress(16)).unwrap();
        assert_eq!(&bytes, b"23456789");
        // SAFETY: as above.
        unsafe { ring.push(File::open("/").unwrap().as_fd(), Work::Read(0), &buffers, 8).unwrap() };
        ring.wait().unwrap();
        assert!(matches!(ring.completed(), Some((8, Err(_)))));
        let inner = ring.0.as_mut().unwrap();
        let path = c"/etc/passwd";
        let open = opcode::OpenAt::new(Fd(libc::AT_FDCWD), path.as_ptr()).build().user_data(9);
        // SAFETY: the path is static.
        unsafe { inner.submission().push(&open).unwrap() };
        ring.wait().unwrap();
        let (token, result) = ring.completed().unwrap();
        assert_eq!((token, result.unwrap_err().raw_os_error()), (9, Some(libc::EACCES)));
        let refused = ring.0.as_ref().unwrap().submitter().unregister_files().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
        drop(ring);
        assert!(Ring::take().is_some(), "it went back");
    }
}
