//! A running split virtqueue as its device sees it (virtio 1.3 §2.7): chains come out, used lengths go in.
//!
//! On `virtio_queue`'s available ring and chains it adds what devices here need besides: used entries that are published
//! together (a received packet may fill several chains, and the driver must see all or none), both ways of interrupt
//! suppression, and a bound on the work done before other queues get their turn.

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::device::{ActiveQueue, Notify};

/// Guest memory as queues read it.
pub type Ram = GuestMemoryMmap<()>;
/// A request: a list of descriptors.
pub type Chain<'r> = DescriptorChain<&'r Ram>;

/// Chains served in one go before the thread looks for other events.
const BUDGET: u32 = 256;
/// Chains after whose return the driver is asked whether it wants an interrupt: often enough that it can refill the queue
/// while a slow disk works on the rest, seldom enough that a fast one isn't held up.
const SIGNAL_EVERY: u32 = 8;
/// How to wait for a kick. Every write to an eventfd is an edge, so its counter need not be read: one system call less.
pub const KICKED: EventSet = EventSet::IN.union(EventSet::EDGE_TRIGGERED);
/// Bytes of a used ring's header, and of each of its entries.
const USED_HEADER: u64 = 4;
const USED_ENTRY: u64 = 8;
/// Offset of the index in both rings.
const INDEX: u64 = 2;
/// The driver wants no interrupts (`VIRTQ_AVAIL_F_NO_INTERRUPT`).
const NO_INTERRUPT: u16 = 1;

/// The driver broke the rules in a way that leaves no way to answer: the device needs a reset.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The rings make no sense.
    #[error("virtqueue")]
    Ring(#[source] virtio_queue::Error),
    /// The rings are no longer in guest memory.
    #[error("virtqueue rings lie outside of RAM")]
    OutsideRam,
    /// A request has no room for the answer.
    #[error("virtio request: {0}")]
    Request(&'static str),
}

/// What became of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// It is done, with so many bytes written to it.
    Now(u32),
    /// It can't be done yet.
    Later,
}

impl From<virtio_queue::Error> for Broken {
    fn from(error: virtio_queue::Error) -> Self {
        Self::Ring(error)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Virtqueue {
    index: u16,
    queue: Queue,
    kick: EventFd,
    notify: Arc<dyn Notify>,
    /// Used entries written.
    used: Wrapping<u16>,
    /// Of these, published.
    published: Wrapping<u16>,
    /// Of these, considered for an interrupt.
    signalled: Wrapping<u16>,
}

impl Virtqueue {
    /// Takes over a queue that the driver has set up.
    pub fn new(active: ActiveQueue, notify: Arc<dyn Notify>) -> Self {
        let ActiveQueue { index, queue, kick } = active;
        let start = Wrapping(queue.next_used());
        Self { index, queue, kick, notify, used: start, published: start, signalled: start }
    }

    /// Written when the driver kicks; to be waited for with [`KICKED`].
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// The next chain that the driver made available.
    pub fn pop<'r>(&mut self, ram: &'r Ram) -> Result<Option<Chain<'r>>, Broken> {
        Ok(self.queue.iter(ram)?.next())
    }

    /// Whether the driver has made more chains available than were taken.
    pub fn has_more(&self, ram: &Ram) -> bool {
        let available = self.queue.avail_idx(ram, Ordering::Acquire);
        available.is_ok_and(|index| index != Wrapping(self.queue.next_avail()))
    }

    /// Gives a chain back, `len` bytes of it written. The driver doesn't see it before [`Virtqueue::publish`].
    pub fn add_used(&mut self, ram: &Ram, head: u16, len: u32) -> Result<(), Broken> {
        let slot = u64::from(self.used.0 % self.queue.size());
        let entry = u64::from(head) | u64::from(len) << 32;
        ram.write_obj(entry.to_le(), self.used_ring(USED_HEADER + slot * USED_ENTRY)?)
            .map_err(|_| Broken::OutsideRam)?;
        self.used += 1;
        Ok(())
    }

    /// Shows the driver all chains given back so far.
    pub fn publish(&mut self, ram: &Ram) -> Result<(), Broken> {
        if self.published != self.used {
            let index = self.used_ring(INDEX)?;
            ram.store(self.used.0.to_le(), index, Ordering::Release).map_err(|_| Broken::OutsideRam)?;
            self.published = self.used;
        }
        Ok(())
    }

    /// Publishes, and interrupts the driver if it wants that.
    pub fn signal(&mut self, ram: &Ram) -> Result<(), Broken> {
        self.publish(ram)?;
        if self.signalled != self.published && self.wants_interrupt(ram)? {
            self.notify.queue(self.index);
        }
        self.signalled = self.published;
        Ok(())
    }

