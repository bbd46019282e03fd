//! virtio-rng (virtio 1.3 §5.4): entropy from the host's getrandom. Served on the machine's event thread.

use crate::memory::GuestRam;
use crate::memory::guest_buffers::GuestBuffers;
use crate::random;
use crate::virtio::device::{ActivateError, Activation, DeviceId, VirtioDevice};
use crate::virtio::served::Served;
use crate::virtio::virtqueue::{Broken, Chain, Virtqueue};

#[cfg(test)]
mod tests;

/// Requests that may be queued.
const QUEUE_SIZE: u16 = 64;
/// Bytes that one request gets at most: overlapping descriptors could ask for gigabytes, and the event thread has other
/// work. Drivers take fewer bytes than they asked for.
const MAX_BYTES: usize = 4096;

/// The entropy device.
#[derive(Debug, Default)]
pub struct Rng {
    served: Option<Served<Source>>,
}

#[derive(Debug)]
struct Source {
    ram: GuestRam,
    queue: Virtqueue,
    buffers: GuestBuffers,
    broken: bool,
}

impl Rng {
    /// An inactive one.
    pub fn new() -> Self {
        Self::default()
    }
}

impl VirtioDevice for Rng {
    fn id(&self) -> DeviceId {
        DeviceId::Rng
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { ram, mut queues, notify, events, .. } = activation;
        let queue = queues.pop().ok_or(ActivateError::MissingQueue(0))?;
        let queue = Virtqueue::new(queue, notify);
        let kick = queue.kick().try_clone();
        let kick = kick.map_err(|source| ActivateError::Host { what: "entropy queue's eventfd", source })?;
        let source = Source { buffers: GuestBuffers::new(ram.clone()), ram, queue, broken: false };
        let served = Served::new(&events, source, &[&kick], |source, _| source.kicked());
        self.served = Some(served.map_err(|source| ActivateError::Host { what: "entropy queue's eventfd", source })?);
        Ok(())
    }

    fn reset(&mut self) {
        self.served = None;
    }

    fn pause(&mut self) {
        self.served.iter().for_each(|served| served.set_paused(true));
    }

    fn resume(&mut self) {
        self.served.iter().for_each(|served| served.set_paused(false));
    }
}

impl Source {
    fn kicked(&mut self) {
        if self.broken {
            return;
        }
        let buffers = &mut self.buffers;
        if self.queue.drain(&self.ram, |chain| fill(chain, buffers)).is_err() {
            self.broken = true;
            self.queue.fail();
        }
    }
}

/// Fills the writable part of `chain` and returns the bytes written.
fn fill(chain: Chain<'_>, buffers: &mut GuestBuffers) -> Result<u32, Broken> {
    buffers.clear();
    for descriptor in chain {
        let room = MAX_BYTES - buffers.len();
        let len = room.min(descriptor.len() as usize);
        if descriptor.is_write_only() && len > 0 {
            buffers.push(descriptor.addr(), len).map_err(|_| Broken::Request("its buffer lies outside of RAM"))?;
        }
    }
    let mut bytes = [0; MAX_BYTES];
    let bytes = &mut bytes[..buffers.len()];
    random::fill(bytes).map_err(|_| Broken::Request("the host has no entropy"))?;
    buffers.put(0, bytes);
    Ok(u32::try_from(bytes.len()).unwrap_or(u32::MAX))
}
