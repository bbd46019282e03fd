//! The transmit queue: guest to tap.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::link::Link;
use super::request;
use super::tap::Tap;
use crate::memory::GuestRam;
use crate::memory::guest_buffers::GuestBuffers;
use crate::virtio::virtqueue::Virtqueue;

/// Work of the transmit thread. Dead once its queue is broken, until the device is reset.
#[derive(Debug)]
pub struct Transmit {
    ram: GuestRam,
    queue: Virtqueue,
    tap: Arc<Tap>,
    link: Link,
    buffers: GuestBuffers,
    broken: bool,
}

impl Transmit {
    pub fn new(ram: GuestRam, queue: Virtqueue, tap: Arc<Tap>, link: Link) -> Self {
        let buffers = GuestBuffers::new(Arc::clone(&ram));
        Self { ram, queue, tap, link, buffers, broken: false }
    }

    /// Sends what the driver has queued.
    pub fn kicked(&mut self) {
        if self.broken {
            return;
        }
        let (tap, link, buffers) = (&self.tap, &self.link, &mut self.buffers);
        let done = self.queue.drain(&self.ram, |chain| {
            if request::transmit(chain, buffers).is_ok() && link.is_up() {
                // A full or absent tap, or a header that it doesn't believe: the packet is lost, as packets may be.
                let _ = buffers.write(tap.as_fd());
            }
            Ok(0)
        });
        if done.is_err() {
            self.broken = true;
            self.queue.fail();
        }
    }
}
