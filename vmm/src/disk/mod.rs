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
use std::sync::RwLockReadGuard;

pub use open::{OpenError, Options, open};
pub use qcow2::QcowImage;
pub use raw::RawImage;

use crate::memory::guest_buffers::GuestBuffers;

/// Bytes of a sector, the unit in which disks are addressed.
pub const SECTOR: u64 = 512;

/// Where in a file the bytes of a request are, all of them in a row.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The file.
    pub file: BorrowedFd<'a>,
    /// Where in it.
    pub offset: u64,
}

/// What is to be done in a [`Place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It is read.
    Read,
    /// It is written.
    Write,
}

/// Keeps what an image has where in its place, see [`Image::hold`].
pub type Hold<'a> = Option<RwLockReadGuard<'a, ()>>;

/// An image that a disk device reads and writes. Called from the threads of several queues at once; callers keep inside
/// [`Image::size`], and never write to a read-only image.
pub trait Image: Send + Sync + std::fmt::Debug {
    /// Size in bytes, a multiple of [`SECTOR`].
    fn size(&self) -> u64;
    /// Whether it may only be read.
    fn readonly(&self) -> bool;
    /// Whether [`Image::in_place`] ever finds a place.
    fn has_places(&self) -> bool {
        false
    }
    /// What a thread holds from before it reads, writes or asks for a place until all of that is done. It holds one at a time,
    /// and none when it discards or writes zeroes.
    fn hold(&self) -> Hold<'_> {
        None
    }
    /// Whether whoever holds it for long should give it back and take it anew, as the image wants to be alone for a moment.
    fn wants_release(&self) -> bool {
        false
    }
    /// Where `buffers` can be read or written in place, as the bytes at `offset`, by many requests at once; none where the
    /// image has to have a hand in it, or where there is nothing to win. Needs a hold.
    fn in_place(&self, _buffers: &GuestBuffers, _offset: u64, _access: Access) -> Option<Place<'_>> {
        None
    }
    /// A write in a place is done, and is about to be answered.
    fn written_in_place(&self) {}
    /// The file whose sync is all there is to a flush, if that is so.
    fn sync_in_place(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// Fills `buffers` from `offset`, and empties the list. Needs a hold.
    fn read(&self, buffers: &mut GuestBuffers, offset: u64) -> io::Result<()>;
    /// Writes `buffers` at `offset`, and empties the list. Needs a hold.
    fn write(&self, buffers: &mut GuestBuffers, offset: u64) -> io::Result<()>;
    /// Returns once all completed writes are on stable storage. Needs a hold.
    fn flush(&self) -> io::Result<()>;
    /// Gives the space of a range back if the host can; what it reads as afterwards is not defined.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Makes a range read as zeros, giving its space back if `unmap` and the host can.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;
}
