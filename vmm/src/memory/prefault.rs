//! Prefault: RAM that a booting kernel is about to touch is made by a thread of its own, while the boot vCPU runs on.
//!
//! A vCPU that touches fresh RAM waits for the host to find and clear a page, 2 MiB of it where transparent huge pages are
//! on. Making a page neither changes nor reads content, so it may race with the guest.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::GuestRam;
use crate::jail::seccomp::{self, ThreadKind};
use crate::worker::STACK_SIZE;

/// Made at once, bytes: a transparent huge page, and no more, for the host's lock on the address space is held meanwhile.
const STEP: u64 = 2 << 20;
/// The most that is made for one kernel, bytes: a distribution's kernel wants 64 MiB, and an image is not to be believed.
const MAX: u64 = 96 << 20;

/// The thread; dropping it stops it after its step and waits for that.
#[derive(Debug)]
pub struct Prefault {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Prefault {
    /// Starts on `ranges` (GPAs), one after the other, each from its end down. A host that refuses the thread has its guest wait
    /// for its pages, no more.
    pub fn start(ram: &GuestRam, ranges: Vec<Range<u64>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (ram, stopped) = (Arc::clone(ram), Arc::clone(&stop));
        let thread = Builder::new().name("prefault".to_owned()).stack_size(STACK_SIZE).spawn(move || {
            seccomp::confine(ThreadKind::Worker);
            let mut steps = steps(ranges).take_while(|_| !stopped.load(Ordering::Relaxed));
            // Once refused (a kernel before 5.14), always refused.
            let _ = steps.try_for_each(|step| populate(&ram, &step));
        });
        Self { stop, thread: thread.ok() }
    }
}

impl Drop for Prefault {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has ended too.
            let _ = thread.join();
        }
    }
}

/// Pieces of at most [`STEP`], aligned to it where the range's ends allow, [`MAX`] bytes or a little more in all.
fn steps(ranges: Vec<Range<u64>>) -> impl Iterator<Item = Range<u64>> {
    let pieces = ranges.into_iter().flat_map(|range| {
        let mut end = range.end;
        std::iter::from_fn(move || {
            let last = end.checked_sub(1).filter(|last| *last >= range.start)?;
            let piece = (last / STEP * STEP).max(range.start)..end;
            end = piece.start;
            Some(piece)
        })
    });
    pieces.scan(0, |made, piece| {
        let room = *made < MAX;
        *made += piece.end - piece.start;
        room.then_some(piece)
    })
}

/// Makes the pages of a piece; `None` if the host can't.
fn populate(ram: &GuestRam, piece: &Range<u64>) -> Option<()> {
    let len = usize::try_from(piece.end - piece.start).ok()?;
    let slice = ram.get_slice(GuestAddress(piece.start), len).ok()?;
    let pages = slice.ptr_guard_mut();
    let inside = pages.as_ptr().addr() % PAGE;
    // SAFETY: the pages lie in the guest's mapping, which `ram` keeps; the call changes no content.
    let done = unsafe {
        let start = pages.as_ptr().sub(inside);
        libc::madvise(start.cast(), len + inside, libc::MADV_POPULATE_WRITE)
    };
    (done == 0).then_some(())
}

/// What madvise wants its address to be a multiple of, bytes.
const PAGE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::guest_ram;

    #[test]
    fn ranges_are_made_from_their_ends_down_and_within_bounds() {
        let all: Vec<_> = steps(vec![3 << 20..7 << 20, 0..100, 9..9]).collect();
        assert_eq!(all, [6 << 20..7 << 20, 4 << 20..6 << 20, 3 << 20..4 << 20, 0..100]);
        let total: u64 = steps(vec![0..u64::MAX, 0..9]).map(|piece| piece.end - piece.start).sum();
        assert!((MAX..MAX + STEP).contains(&total), "{total}");
    }

    #[test]
    fn what_was_asked_for_is_resident() {
        let ram = guest_ram::create(16 << 20, None).unwrap();
        let mut prefault = Prefault::start(&ram, vec![(4 << 20) + 5..6 << 20, 1 << 40..(1 << 40) + 1]);
        prefault.thread.take().unwrap().join().unwrap();
        let start = ram.get_host_address(GuestAddress(4 << 20)).unwrap();
        let mut resident = [0; (2 << 20) / PAGE];
        // SAFETY: two MiB of the mapping, and a byte for each of their pages.
        assert_eq!(unsafe { libc::mincore(start.cast(), 2 << 20, resident.as_mut_ptr()) }, 0);
        assert!(resident.iter().all(|page| page & 1 == 1));
    }
}
