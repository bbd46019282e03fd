//! A card's queue pairs: which of them the driver uses, and who serves those.
//!
//! A pair is served by the host's kernel ([`Vhost`]) where it has been given a descriptor for that and the cable is plugged in,
//! else by a thread here: one for both directions, as the kernel has it, so that what a packet is answered with is found without
//! another thread having to wake up. States of a pair: waiting → serving ⇄ resting (nobody looks at its rings, its queue of the tap is
//! detached, so that the host sends nothing there). All pairs but the first wait until the driver asks for them.
//!
//! Both ways of serving take chains in order and leave none half done, so that the used index in guest memory says where either has
//! stopped; a driver that writes there itself has a broken queue.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueState};
use vm_memory::{Address, Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::device::Limiters;
use super::link::Link;
use super::receive::{Mode, Receive};
use super::tap::Tap;
use super::transmit::Transmit;
use super::vhost::{Vhost, VhostError};
use crate::event_loop::{EventLoop, Handle};
use crate::memory::GuestRam;
use crate::virtio::device::{ActivateError, ActiveQueue, Notify};
use crate::virtio::throttle::Throttle;
use crate::virtio::virtqueue::{KICKED, Virtqueue};
use crate::worker::Worker;

/// What all pairs of an active card share.
#[derive(Debug)]
pub struct Common {
    /// For messages and thread names.
    pub name: String,
    pub ram: GuestRam,
    pub mode: Mode,
    pub link: Link,
    pub limiters: Limiters,
    /// Agreed on with the driver.
    pub features: u64,
    pub notify: Arc<dyn Notify>,
    pub events: Handle,
}

/// The pairs of an active card. Dropped, nothing serves them any more.
#[derive(Debug)]
pub struct Pairs {
    common: Common,
    all: Vec<Pair>,
    serving: usize,
    paused: bool,
}

#[derive(Debug)]
struct Pair {
    tap: Arc<Tap>,
    /// The kernel's part, unless it isn't there or has refused.
    vhost: Option<Arc<File>>,
    /// Receive and transmit; `None` where the driver left one out.
    rings: Option<[Ring; 2]>,
    engine: Engine,
}

/// Who serves a pair.
#[derive(Debug)]
enum Engine {
    Nobody,
    Thread(Worker),
    Kernel(Vhost),
}

/// A queue as the driver has set it up, and where its last engine has stopped.
#[derive(Debug)]
pub struct Ring {
    index: u16,
    state: QueueState,
    kick: EventFd,
}

impl Ring {
    pub fn new(ActiveQueue { index, queue, kick }: ActiveQueue) -> Self {
        Self { index, state: queue.state(), kick }
    }

    fn active(&self) -> Result<ActiveQueue, ActivateError> {
        let host = |source| ActivateError::Host { what: "a network queue", source };
        let queue = Queue::try_from(self.state).map_err(|error| host(std::io::Error::other(error)))?;
        Ok(ActiveQueue { index: self.index, queue, kick: self.kick.try_clone().map_err(host)? })
    }

    /// Goes on from where the used index stands.
    fn take_back(&mut self, ram: &GuestRam) {
        /// Where the index is in the used ring (virtio 1.3 §2.7.8).
        const INDEX: u64 = 2;
        let index = GuestAddress(self.state.used_ring).checked_add(INDEX);
        if let Some(Ok(used)) = index.map(|at| ram.load(at, Ordering::Acquire).map(u16::from_le)) {
            (self.state.next_avail, self.state.next_used) = (used, used);
        }
    }
}

impl Pairs {
    /// Pairs of queues, each on its own queue of the tap; none is served yet, and those that the driver has no rings for never are.
    /// `vhosts` are the kernel's part, one for each pair if there is any.
    pub fn new(common: Common, taps: &[Arc<Tap>], vhosts: &[Arc<File>], rings: Vec<Option<[Ring; 2]>>) -> Self {
        let mut rings = rings.into_iter();
        let pair = |(i, tap)| {
            let (tap, vhost) = (Arc::clone(tap), vhosts.get(i).map(Arc::clone));
            Pair { tap, vhost, rings: rings.next().flatten(), engine: Engine::Nobody }
        };
        let all = taps.iter().enumerate().map(pair).collect();
        Self { common, all, serving: 0, paused: false }
    }

    /// Serves the first `count` pairs and no others. [`ActivateError::MissingQueue`] where there aren't as many.
    pub fn serve(&mut self, count: usize) -> Result<(), ActivateError> {
        let ready = |i: usize| self.all.get(i).is_some_and(|pair| pair.rings.is_some());
        if count == 0 || !(0..count).all(ready) {
            return Err(ActivateError::MissingQueue(u16::try_from(2 * count).unwrap_or(u16::MAX)));
        }
        let host = |source| ActivateError::Host { what: "the tap's queue", source };
        // A resting pair doesn't look at its queue of the tap, which tells of an error while it is detached.
        self.all.iter_mut().skip(count).for_each(|pair| pair.rest(&self.common));
        for (i, pair) in self.all.iter().enumerate().skip(1) {
            pair.tap.attach(i < count).map_err(host)?;
        }
        self.serving = count;
        self.go_on()
    }

    /// Stands still with the machine.
    pub fn pause(&mut self) {
        self.paused = true;
        self.all.iter_mut().for_each(|pair| pair.rest(&self.common));
    }

    /// Goes on with the machine, as many pairs as served before.
    pub fn resume(&mut self) {
        self.paused = false;
        self.follow_link();
    }

    /// Has the pairs served by whom the cable says.
    pub fn follow_link(&mut self) {
        if let Err(error) = self.go_on() {
            eprintln!("nic {:?}: {error}", self.common.name);
            self.common.notify.failed();
        }
    }

    /// Follows a change of the driver's vectors.
    pub fn rewire(&self) {
        for pair in &self.all {
            if let Engine::Kernel(vhost) = &pair.engine
                && let Err(error) = vhost.rewire()
            {
                eprintln!("nic {:?}: {error}", self.common.name);
                self.common.notify.failed();
            }
        }
    }

    fn go_on(&mut self) -> Result<(), ActivateError> {
        if self.paused {
            return Ok(());
        }
        (0..).zip(&mut self.all).take(self.serving).try_for_each(|(i, pair)| pair.serve(i, &self.common))
    }
}

impl Pair {
    fn rest(&mut self, common: &Common) {
        match &mut self.engine {
            Engine::Nobody => {}
            Engine::Thread(worker) => worker.pause(),
            Engine::Kernel(vhost) => {
                if let Err(error) = vhost.set_attached(false) {
                    eprintln!("nic {:?}: {error}", common.name);
                    self.stop(common);
                }
            }
        }
    }

    fn serve(&mut self, index: u16, common: &Common) -> Result<(), ActivateError> {
        let by_kernel = self.vhost.is_some() && common.link.is_up();
        match &mut self.engine {
            Engine::Thread(worker) if !by_kernel => {
                worker.resume();
                return Ok(());
            }
            Engine::Kernel(vhost) if by_kernel => match vhost.set_attached(true) {
                Ok(()) => return Ok(()),
                Err(error) => self.refused(common, &error),
            },
            _ => {}
        }
        self.stop(common);
        let Some([receive, transmit]) = &self.rings else {
            return Err(ActivateError::MissingQueue(2 * index));
        };
        let queues = [receive.active()?, transmit.active()?];
        let kernel = self.vhost.as_ref().filter(|_| by_kernel).map(|file| {
            let Common { ram, features, notify, events, .. } = common;
            Vhost::start(file, &self.tap, ram, &queues, *features, notify, events)
        });
        let engine = match kernel {
            Some(Ok(vhost)) => Engine::Kernel(vhost),
            refused => {
                let worker = thread(index, common, &self.tap, queues)?;
                if let Some(Err(error)) = refused {
                    self.refused(common, &error);
                }
                Engine::Thread(worker)
            }
        };
        // What has come since the last engine stopped.
        for ring in self.rings.iter().flatten() {
            let _ = ring.kick.write(1);
        }
        self.engine = engine;
        Ok(())
    }

    /// The kernel isn't asked again before the driver starts anew.
    fn refused(&mut self, common: &Common, error: &VhostError) {
        use std::error::Error as _;
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        eprintln!("nic {:?}: vhost-net: {error}{cause}; its packets go through this process", common.name);
        self.vhost = None;
    }

    fn stop(&mut self, common: &Common) {
        if let Engine::Nobody = std::mem::replace(&mut self.engine, Engine::Nobody) {
            return;
        }
        for ring in self.rings.iter_mut().flatten() {
            ring.take_back(&common.ram);
        }
    }
}

fn thread(
    index: u16,
    common: &Common,
    tap: &Arc<Tap>,
    [receive, transmit]: [ActiveQueue; 2],
) -> Result<Worker, ActivateError> {
    let host = |source| ActivateError::Host { what: "network queue thread", source };
    let Common { name, ram, mode, link, limiters, notify, .. } = common;
    let throttle = Throttle::new(limiters.receive.as_ref(), &receive.kick).map_err(host)?;
    let receive = Virtqueue::new(receive, Arc::clone(notify));
    let receive = Receive::new(Arc::clone(ram), receive, Arc::clone(tap), *mode, link.clone(), throttle);
    let throttle = Throttle::new(limiters.transmit.as_ref(), &transmit.kick).map_err(host)?;
    let kick = transmit.kick.as_raw_fd();
    let transmit = Virtqueue::new(transmit, Arc::clone(notify));
    let mut transmit = Transmit::new(Arc::clone(ram), transmit, Arc::clone(tap), link.clone(), throttle);
    let register = move |events: &mut EventLoop| {
        receive.register(events)?;
        events.add(kick, KICKED, move |events, _| transmit.kicked(events)).map(|_| ())
    };
    Worker::spawn(&format!("net{index} {name}"), register).map_err(host)
}
