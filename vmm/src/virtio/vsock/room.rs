//! The receive queue's next buffers: taken from the driver when there is something to say, kept while there turns out to be
//! nothing.

use std::os::fd::BorrowedFd;

use vm_memory::{Address, GuestAddress};

use super::packet::{self, HEADER, Header};
use crate::memory::GuestRam;
use crate::memory::guest_buffers::GuestBuffers;
use crate::virtio::virtqueue::{Broken, Virtqueue};

/// The queue, and the chain in hand.
#[derive(Debug)]
pub(super) struct Room {
    ram: GuestRam,
    queue: Virtqueue,
    /// Head of the chain in hand.
    head: Option<u16>,
    places: Vec<(GuestAddress, usize)>,
    header: GuestBuffers,
    data: GuestBuffers,
}

impl Room {
    pub fn new(ram: GuestRam, queue: Virtqueue) -> Self {
        let buffers = || GuestBuffers::new(ram.clone());
        let (header, data) = (buffers(), buffers());
        Self { ram, queue, head: None, places: Vec::new(), header, data }
    }

    /// Takes a chain, unless one is in hand; false if the driver has none, which it will kick for.
    pub fn take(&mut self) -> Result<bool, Broken> {
        if self.head.is_some() {
            return Ok(true);
        }
        let ram = &*self.ram;
        loop {
            if let Some(chain) = self.queue.pop(ram)? {
                let head = chain.head_index();
                packet::places(chain, &mut self.places);
                self.header.clear();
                gather(&self.places, 0, HEADER, &mut self.header)?;
                if self.header.len() < HEADER {
                    return Err(Broken::Request("a vsock buffer is smaller than a header"));
                }
                self.head = Some(head);
                return Ok(true);
            }
            if !self.queue.enable_kicks(ram)? {
                return Ok(false);
            }
        }
    }

    /// Reads at most `limit` bytes from `socket` to where a packet's data goes; `None` if the chain in hand has room for a
    /// header only.
    pub fn read(&mut self, socket: BorrowedFd, limit: usize) -> Result<Option<std::io::Result<usize>>, Broken> {
        self.data.clear();
        gather(&self.places, HEADER, limit, &mut self.data)?;
        Ok((!self.data.is_empty()).then(|| self.data.read(socket)))
    }

    /// Makes a packet of the chain in hand; its data, if any, has been read.
    pub fn send(&mut self, header: &Header) -> Result<(), Broken> {
        let Some(head) = self.head.take() else { return Ok(()) };
        self.header.put(0, &header.bytes());
        let len = u32::try_from(HEADER).unwrap_or(0) + header.len;
        self.queue.add_used(&self.ram, head, len)
    }

    /// Shows the driver everything sent so far.
    pub fn signal(&mut self) -> Result<(), Broken> {
        self.queue.signal(&self.ram)
    }

    pub fn fail(&self) {
        self.queue.fail();
    }
}

/// Adds the bytes `from .. from + limit` of what `places` name, as far as they go.
fn gather(
    places: &[(GuestAddress, usize)],
    from: usize,
    limit: usize,
    buffers: &mut GuestBuffers,
) -> Result<(), Broken> {
    let (mut skip, mut left) = (from, limit);
    for (addr, len) in places {
        let lead = skip.min(*len);
        skip -= lead;
        let part = left.min(len - lead);
        if part > 0 {
            let outside = || Broken::Request("its buffer lies outside of RAM");
            let start = addr.checked_add(lead as u64).ok_or_else(outside)?;
            buffers.push(start, part).map_err(|_| outside())?;
            left -= part;
        }
    }
    Ok(())
}
