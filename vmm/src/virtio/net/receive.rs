//! The receive queue: tap to guest.
//!
//! Buffers are gathered until the largest possible packet fits, then a packet is read straight into them. With mergeable
//! buffers (virtio 1.3 §5.1.6.4) a packet takes as many chains as it needs and the rest stay for the next one; without,
//! each packet has a chain to itself. While the driver has too few buffers out, or the card is over its limit, the tap isn't watched:
//! packets wait there as far as it has room, and are lost beyond, as on any wire.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::epoll::EventSet;

use super::link::Link;
use super::tap::Tap;
use super::{HEADER, request};
use crate::event_loop::{EventLoop, Token};
use crate::memory::GuestRam;
use crate::memory::guest_buffers::{GuestBuffers, MAX_SEGMENTS};
use crate::virtio::throttle::Throttle;
use crate::virtio::virtqueue::{Broken, KICKED, Virtqueue};

/// Packets taken from the tap before other events get their turn.
const BUDGET: u32 = 64;
/// Chains given back after which the driver is asked whether it wants an interrupt, besides the first packet's and the last's: it
/// begins while more packets are read, and has buffers for them again in time.
const SIGNAL_EVERY: u32 = 64;
/// Where `num_buffers` is in the header.
const NUM_BUFFERS: usize = 10;

/// What the receive side was told by negotiation.
#[derive(Debug, Clone, Copy)]
pub struct Mode {
    /// VIRTIO_NET_F_MRG_RXBUF.
    pub mergeable: bool,
    /// Bytes of the largest packet that can come, header included.
    pub largest: usize,
}

/// Work of the receive thread. Once its queue is broken or the tap is gone it is dead until the device is reset.
#[derive(Debug)]
pub struct Receive {
    ram: GuestRam,
    queue: Virtqueue,
    tap: Arc<Tap>,
    mode: Mode,
    link: Link,
    throttle: Throttle,
    /// Room of the chains in `gathered`, in order.
    buffers: GuestBuffers,
    gathered: VecDeque<Gathered>,
    watch: Watch,
}

/// The tap's registration with the loop.
#[derive(Debug, Clone, Copy)]
enum Watch {
    /// Waiting for packets.
    On(Token),
    /// Waiting for buffers, or for time to pass.
    Off(Token),
    /// No more: the tap is gone or the queue is broken.
    Gone,
}

#[derive(Debug)]
struct Gathered {
    head: u16,
    len: usize,
    segments: usize,
}

impl Receive {
    pub fn new(ram: GuestRam, queue: Virtqueue, tap: Arc<Tap>, mode: Mode, link: Link, throttle: Throttle) -> Self {
        let buffers = GuestBuffers::new(Arc::clone(&ram));
        Self { ram, queue, tap, mode, link, throttle, buffers, gathered: VecDeque::new(), watch: Watch::Gone }
    }

    /// Has `events` call it for packets and kicks.
    pub fn register(self, events: &mut EventLoop) -> io::Result<()> {
        let (tap, kick) = (self.tap.as_raw_fd(), self.queue.kick().as_raw_fd());
        // Both handlers run on one thread: the lock is never waited for.
        let this = Arc::new(Mutex::new(self));
        let packets = Arc::clone(&this);
        let token = events.add(tap, EventSet::IN, move |events, ready| {
            packets.lock().unwrap_or_else(PoisonError::into_inner).packets_ready(events, ready);
        })?;
        this.lock().unwrap_or_else(PoisonError::into_inner).watch = Watch::On(token);
        events.add(kick, KICKED, move |events, _| {
            this.lock().unwrap_or_else(PoisonError::into_inner).kicked(events);
        })?;
        Ok(())
    }

    fn kicked(&mut self, events: &mut EventLoop) {
        if let Watch::Off(token) = self.watch
            && events.modify(token, EventSet::IN).is_ok()
        {
            self.watch = Watch::On(token);
        }
    }

