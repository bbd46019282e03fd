//! Disk images as a flat run of bytes, whatever they are kept in.

#[cfg(test)]
mod crash;
pub mod lock;
mod open;
pub mod qcow2;
pub mod raw;
pub mod ring;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::BorrowedFd;

pub use open::{OpenError, Options, open};
pub use qcow2::QcowImage;
pub use raw::RawImage;

use crate::memory::guest_buffers::GuestBuffers;

/// Bytes of a sector, the unit in which disks are addressed.
pub const SECTOR: u64 = 512;

/// An image that a disk device reads and writes. Called from the threads of several queues at once; callers keep inside
/// [`Image::size`], and never write to a read-only image.
pub trait Image: Send + Sync + std::fmt::Debug {
    /// Size in bytes, a multiple of [`SECTOR`].
    fn size(&self) -> u64;
    /// Whether it may only be read.
    fn readonly(&self) -> bool;
    /// The file that `buffers` can be read from and written to at their own offset, in place; none where the image has to have
    /// a hand in it.
    fn in_place(&self, _buffers: &GuestBuffers) -> Option<BorrowedFd<'_>> {
        None
    }
    /// Fills `buffers` from `offset`, and empties the list.
    fn read(&self, buffers: &mut GuestBuffers, offset: u64) -> io::Result<()>;
    /// Writes `buffers` at `offset`, and empties the list.
    fn write(&self, buffers: &mut GuestBuffers, offset: u64) -> io::Result<()>;
    /// Returns once all completed writes are on stable storage.
    fn flush(&self) -> io::Result<()>;
    /// Gives the space of a range back if the host can; what it reads as afterwards is not defined.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Makes a range read as zeros, giving its space back if `unmap` and the host can.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;
}
