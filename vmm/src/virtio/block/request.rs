//! Reads block requests: from a chain of descriptors to a [`Request`] that is known to be good, or the status to answer.
//!
//! The framing is free (virtio 1.3 §2.7.4): the first 16 readable bytes are the header, the last writable byte is the
//! status, and what lies between is data, however it's cut into descriptors.

use vm_memory::{Address, Bytes, GuestAddress};

use crate::disk::SECTOR;
use crate::memory::guest_buffers::GuestBuffers;
use crate::virtio::virtqueue::{Broken, Chain, Ram};

/// Request types (virtio 1.3 §5.2.6).
mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// Bytes of the header: type, reserved, sector.
const HEADER: usize = 16;
/// Bytes of a disk's serial number.
pub const ID_BYTES: usize = 20;
/// A disk's serial number, padded with zeros.
pub type Serial = [u8; ID_BYTES];
/// Bytes of one range of a discard or write-zeroes request.
const RANGE: usize = 16;
/// Ranges that one such request may hold.
pub const MAX_RANGES: usize = 16;
/// The range may be given back to the host (only for write-zeroes).
const UNMAP: u32 = 1;

/// Status byte of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Failed.
    IoError = 1,
    /// The device doesn't do this.
    Unsupported = 2,
}

/// What the disk is, as far as requests are checked against it.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Size in bytes.
    pub size: u64,
    /// Writes are refused.
    pub readonly: bool,
}

/// A range of the disk that a discard or write-zeroes request names; inside the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskRange {
    /// Start, bytes.
    pub offset: u64,
    /// Length, bytes.
    pub len: u64,
    /// Its space may be given back.
    pub unmap: bool,
}

/// A request that keeps inside the disk and its own buffers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Fill the data buffers from this offset (bytes).
    Read(u64),
    /// Write the data buffers at this offset (bytes).
    Write(u64),
    /// Make completed writes durable.
    Flush,
    /// Put the serial number into the data buffers.
    GetId,
    /// Ranges whose content is no longer needed, at most [`MAX_RANGES`].
    Discard(Vec<DiskRange>),
    /// Ranges to be zero, at most [`MAX_RANGES`].
    WriteZeroes(Vec<DiskRange>),
}

impl Request {
    /// Whether it changes what the image has where, and so must not be done while the image is held
    /// ([`crate::disk::Image::hold`]).
    pub fn needs_no_hold(&self) -> bool {
        matches!(self, Self::Discard(_) | Self::WriteZeroes(_))
    }
}

/// A chain taken apart.
#[derive(Debug)]
pub struct Parsed {
    /// What is asked for, or the status to refuse it with.
    pub request: Result<Request, Status>,
    /// Where the status byte goes.
    pub status: GuestAddress,
    /// Bytes of device-writable data before the status byte.
    pub writable: u32,
}

/// Takes `chain` apart. The data buffers are left in `buffers`. A chain that has no place for a status is [`Broken`].
pub fn parse(ram: &Ram, chain: Chain<'_>, buffers: &mut GuestBuffers, limits: Limits) -> Result<Parsed, Broken> {
    buffers.clear();
    let mut header = [0; HEADER];
    let mut filled = 0;
    let mut readable = 0_usize;
    let mut writable = 0_u32;
    let mut last: Option<(GuestAddress, u32)> = None;
    let mut overflow = false;
    for descriptor in chain {
        let (mut addr, mut len) = (descriptor.addr(), descriptor.len());
        if len == 0 {
            continue;
        }
        if descriptor.is_write_only() {
            if let Some((addr, len)) = last.replace((addr, len)) {
                overflow |= buffers.push(addr, len as usize).is_err();
                // virtio-queue ends chains before their sum passes 32 bits.
                writable += len;
            }
            continue;
        }
        if last.is_some() {
            return Err(Broken::Request("a readable descriptor follows a writable one"));
        }
        if filled < HEADER {
            let part = (HEADER - filled).min(len as usize);
            let to = &mut header[filled..filled + part];
            ram.read_slice(to, addr).map_err(|_| Broken::Request("its header lies outside of RAM"))?;
            filled += part;
            #[expect(clippy::cast_possible_truncation, reason = "at most 16")]
            {
                len -= part as u32;
            }
            addr = addr.unchecked_add(part as u64);
        }
        if len > 0 {
            overflow |= buffers.push(addr, len as usize).is_err();
            readable += len as usize;
        }
    }
    let (addr, len) = last.ok_or(Broken::Request("no room for the status"))?;
    let status = addr.checked_add(u64::from(len - 1)).ok_or(Broken::Request("its status lies outside of RAM"))?;
    if len > 1 {
        overflow |= buffers.push(addr, len as usize - 1).is_err();
        writable += len - 1;
    }
    let request = if filled < HEADER || overflow {
        Err(Status::IoError)
    } else {
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let head = Header { kind: u32::from_le_bytes([t0, t1, t2, t3]), sector: u64::from_le_bytes(sector) };
        let data = Data { buffers, readable, writable: writable as usize };
        head.check(&data, limits)
    };
    Ok(Parsed { request, status, writable })
}

