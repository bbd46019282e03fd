//! The transmit queue: guest to tap.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::link::Link;
use super::tap::Tap;
use super::{HEADER, request};
use crate::event_loop::EventLoop;
use crate::memory::GuestRam;
use crate::memory::guest_buffers::GuestBuffers;
use crate::virtio::throttle::Throttle;
use crate::virtio::virtqueue::Virtqueue;

/// Work of the transmit thread. Dead once its queue is broken, until the device is reset.
#[derive(Debug)]
pub struct Transmit {
    ram: GuestRam,
    queue: Virtqueue,
    tap: Arc<Tap>,
    link: Link,
    throttle: Throttle,
    buffers: GuestBuffers,
    broken: bool,
}

impl Transmit {
    pub fn new(ram: GuestRam, queue: Virtqueue, tap: Arc<Tap>, link: Link, throttle: Throttle) -> Self {
        let buffers = GuestBuffers::new(Arc::clone(&ram));
        Self { ram, queue, tap, link, throttle, buffers, broken: false }
    }

    /// Sends what the driver has queued.
    pub fn kicked(&mut self, events: &mut EventLoop) {
        if self.broken {
            return;
        }
        let (tap, link, throttle, buffers) = (&self.tap, &self.link, &self.throttle, &mut self.buffers);
        let room = || throttle.is_open();
        let done = self.queue.drain_while(&self.ram, room, |chain| {
            if request::transmit(chain, buffers).is_ok() && link.is_up() {
                // A full or absent tap, or a header that it doesn't believe: the packet is lost, as packets may be.
                let _ = buffers.write(tap.as_fd());
                throttle.take((buffers.len() - HEADER) as u64);
            }
            Ok(0)
        });
        throttle.rest(events);
        if done.is_err() {
            self.broken = true;
            self.queue.fail();
        }
    }
}