    // virtio 1.3 §2.7.7.
    fn wants_interrupt(&self, ram: &Ram) -> Result<bool, Broken> {
        // The used index must be out before the driver's wish is read: it writes its wish, then reads the index.
        fence(Ordering::SeqCst);
        let offset = if self.queue.event_idx_enabled() { 4 + 2 * u64::from(self.queue.size()) } else { 0 };
        let address = GuestAddress(self.queue.avail_ring()).checked_add(offset).ok_or(Broken::OutsideRam)?;
        let word = ram.load(address, Ordering::Relaxed).map(u16::from_le).map_err(|_| Broken::OutsideRam)?;
        if self.queue.event_idx_enabled() {
            let (event, new, old) = (Wrapping(word), self.published, self.signalled);
            Ok(new - event - Wrapping(1) < new - old)
        } else {
            Ok(word & NO_INTERRUPT == 0)
        }
    }

    /// Asks the driver not to kick.
    pub fn disable_kicks(&mut self, ram: &Ram) -> Result<(), Broken> {
        Ok(self.queue.disable_notification(ram)?)
    }

    /// Asks the driver to kick again. True when chains have come meanwhile, for which no kick may follow.
    pub fn enable_kicks(&mut self, ram: &Ram) -> Result<bool, Broken> {
        Ok(self.queue.enable_notification(ram)?)
    }

    /// Serves what is available: `serve` gets each chain and returns the bytes written to it. The driver is interrupted
    /// once per batch at most. A queue that never runs dry kicks itself, so that its thread's other work gets a turn.
    pub fn drain<'r>(
        &mut self,
        ram: &'r Ram,
        serve: impl FnMut(Chain<'r>) -> Result<u32, Broken>,
    ) -> Result<(), Broken> {
        self.drain_while(ram, || true, serve)
    }

    /// The same while `room` says so; without room the rest waits for the next call, which no kick may bring about.
    pub fn drain_while<'r>(
        &mut self,
        ram: &'r Ram,
        room: impl Fn() -> bool,
        mut serve: impl FnMut(Chain<'r>) -> Result<u32, Broken>,
    ) -> Result<(), Broken> {
        self.drain_with(ram, room, |chain| serve(chain).map(Served::Now))
    }

    /// The same, up to a chain that is put off: that will be the first to be served next time, for which somebody else has
    /// to kick.
    pub fn drain_until_later<'r>(
        &mut self,
        ram: &'r Ram,
        room: impl Fn() -> bool,
        serve: impl FnMut(Chain<'r>) -> Result<Served, Broken>,
    ) -> Result<(), Broken> {
        self.drain_with(ram, room, serve)
    }

    fn drain_with<'r>(
        &mut self,
        ram: &'r Ram,
        room: impl Fn() -> bool,
        mut serve: impl FnMut(Chain<'r>) -> Result<Served, Broken>,
    ) -> Result<(), Broken> {
        let mut left = BUDGET;
        loop {
            self.disable_kicks(ram)?;
            while left > 0 {
                if !room() {
                    return self.signal(ram);
                }
                let Some(chain) = self.pop(ram)? else { break };
                let head = chain.head_index();
                let len = match serve(chain)? {
                    Served::Now(len) => len,
                    Served::Later => {
                        self.queue.set_next_avail(self.queue.next_avail().wrapping_sub(1));
                        return self.signal(ram);
                    }
                };
                self.add_used(ram, head, len)?;
                self.publish(ram)?;
                left -= 1;
                if left.is_multiple_of(SIGNAL_EVERY) {
                    self.signal(ram)?;
                }
            }
            self.signal(ram)?;
            if left == 0 {
                let _ = self.kick.write(1);
                return Ok(());
            }
            if !self.enable_kicks(ram)? {
                return Ok(());
            }
        }
    }

    /// Tells the driver that the device can't go on.
    pub fn fail(&self) {
        self.notify.failed();
    }

    fn used_ring(&self, offset: u64) -> Result<GuestAddress, Broken> {
        GuestAddress(self.queue.used_ring()).checked_add(offset).ok_or(Broken::OutsideRam)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{DATA, DriverQueue, Part, Told, ram};

    /// Interrupts of a batch of 20 chains, and of none.
    fn interrupts(queue: DriverQueue, prepare: impl FnOnce(&DriverQueue)) -> (u32, u32) {
        let (told, mut queue) = (Arc::new(Told::default()), queue);
        let mut served = Virtqueue::new(queue.active(0), told.clone());
        prepare(&queue);
        for _ in 0..20 {
            queue.add(&[Part::Out(DATA, 1)]);
        }
        let ram = Arc::clone(&queue.ram);
        served.drain(&ram, |_| Ok(0)).unwrap();
        let busy = told.interrupts();
        served.drain(&ram, |_| Ok(0)).unwrap();
        (busy, told.interrupts() - busy)
    }

    #[test]
    fn a_driver_is_told_now_and_then_while_a_batch_is_served_and_at_its_end() {
        let queue = || DriverQueue::new(&ram(), 0x1000, 64);
        assert_eq!(interrupts(queue(), |_| {}), (3, 0), "after 8, 16 and 20");
        assert_eq!(interrupts(queue(), |queue| queue.set_avail_flags(NO_INTERRUPT)), (0, 0));
        for (event, expected) in [(0, 1), (15, 1), (19, 1), (20, 0)] {
            let found = interrupts(queue().with_event_idx(), |queue| queue.set_used_event(event));
            assert_eq!(found, (expected, 0), "wanted after {event}");
        }
    }
}