    fn packets_ready(&mut self, events: &mut EventLoop, ready: EventSet) {
        let (Watch::On(token) | Watch::Off(token)) = self.watch else { return };
        let gone = ready.intersects(EventSet::ERROR | EventSet::HANG_UP);
        let received = self.receive();
        self.throttle.rest(events);
        if received.is_err() {
            self.queue.fail();
        }
        match received {
            Ok(Next::Packets) if !gone => {}
            Ok(Next::Wait) if !gone && events.modify(token, EventSet::empty()).is_ok() => {
                self.watch = Watch::Off(token);
            }
            _ => {
                events.remove(token);
                self.watch = Watch::Gone;
            }
        }
    }

    /// Moves packets until the tap or the driver has no more, or no more may come.
    fn receive(&mut self) -> Result<Next, Broken> {
        let mut next = Next::Packets;
        // So that the first packet is one that is told of.
        let mut untold = SIGNAL_EVERY;
        for _ in 0..BUDGET {
            if !self.throttle.is_open() || !self.gather()? {
                next = Next::Wait;
                break;
            }
            match self.buffers.read(self.tap.as_fd()) {
                // What is shorter than its header is no packet.
                Ok(len) if len < HEADER => break,
                // Lost; the buffers serve the next one.
                Ok(_) if !self.link.is_up() => {}
                Ok(len) => {
                    self.throttle.take((len - HEADER) as u64);
                    untold += self.deliver(len)?;
                    if untold > SIGNAL_EVERY {
                        self.queue.signal(&self.ram)?;
                        untold = 0;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    next = Next::Nothing;
                    break;
                }
            }
        }
        self.queue.signal(&self.ram)?;
        Ok(next)
    }

    /// Takes chains until there is room for any packet; false if the driver has no more.
    fn gather(&mut self) -> Result<bool, Broken> {
        while !self.roomy() {
            let Some(chain) = self.queue.pop(&self.ram)? else {
                if self.queue.enable_kicks(&self.ram)? {
                    continue;
                }
                return Ok(false);
            };
            let head = chain.head_index();
            let (len, segments) = request::receive(chain, &mut self.buffers)?;
            self.gathered.push_back(Gathered { head, len, segments });
        }
        self.queue.disable_kicks(&self.ram)?;
        Ok(true)
    }

    fn roomy(&self) -> bool {
        if self.mode.mergeable {
            // A driver with tiny buffers gets what the list holds.
            self.buffers.len() >= self.mode.largest || self.buffers.segments() >= MAX_SEGMENTS / 2
        } else {
            !self.gathered.is_empty()
        }
    }

    /// Gives the driver the first `len` bytes of the gathered buffers as one packet; how many chains that took.
    fn deliver(&mut self, len: usize) -> Result<u32, Broken> {
        let mut room = 0;
        let takes = |g: &&Gathered| {
            let before = room;
            room += g.len;
            before < len
        };
        let chains = self.gathered.iter().take_while(takes).count();
        // Also 1 without mergeable buffers (virtio 1.3 §5.1.6.4).
        self.buffers.put(NUM_BUFFERS, &u16::try_from(chains).unwrap_or(u16::MAX).to_le_bytes());
        let (mut left, mut segments) = (len, 0);
        for gathered in self.gathered.drain(..chains) {
            let part = left.min(gathered.len);
            left -= part;
            segments += gathered.segments;
            self.queue.add_used(&self.ram, gathered.head, u32::try_from(part).unwrap_or(u32::MAX))?;
        }
        self.buffers.drop_front(segments);
        self.queue.publish(&self.ram)?;
        Ok(u32::try_from(chains).unwrap_or(u32::MAX))
    }
}

/// What the receive side waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Packets,
    /// A kick: of a driver with more buffers, or when more may come.
    Wait,
    /// The tap answers with errors.
    Nothing,
}
