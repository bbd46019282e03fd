//! The console device and its port's host side.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::request;
use crate::console::hub::{Hub, Input};
use crate::event_loop;
use crate::memory::GuestRam;
use crate::virtio::device::{ActivateError, Activation, ActiveQueue, DeviceId, Notify, VirtioDevice, read_bytes};
use crate::virtio::served::Served;
use crate::virtio::virtqueue::{Broken, Virtqueue};

/// The configuration space has the console's size (virtio 1.3 §5.3.3).
const FEATURE_SIZE: u64 = 1;
/// Queues of port 0.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const QUEUE_SIZES: [u16; 2] = [64, 64];

/// Where the console's output goes and its input comes from. Called on the event thread.
pub trait Backend: Send + Sync {
    /// Takes what the guest wrote; never blocks.
    fn output(&self, bytes: &[u8]);
    /// The guest has room for input: [`Port::offer`] what is waiting.
    fn input_ready(&self);
}

/// The device.
#[derive(Debug)]
pub struct Console {
    shared: Arc<Shared>,
}

/// The host's side of port 0. Clones are the same port.
#[derive(Debug, Clone)]
pub struct Port(Arc<Shared>);

struct Shared {
    /// None: output goes nowhere, and there is no input.
    backend: Option<Arc<dyn Backend>>,
    /// Columns and rows; zero until the host tells.
    size: Mutex<(u16, u16)>,
    live: Mutex<Option<Live>>,
}

#[derive(Debug)]
struct Live {
    served: Served<Streams>,
    notify: Arc<dyn Notify>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("size", &self.size).field("live", &self.live).finish_non_exhaustive()
    }
}

impl Shared {
    fn set_paused(&self, paused: bool) {
        if let Some(live) = &*self.live.lock().unwrap_or_else(PoisonError::into_inner) {
            live.served.set_paused(paused);
        }
    }
}

impl Console {
    /// An inactive console and its port. Without a backend the guest's output goes nowhere.
    pub fn new(backend: Option<Arc<dyn Backend>>) -> (Self, Port) {
        let shared = Arc::new(Shared { backend, size: Mutex::default(), live: Mutex::default() });
        (Self { shared: Arc::clone(&shared) }, Port(shared))
    }
}

impl Port {
    /// Gives the guest input; returns how many bytes it had room for. When that isn't all, [`Backend::input_ready`] will
    /// follow.
    pub fn offer(&self, bytes: &[u8]) -> usize {
        let live = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.as_ref().and_then(|live| live.served.with(|streams| streams.offer(bytes))).unwrap_or(0)
    }

    /// Tells the guest the size of the terminal.
    pub fn resize(&self, columns: u16, rows: u16) {
        *self.0.size.lock().unwrap_or_else(PoisonError::into_inner) = (columns, rows);
        if let Some(live) = &*self.0.live.lock().unwrap_or_else(PoisonError::into_inner) {
            live.notify.config();
        }
    }
}

impl Input for Port {
    fn offer(&self, bytes: &[u8]) -> usize {
        self.offer(bytes)
    }
}

impl Backend for Hub {
    fn output(&self, bytes: &[u8]) {
        self.write(bytes);
    }

    fn input_ready(&self) {
        self.input_ready();
    }
}

impl VirtioDevice for Console {
    fn id(&self) -> DeviceId {
        DeviceId::Console
    }

    fn features(&self) -> u64 {
        FEATURE_SIZE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// `struct virtio_console_config`: cols, rows, max_nr_ports, emerg_wr (virtio 1.3 §5.3.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let (columns, rows) = *self.shared.size.lock().unwrap_or_else(PoisonError::into_inner);
        let mut config = [0; 12];
        config[..2].copy_from_slice(&columns.to_le_bytes());
        config[2..4].copy_from_slice(&rows.to_le_bytes());
        config[4..8].copy_from_slice(&1_u32.to_le_bytes());
        read_bytes(&config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { ram, queues, notify, events, .. } = activation;
        let mut queues = queues.into_iter();
        let mut take = |index: u16| {
            let queue = queues.next().filter(|q: &ActiveQueue| q.index == index);
            Ok(Virtqueue::new(queue.ok_or(ActivateError::MissingQueue(index))?, Arc::clone(&notify)))
        };
        let (receive, transmit) = (take(RECEIVE)?, take(TRANSMIT)?);
        let host = |source| ActivateError::Host { what: "console queue's eventfd", source };
        let kicks = [receive.kick().try_clone().map_err(host)?, transmit.kick().try_clone().map_err(host)?];
        let backend = self.shared.backend.clone();
        let streams = Streams { ram, receive, transmit, backend, events: events.clone(), broken: false };
        let served = Served::new(&events, streams, &[&kicks[0], &kicks[1]], |streams, index| match index {
            0 => streams.receive_kicked(),
            _ => streams.transmit_kicked(),
        });
        let live = Live { served: served.map_err(host)?, notify };
        *self.shared.live.lock().unwrap_or_else(PoisonError::into_inner) = Some(live);
        // Input may have waited for the guest to come up.
        if let Some(backend) = self.shared.backend.clone() {
            events.run(move |_| backend.input_ready());
        }
        Ok(())
    }

    fn reset(&mut self) {
        *self.shared.live.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn pause(&mut self) {
        self.shared.set_paused(true);
    }

    /// Input that came meanwhile is offered once more: the kicks that follow say that there is room.
    fn resume(&mut self) {
        self.shared.set_paused(false);
    }
}

/// The running queues.
struct Streams {
    ram: GuestRam,
    receive: Virtqueue,
    transmit: Virtqueue,
    backend: Option<Arc<dyn Backend>>,
    events: event_loop::Handle,
    broken: bool,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams")
            .field("receive", &self.receive)
            .field("transmit", &self.transmit)
            .finish_non_exhaustive()
    }
}

impl Streams {
    fn receive_kicked(&mut self) {
        // Not from here: the backend offers at once, and this state is locked.
        if let Some(backend) = self.backend.clone() {
            self.events.run(move |_| backend.input_ready());
        }
    }

    fn transmit_kicked(&mut self) {
        let (ram, backend) = (&*self.ram, &self.backend);
        if !self.broken {
            let done = self.transmit.drain(ram, |chain| {
                request::transmit(ram, chain, |bytes| {
                    if let Some(backend) = backend {
                        backend.output(bytes);
                    }
                })?;
                Ok(0)
            });
            self.check(&done);
        }
    }

    fn offer(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        if !self.broken {
            let done = self.give(bytes, &mut taken);
            self.check(&done);
        }
        taken
    }

    fn give(&mut self, bytes: &[u8], taken: &mut usize) -> Result<(), Broken> {
        let queue = &mut self.receive;
        queue.disable_kicks(&self.ram)?;
        while *taken < bytes.len() {
            let Some(chain) = queue.pop(&self.ram)? else {
                if queue.enable_kicks(&self.ram)? {
                    continue;
                }
                break;
            };
            let head = chain.head_index();
            let len = request::receive(&self.ram, chain, &bytes[*taken..])?;
            if len == 0 {
                return Err(Broken::Request("a console buffer has no room"));
            }
            *taken += len;
            queue.add_used(&self.ram, head, u32::try_from(len).unwrap_or(u32::MAX))?;
        }
        queue.signal(&self.ram)
    }

    fn check(&mut self, done: &Result<(), Broken>) {
        if done.is_err() {
            self.broken = true;
            self.transmit.fail();
        }
    }
}
