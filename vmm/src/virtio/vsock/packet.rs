//! The header of every packet (virtio 1.3 §5.10.6), and how it lies in a chain.

use vm_memory::{Address, Bytes, GuestAddress};

use crate::memory::guest_buffers::GuestBuffers;
use crate::virtio::virtqueue::{Broken, Chain, Ram};

/// Bytes of a header.
pub const HEADER: usize = 44;
/// The most data of one packet, bytes: what Linux sends and takes.
pub const MAX_DATA: usize = 64 << 10;
/// The host's context id.
pub const HOST: u64 = 2;
/// Stream sockets, the only kind there is here.
pub const STREAM: u16 = 1;

/// Operations.
#[allow(missing_docs, reason = "the specification's names")]
pub mod op {
    pub const REQUEST: u16 = 1;
    pub const RESPONSE: u16 = 2;
    pub const RST: u16 = 3;
    pub const SHUTDOWN: u16 = 4;
    pub const RW: u16 = 5;
    pub const CREDIT_UPDATE: u16 = 6;
    pub const CREDIT_REQUEST: u16 = 7;
}

/// Flags of [`op::SHUTDOWN`]: the sender receives, or sends, no more.
#[allow(missing_docs, reason = "they say what they are")]
pub mod side {
    pub const RECEIVE: u32 = 1;
    pub const SEND: u32 = 2;
    pub const BOTH: u32 = RECEIVE | SEND;
}

/// A header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// Who sends.
    pub src_cid: u64,
    /// To whom.
    pub dst_cid: u64,
    /// From which port.
    pub src_port: u32,
    /// To which port.
    pub dst_port: u32,
    /// Bytes of data that follow.
    pub len: u32,
    /// Kind of socket.
    pub kind: u16,
    /// What it says.
    pub op: u16,
    /// More of that.
    pub flags: u32,
    /// Bytes that the sender has room for in all.
    pub buf_alloc: u32,
    /// Bytes that the sender has taken out of its buffer so far.
    pub fwd_cnt: u32,
}

impl Header {
    /// Reads one.
    pub fn parse(bytes: &[u8; HEADER]) -> Self {
        let b4 = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        let u32_at = |at| u32::from_le_bytes(b4(at));
        let u64_at = |at| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            src_cid: u64_at(0),
            dst_cid: u64_at(8),
            src_port: u32_at(16),
            dst_port: u32_at(20),
            len: u32_at(24),
            kind: u16_at(28),
            op: u16_at(30),
            flags: u32_at(32),
            buf_alloc: u32_at(36),
            fwd_cnt: u32_at(40),
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &self.src_cid.to_le_bytes());
        put(8, &self.dst_cid.to_le_bytes());
        put(16, &self.src_port.to_le_bytes());
        put(20, &self.dst_port.to_le_bytes());
        put(24, &self.len.to_le_bytes());
        put(28, &self.kind.to_le_bytes());
        put(30, &self.op.to_le_bytes());
        put(32, &self.flags.to_le_bytes());
        put(36, &self.buf_alloc.to_le_bytes());
        put(40, &self.fwd_cnt.to_le_bytes());
        bytes
    }
}

/// Reads the driver's packet: its header, and the data behind it as a list of buffers. What doesn't hold a whole header is
/// `None`, as is a packet with more data than [`MAX_DATA`]; data that is shorter than the header says is left to the caller.
pub fn read(ram: &Ram, chain: Chain<'_>, data: &mut GuestBuffers) -> Result<Option<Header>, Broken> {
    data.clear();
    let (mut header, mut have) = ([0; HEADER], 0);
    for descriptor in chain.filter(|descriptor| !descriptor.is_write_only()) {
        let (mut addr, mut len) = (descriptor.addr(), descriptor.len() as usize);
        let lead = len.min(HEADER - have);
        if lead > 0 {
            ram.read_slice(&mut header[have..have + lead], addr).map_err(|_| outside())?;
            (have, len) = (have + lead, len - lead);
            addr = addr.checked_add(lead as u64).ok_or_else(outside)?;
        }
        if len > MAX_DATA - data.len() {
            return Ok(None);
        }
        if len > 0 {
            data.push(addr, len).map_err(|_| outside())?;
        }
    }
    Ok((have == HEADER).then(|| Header::parse(&header)))
}

/// The places of the driver's buffers that a packet may be written to, at most a header and [`MAX_DATA`].
pub fn places(chain: Chain<'_>, places: &mut Vec<(GuestAddress, usize)>) {
    places.clear();
    let mut left = HEADER + MAX_DATA;
    for descriptor in chain.filter(virtio_queue::desc::split::Descriptor::is_write_only) {
        let len = left.min(descriptor.len() as usize);
        if len > 0 {
            places.push((descriptor.addr(), len));
            left -= len;
        }
    }
}

fn outside() -> Broken {
    Broken::Request("its buffer lies outside of RAM")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_are_what_their_bytes_say(bytes in proptest::array::uniform::<_, HEADER>(any::<u8>())) {
            prop_assert_eq!(Header::parse(&bytes).bytes(), bytes);
        }
    }
}