struct Header {
    kind: u32,
    sector: u64,
}

struct Data<'b> {
    buffers: &'b GuestBuffers,
    readable: usize,
    writable: usize,
}

impl Header {
    fn check(&self, data: &Data, limits: Limits) -> Result<Request, Status> {
        let need = |good: bool| if good { Ok(()) } else { Err(Status::IoError) };
        match self.kind {
            kind::IN => {
                need(data.readable == 0)?;
                Ok(Request::Read(self.offset(data.writable, limits)?))
            }
            kind::OUT => {
                need(data.writable == 0 && !limits.readonly)?;
                Ok(Request::Write(self.offset(data.readable, limits)?))
            }
            kind::FLUSH => Ok(Request::Flush),
            kind::GET_ID => {
                need(data.readable == 0 && data.writable >= ID_BYTES)?;
                Ok(Request::GetId)
            }
            kind::DISCARD | kind::WRITE_ZEROES => {
                need(data.writable == 0 && !limits.readonly)?;
                let ranges = ranges(data, limits, self.kind == kind::WRITE_ZEROES)?;
                Ok(if self.kind == kind::DISCARD { Request::Discard(ranges) } else { Request::WriteZeroes(ranges) })
            }
            _ => Err(Status::Unsupported),
        }
    }

    /// Where `len` bytes from the request's sector on start, if they are whole sectors of the disk.
    fn offset(&self, len: usize, limits: Limits) -> Result<u64, Status> {
        let len = len as u64;
        if len == 0 || !len.is_multiple_of(SECTOR) {
            return Err(Status::IoError);
        }
        inside(self.sector, len, limits)
    }
}

fn inside(sector: u64, len: u64, limits: Limits) -> Result<u64, Status> {
    let offset = sector.checked_mul(SECTOR).ok_or(Status::IoError)?;
    let end = offset.checked_add(len).filter(|end| *end <= limits.size);
    end.map(|_| offset).ok_or(Status::IoError)
}

fn ranges(data: &Data, limits: Limits, may_unmap: bool) -> Result<Vec<DiskRange>, Status> {
    let len = data.readable;
    if len == 0 || !len.is_multiple_of(RANGE) || len > RANGE * MAX_RANGES {
        return Err(Status::IoError);
    }
    let mut bytes = [0; RANGE * MAX_RANGES];
    data.buffers.get(0, &mut bytes[..len]);
    let range = |raw: &[u8]| {
        let sector = u64::from_le_bytes(field(raw, 0));
        let flags = u32::from_le_bytes(field(raw, 12));
        if flags & !UNMAP != 0 || flags & UNMAP != 0 && !may_unmap {
            return Err(Status::Unsupported);
        }
        let len = u64::from(u32::from_le_bytes(field(raw, 8))) * SECTOR;
        Ok(DiskRange { offset: inside(sector, len, limits)?, len, unmap: flags & UNMAP != 0 })
    };
    bytes[..len].chunks_exact(RANGE).map(range).collect()
}

/// `N` bytes of a record.
fn field<const N: usize>(record: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&record[at..at + N]);
    bytes
}
