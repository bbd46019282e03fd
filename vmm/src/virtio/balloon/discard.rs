//! Gives ranges of guest memory back to the host.

use vm_memory::{GuestAddress, GuestMemory, Permissions};

use super::request::PAGE;
use crate::memory::GuestRam;

/// Makes holes of the whole pages in `len` bytes at `addr`, as far as they are RAM; they read as zeros afterwards.
pub fn discard(ram: &GuestRam, addr: u64, len: u64) {
    let Ok(len) = usize::try_from(len) else { return };
    let Ok(slices) = ram.get_slices(GuestAddress(addr), len, Permissions::ReadWrite) else { return };
    for slice in slices.map_while(Result::ok) {
        let start = slice.ptr_guard_mut().as_ptr();
        // Regions are mapped page by page, so that a guest's page is one of the host's.
        let lead = start.align_offset(PAGE_SIZE);
        let Some(whole) = slice.len().checked_sub(lead).map(|rest| rest & !(PAGE_SIZE - 1)).filter(|n| *n > 0) else {
            continue;
        };
        // SAFETY: the range lies in a mapping of guest memory, which Rust sees only through raw pointers; its pages stay
        // mapped, to zeros. A file system that can't make holes refuses, and then nothing is lost but the memory saved.
        unsafe { libc::madvise(start.add(lead).cast(), whole, libc::MADV_REMOVE) };
    }
}

const PAGE_SIZE: usize = 1 << PAGE.trailing_zeros();
