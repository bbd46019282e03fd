//! The console device and its ports' host side.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::control::{PortKind, Protocol};
use super::lanes::{Control, Lane, Lanes, Place};
use crate::console::hub::{Hub, Input};
use crate::console::line::{Channel, Line};
use crate::virtio::device::{ActivateError, Activation, DeviceId, Notify, VirtioDevice, read_bytes};
use crate::virtio::served::Served;
use crate::virtio::virtqueue::Virtqueue;

/// The configuration space has the console's size (virtio 1.3 §5.3.3).
const FEATURE_SIZE: u64 = 1;
/// More than one port, and control queues.
const FEATURE_MULTIPORT: u64 = 1 << 1;

/// Where the stock QEMU guest agent listens.
pub const AGENT: &str = "org.qemu.guest_agent.0";
/// The ports, by number.
const PORTS: [PortKind; 2] = [PortKind::Console, PortKind::Named(AGENT)];
const CONSOLE_PORT: usize = 0;
const AGENT_PORT: usize = 1;
/// Queues by index (virtio 1.3 §5.3.2): those of port 0, control, those of port 1; receive before transmit. Drivers fill every
/// receive queue with pages of theirs.
const QUEUE_SIZES: [u16; 6] = [64, 64, 16, 16, 32, 32];
const PORT_QUEUES: [[u16; 2]; PORTS.len()] = [[0, 1], [4, 5]];
const CONTROL_QUEUES: [u16; 2] = [2, 3];

/// Where a port's output goes and its input comes from. Called on the event thread.
pub trait Backend: Send + Sync {
    /// Takes what the guest wrote; never blocks.
    fn output(&self, bytes: &[u8]);
    /// Whether more output is welcome. Where it isn't, [`Port::output_ready`] says when it is again.
    fn has_room(&self) -> bool {
        true
    }
    /// The guest has room for input: [`Port::offer`] what is waiting.
    fn input_ready(&self);
}

/// The device.
#[derive(Debug)]
pub struct Console {
    shared: Arc<Shared>,
}

/// The host's side of one port. Clones are the same port.
#[derive(Debug, Clone)]
pub struct Port {
    shared: Arc<Shared>,
    index: usize,
}

/// The host's sides of all ports.
#[derive(Debug, Clone)]
pub struct Ports {
    /// `hvc0`.
    pub console: Port,
    /// [`AGENT`].
    pub agent: Port,
}

#[derive(Debug, Default)]
struct Shared {
    host: Mutex<Host>,
    live: Mutex<Option<Live>>,
}

/// The host's side, whether a driver is there or not.
#[derive(Default)]
struct Host {
    /// None: output goes nowhere, and there is no input.
    backends: [Option<Arc<dyn Backend>>; PORTS.len()],
    /// Somebody listens to the port.
    open: [bool; PORTS.len()],
    /// Columns and rows; zero until the host tells.
    size: (u16, u16),
}

#[derive(Debug)]
struct Live {
    served: Served<Lanes>,
    notify: Arc<dyn Notify>,
}

impl Host {
    /// The conversation with a driver that has just come.
    fn protocol(&self) -> Protocol {
        let mut protocol = Protocol::new(&PORTS);
        for (port, open) in self.open.into_iter().enumerate() {
            protocol.set_host_open(port, open);
        }
        if self.size != (0, 0) {
            protocol.set_size(self.size.0, self.size.1);
        }
        protocol
    }
}

impl Place {
    fn of(queue: u16) -> Self {
        let port = PORT_QUEUES.iter().position(|queues| queues.contains(&queue));
        match port {
            None => Self::Control,
            Some(port) if PORT_QUEUES[port][0] == queue => Self::Receive(port),
            Some(port) => Self::Transmit(port),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("open", &self.open).field("size", &self.size).finish_non_exhaustive()
    }
}

impl fmt::Debug for dyn Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}

impl Shared {
    fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> MutexGuard<'_, Option<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_paused(&self, paused: bool) {
        if let Some(live) = &*self.live() {
            live.served.set_paused(paused);
        }
    }

    /// Works on the queues, if a driver is there.
    fn with<R>(&self, work: impl FnOnce(&mut Lanes) -> R) -> Option<R> {
        self.live().as_ref().and_then(|live| live.served.with(work))
    }
}

impl Console {
    /// An inactive console and its ports, to which nobody listens yet.
    pub fn new() -> (Self, Ports) {
        let shared = Arc::<Shared>::default();
        let port = |index| Port { shared: Arc::clone(&shared), index };
        (Self { shared: Arc::clone(&shared) }, Ports { console: port(CONSOLE_PORT), agent: port(AGENT_PORT) })
    }
}

