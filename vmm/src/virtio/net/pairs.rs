//! A card's queue pairs: which of them the driver uses, and the threads that serve those.
//!
//! States of a pair: waiting → serving ⇄ resting (its threads paused, its queue of the tap detached, so that the host sends nothing
//! there). All pairs but the first wait until the driver asks for them.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::device::Limiters;
use super::link::Link;
use super::receive::{Mode, Receive};
use super::tap::Tap;
use super::transmit::Transmit;
use crate::event_loop::EventLoop;
use crate::memory::GuestRam;
use crate::virtio::device::ActivateError;
use crate::virtio::throttle::Throttle;
use crate::virtio::virtqueue::{KICKED, Virtqueue};
use crate::worker::Worker;

/// What all pairs of an active card share.
#[derive(Debug)]
pub struct Common {
    /// For thread names.
    pub name: String,
    pub ram: GuestRam,
    pub mode: Mode,
    pub link: Link,
    pub limiters: Limiters,
}

/// The pairs of an active card. Dropped, their threads have ended.
#[derive(Debug)]
pub struct Pairs {
    common: Common,
    taps: Vec<Arc<Tap>>,
    /// Receive and transmit queue of each pair that has not been started; `None` where the driver left one out.
    waiting: Vec<Option<[Virtqueue; 2]>>,
    /// Threads of each started pair.
    started: Vec<[Worker; 2]>,
    serving: usize,
}

impl Pairs {
    /// Pairs of queues, each on its own queue of the tap; none serves yet.
    pub fn new(common: Common, taps: Vec<Arc<Tap>>, queues: Vec<Option<[Virtqueue; 2]>>) -> Self {
        Self { common, taps, waiting: queues, started: Vec::new(), serving: 0 }
    }

    /// Serves the first `count` pairs and no others. [`ActivateError::MissingQueue`] where there aren't as many.
    pub fn serve(&mut self, count: usize) -> Result<(), ActivateError> {
        let ready = |i: usize| i < self.started.len() || self.waiting.get(i).is_some_and(Option::is_some);
        if count == 0 || !(0..count).all(ready) {
            return Err(ActivateError::MissingQueue(u16::try_from(2 * count).unwrap_or(u16::MAX)));
        }
        let host = |source| ActivateError::Host { what: "the tap's queue", source };
        // Resting threads don't look at their queue of the tap, which tells of an error while it is detached.
        for i in count..self.started.len() {
            self.started[i].iter_mut().for_each(Worker::pause);
        }
        for (i, tap) in self.taps.iter().enumerate().skip(1) {
            tap.attach(i < count).map_err(host)?;
        }
        for i in 0..count {
            match self.started.get_mut(i) {
                Some(workers) => workers.iter_mut().for_each(Worker::resume),
                None => self.start(i)?,
            }
        }
        self.serving = count;
        Ok(())
    }

    fn start(&mut self, index: usize) -> Result<(), ActivateError> {
        let Some([receive, transmit]) = self.waiting[index].take() else {
            return Err(ActivateError::MissingQueue(u16::try_from(2 * index).unwrap_or(u16::MAX)));
        };
        let host = |source| ActivateError::Host { what: "network queue thread", source };
        let Common { name, ram, mode, link, limiters } = &self.common;
        let tap = &self.taps[index];
        let throttle = Throttle::new(limiters.receive.as_ref(), receive.kick()).map_err(host)?;
        let receive = Receive::new(Arc::clone(ram), receive, Arc::clone(tap), *mode, link.clone(), throttle);
        let receive = Worker::spawn(&format!("rx{index} {name}"), |events| receive.register(events)).map_err(host)?;
        let kick = transmit.kick().as_raw_fd();
        let throttle = Throttle::new(limiters.transmit.as_ref(), transmit.kick()).map_err(host)?;
        let mut transmit = Transmit::new(Arc::clone(ram), transmit, Arc::clone(tap), link.clone(), throttle);
        let register = move |events: &mut EventLoop| {
            events.add(kick, KICKED, move |events, _| transmit.kicked(events)).map(|_| ())
        };
        let transmit = Worker::spawn(&format!("tx{index} {name}"), register).map_err(host)?;
        self.started.push([receive, transmit]);
        Ok(())
    }

    /// Stands still with the machine.
    pub fn pause(&mut self) {
        self.started.iter_mut().flatten().for_each(Worker::pause);
    }

    /// Goes on with the machine, as many pairs as served before.
    pub fn resume(&mut self) {
        self.started.iter_mut().take(self.serving).flatten().for_each(Worker::resume);
    }
}
