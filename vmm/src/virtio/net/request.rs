//! Reads the chains of a network card's queues into lists of guest memory.

use super::{HEADER, MAX_PACKET};
use crate::memory::guest_buffers::{BufferError, GuestBuffers};
use crate::virtio::virtqueue::{Broken, Chain};

/// Bytes of the shortest Ethernet frame that can be sent: its header.
const MIN_FRAME: usize = 14;

/// Why a packet isn't sent. Networks lose packets: the driver gets its buffers back, and that is all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Shorter than its headers, or longer than any packet.
    Length,
    /// Its buffers aren't what they should be.
    Buffer(BufferError),
}

/// Leaves the packet of a transmit chain, header first, in `buffers`.
pub fn transmit(chain: Chain<'_>, buffers: &mut GuestBuffers) -> Result<(), Dropped> {
    buffers.clear();
    for descriptor in chain {
        if descriptor.is_write_only() || descriptor.len() == 0 {
            continue;
        }
        if descriptor.len() as usize > MAX_PACKET - buffers.len() {
            return Err(Dropped::Length);
        }
        buffers.push(descriptor.addr(), descriptor.len() as usize).map_err(Dropped::Buffer)?;
    }
    if buffers.len() < HEADER + MIN_FRAME { Err(Dropped::Length) } else { Ok(()) }
}

/// Appends the room of a receive chain to `buffers`, and returns it: bytes (not 0) and segments.
pub fn receive(chain: Chain<'_>, buffers: &mut GuestBuffers) -> Result<(usize, usize), Broken> {
    let (len, segments) = (buffers.len(), buffers.segments());
    for descriptor in chain {
        if descriptor.is_write_only() {
            let added = buffers.push(descriptor.addr(), descriptor.len() as usize);
            added.map_err(|_| Broken::Request("a receive buffer lies outside of RAM or has too many parts"))?;
        }
    }
    match buffers.len() - len {
        0 => Err(Broken::Request("a receive buffer has no room")),
        added => Ok((added, buffers.segments() - segments)),
    }
}