impl Port {
    /// The guest's output goes to `backend`, before a driver is there.
    pub fn bind(&self, backend: Arc<dyn Backend>) {
        self.shared.host().backends[self.index] = Some(backend);
    }

    /// Gives the guest input; returns how many bytes it had room for. When that isn't all, [`Backend::input_ready`] will
    /// follow.
    pub fn offer(&self, bytes: &[u8]) -> usize {
        self.shared.with(|lanes| lanes.offer(self.index, bytes)).unwrap_or(0)
    }

    /// The backend has room for output again.
    pub fn output_ready(&self) {
        self.shared.with(|lanes| lanes.transmit(self.index));
    }

    /// Tells the guest whether anybody listens on this side.
    pub fn set_open(&self, open: bool) {
        self.shared.host().open[self.index] = open;
        self.shared.with(|lanes| lanes.change(|protocol| protocol.set_host_open(self.index, open)));
    }

    /// Tells the guest the size of the terminal.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.shared.host().size = (columns, rows);
        if let Some(live) = &*self.shared.live() {
            live.served.with(|lanes| lanes.change(|protocol| protocol.set_size(columns, rows)));
            live.notify.config();
        }
    }
}

impl Input for Port {
    fn offer(&self, bytes: &[u8]) -> usize {
        self.offer(bytes)
    }
}

impl Channel for Port {
    fn output_ready(&self) {
        self.output_ready();
    }

    fn set_open(&self, open: bool) {
        self.set_open(open);
    }
}

impl Backend for Line {
    fn output(&self, bytes: &[u8]) {
        self.write(bytes);
    }

    fn has_room(&self) -> bool {
        self.has_room()
    }

    fn input_ready(&self) {
        self.input_ready();
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
        FEATURE_SIZE | FEATURE_MULTIPORT
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// `struct virtio_console_config`: cols, rows, max_nr_ports, emerg_wr (virtio 1.3 §5.3.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let (columns, rows) = self.shared.host().size;
        let ports = u32::try_from(PORTS.len()).unwrap_or(1);
        let mut config = [0; 12];
        config[..2].copy_from_slice(&columns.to_le_bytes());
        config[2..4].copy_from_slice(&rows.to_le_bytes());
        config[4..8].copy_from_slice(&ports.to_le_bytes());
        read_bytes(&config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { ram, features, queues, notify, events, .. } = activation;
        let host_error = |source| ActivateError::Host { what: "console queue's eventfd", source };
        let kicks = queues.iter().map(|queue| queue.kick.try_clone()).collect::<Result<Vec<_>, _>>();
        let kicks = kicks.map_err(host_error)?;
        let places = queues.iter().map(|queue| Place::of(queue.index)).collect();
        let mut queues = queues.into_iter().map(|queue| (queue.index, Virtqueue::new(queue, Arc::clone(&notify))));
        let mut queues: BTreeMap<u16, Virtqueue> = queues.by_ref().collect();
        let mut take = |index| queues.remove(&index).ok_or(ActivateError::MissingQueue(index));

        let host = self.shared.host();
        let mut lanes = Vec::new();
        for (port, backend) in host.backends.iter().enumerate() {
            let [receive, transmit] = PORT_QUEUES[port];
            // Without MULTIPORT there is port 0 alone; with it a driver may leave out those that it doesn't know.
            lanes.push(match (take(receive), take(transmit)) {
                (Ok(receive), Ok(transmit)) => Some(Lane { receive, transmit, backend: backend.clone() }),
                (Err(missing), _) | (_, Err(missing)) if port == CONSOLE_PORT => return Err(missing),
                _ => None,
            });
        }
        let control = if features & FEATURE_MULTIPORT != 0 {
            let [receive, transmit] = CONTROL_QUEUES;
            let protocol = host.protocol();
            Some(Control { receive: take(receive)?, transmit: take(transmit)?, protocol })
        } else {
            None
        };
        drop(host);
        let lanes = Lanes { ram, ports: lanes, control, places, events: events.clone(), broken: false };
        // Input may have waited for the guest to come up.
        (0..PORTS.len()).for_each(|port| lanes.input_ready(port));
        let kicks: Vec<_> = kicks.iter().collect();
        let served = Served::new(&events, lanes, &kicks, Lanes::kicked).map_err(host_error)?;
        *self.shared.live() = Some(Live { served, notify });
        Ok(())
    }

    fn reset(&mut self) {
        *self.shared.live() = None;
    }

    fn pause(&mut self) {
        self.shared.set_paused(true);
    }

    /// Input that came meanwhile is offered once more: the kicks that follow say that there is room.
    fn resume(&mut self) {
        self.shared.set_paused(false);
    }
}
