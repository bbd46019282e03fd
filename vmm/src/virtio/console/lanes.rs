//! The running queues: a lane for each port, and the control queues.

use std::sync::Arc;

use super::control::{Change, HEADER, Protocol};
use super::device::Backend;
use super::request;
use crate::event_loop;
use crate::memory::GuestRam;
use crate::virtio::virtqueue::{Broken, Ram, Virtqueue};

/// A port's two queues.
#[derive(Debug)]
pub(super) struct Lane {
    pub receive: Virtqueue,
    pub transmit: Virtqueue,
    pub backend: Option<Arc<dyn Backend>>,
}

/// The control queues (virtio 1.3 §5.3.2), where the driver has MULTIPORT.
#[derive(Debug)]
pub(super) struct Control {
    pub receive: Virtqueue,
    pub transmit: Virtqueue,
    pub protocol: Protocol,
}

/// What a queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Receive(usize),
    Transmit(usize),
    Control,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Lanes {
    pub ram: GuestRam,
    /// By port; one that the driver didn't set up is `None`.
    pub ports: Vec<Option<Lane>>,
    pub control: Option<Control>,
    /// What the queues are whose kicks are waited for.
    pub places: Vec<Place>,
    pub events: event_loop::Handle,
    pub broken: bool,
}

impl Lanes {
    /// The driver has kicked a queue.
    pub fn kicked(&mut self, kick: usize) {
        match self.places.get(kick) {
            Some(Place::Receive(port)) => self.input_ready(*port),
            Some(Place::Transmit(port)) => self.transmit(*port),
            Some(Place::Control) => self.converse().into_iter().for_each(|port| self.input_ready(port)),
            None => {}
        }
    }

    /// The guest may have room for input. The backend hears of it later: it offers at once, and the lanes are locked.
    pub fn input_ready(&self, port: usize) {
        if let Some(Some(Lane { backend: Some(backend), .. })) = self.ports.get(port) {
            let backend = Arc::clone(backend);
            self.events.run(move |_| backend.input_ready());
        }
    }

    /// Serves what the guest has written to a port, as far as its backend has room.
    pub fn transmit(&mut self, port: usize) {
        if self.broken {
            return;
        }
        let ram = &*self.ram;
        let Some(Some(Lane { transmit, backend, .. })) = self.ports.get_mut(port) else { return };
        let backend = backend.as_deref();
        let room = || backend.is_none_or(Backend::has_room);
        let done = transmit.drain_while(ram, room, |chain| {
            request::transmit(ram, chain, |bytes| {
                if let Some(backend) = backend {
                    backend.output(bytes);
                }
            })?;
            Ok(0)
        });
        self.check(&done);
    }

    /// Gives a port input; returns how many bytes it had room for.
    pub fn offer(&mut self, port: usize, bytes: &[u8]) -> usize {
        let mut taken = 0;
        let listens = self.control.as_ref().is_none_or(|control| control.protocol.takes_input(port));
        if !self.broken
            && listens
            && let Some(Some(lane)) = self.ports.get_mut(port)
        {
            let done = give(&self.ram, &mut lane.receive, bytes, &mut taken);
            self.check(&done);
        }
        taken
    }

    /// Hears the driver out and tells it what is to be told. Returns the ports that it has opened.
    fn converse(&mut self) -> Vec<usize> {
        let mut opened = Vec::new();
        if !self.broken {
            let done = self.hear(&mut opened).and_then(|()| self.tell());
            self.check(&done);
        }
        opened
    }

    fn hear(&mut self, opened: &mut Vec<usize>) -> Result<(), Broken> {
        let ram = &*self.ram;
        let Some(Control { receive, transmit, protocol }) = &mut self.control else { return Ok(()) };
        loop {
            // Read while the answers find buffers: a driver that takes none isn't listened to.
            send(ram, receive, protocol)?;
            if protocol.full() {
                return Ok(());
            }
            let Some(chain) = transmit.pop(ram)? else {
                if transmit.enable_kicks(ram)? {
                    continue;
                }
                return transmit.signal(ram);
            };
            let head = chain.head_index();
            let mut message = [0; HEADER];
            let mut len = 0;
            request::transmit(ram, chain, |bytes| {
                for (to, from) in message[len.min(HEADER)..].iter_mut().zip(bytes) {
                    *to = *from;
                }
                len += bytes.len();
            })?;
            if len >= HEADER
                && let Change::Opened(port) = protocol.hear(message)
            {
                opened.push(port);
            }
            transmit.add_used(ram, head, 0)?;
            transmit.signal(ram)?;
        }
    }

    /// Tells the driver what is to be told, as far as it has buffers.
    fn tell(&mut self) -> Result<(), Broken> {
        match &mut self.control {
            Some(Control { receive, protocol, .. }) => send(&self.ram, receive, protocol),
            None => Ok(()),
        }
    }

    /// Tells the driver what somebody on the host's side has changed.
    pub fn change(&mut self, change: impl FnOnce(&mut Protocol)) {
        if let Some(control) = &mut self.control {
            change(&mut control.protocol);
        }
        if !self.broken {
            let done = self.tell();
            self.check(&done);
        }
    }

    fn check(&mut self, done: &Result<(), Broken>) {
        if done.is_err() {
            self.broken = true;
            if let Some(lane) = self.ports.iter().flatten().next() {
                lane.transmit.fail();
            }
        }
    }
}

fn send(ram: &Ram, queue: &mut Virtqueue, protocol: &mut Protocol) -> Result<(), Broken> {
    while !protocol.is_empty() {
        let Some(chain) = queue.pop(ram)? else {
            if queue.enable_kicks(ram)? {
                continue;
            }
            break;
        };
        let (head, Some(message)) = (chain.head_index(), protocol.take()) else { break };
        if request::receive(ram, chain, &message)? < message.len() {
            return Err(Broken::Request("a control buffer is too small"));
        }
        queue.add_used(ram, head, u32::try_from(message.len()).unwrap_or(u32::MAX))?;
    }
    queue.signal(ram)
}

fn give(ram: &Ram, queue: &mut Virtqueue, bytes: &[u8], taken: &mut usize) -> Result<(), Broken> {
    queue.disable_kicks(ram)?;
    while *taken < bytes.len() {
        let Some(chain) = queue.pop(ram)? else {
            if queue.enable_kicks(ram)? {
                continue;
            }
            break;
        };
        let head = chain.head_index();
        let len = request::receive(ram, chain, &bytes[*taken..])?;
        if len == 0 {
            return Err(Broken::Request("a console buffer has no room"));
        }
        *taken += len;
        queue.add_used(ram, head, u32::try_from(len).unwrap_or(u32::MAX))?;
    }
    queue.signal(ram)
}
