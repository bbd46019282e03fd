//! The socket device and its host side.

use std::fmt;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::muxer::{Key, Muxer};
use crate::event_loop::Handle;
use crate::virtio::device::{ActivateError, Activation, ActiveQueue, DeviceId, VirtioDevice, read_bytes};
use crate::virtio::virtqueue::{KICKED, Virtqueue};
use crate::worker::Worker;

/// Queues by index (virtio 1.3 §5.10.2): receive, transmit, events. There are no events before a restore.
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// The device.
#[derive(Debug)]
pub struct Vsock {
    cid: u64,
    shared: Arc<Shared>,
    worker: Option<Worker>,
}

/// The host's side. Clones are of the same device.
#[derive(Debug, Clone)]
pub struct VsockControl(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    watch: Watch,
    live: Mutex<Option<Live>>,
}

struct Live {
    muxer: Arc<Mutex<Muxer>>,
    events: Handle,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Live")
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Handler = Box<dyn Fn(Ask) + Send>;

/// Who is asked for connections that the guest wants.
#[derive(Clone, Default)]
pub(super) struct Watch(Arc<Mutex<Option<Handler>>>);

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

impl Watch {
    /// Where nobody listens, the answer is no.
    pub(super) fn ask(&self, ask: Ask) {
        if let Some(handler) = &*lock(&self.0) {
            handler(ask);
        }
    }
}

/// The guest wants a connection to a port of the host's. Dropped, it is refused.
pub struct Ask {
    key: Key,
    serial: u64,
    muxer: Weak<Mutex<Muxer>>,
    events: Option<Handle>,
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Ask {
    pub(super) fn new(key: Key, serial: u64, muxer: Weak<Mutex<Muxer>>, events: Handle) -> Self {
        Self { key, serial, muxer, events: Some(events) }
    }

    /// Which port.
    pub fn port(&self) -> u32 {
        self.key.host
    }

    /// Connects it to `socket`.
    pub fn accept(mut self, socket: UnixStream) {
        // Here: the device's thread can't.
        if socket.set_nonblocking(true).is_ok() {
            self.answer(Some(socket));
        }
    }

    fn answer(&mut self, socket: Option<UnixStream>) {
        let (Some(events), muxer) = (self.events.take(), Weak::clone(&self.muxer)) else { return };
        let (key, serial) = (self.key, self.serial);
        events.run(move |events| {
            if let Some(muxer) = muxer.upgrade() {
                lock(&muxer).answer(events, key, serial, socket);
            }
        });
    }
}

impl Drop for Ask {
    fn drop(&mut self) {
        self.answer(None);
    }
}

impl Vsock {
    /// An inactive device for the guest `cid`, and its host side.
    pub fn new(cid: u64) -> (Self, VsockControl) {
        let shared = Arc::<Shared>::default();
        (Self { cid, shared: Arc::clone(&shared), worker: None }, VsockControl(shared))
    }
}

impl VsockControl {
    /// Connects `socket` to a port of the guest's. Once the guest has accepted, `OK <port of the host>` and a line feed come first;
    /// if it doesn't, or there is no driver, the socket is closed.
    pub fn connect(&self, port: u32, socket: UnixStream) {
        let live = lock(&self.0.live);
        let Some(Live { muxer, events }) = &*live else { return };
        if socket.set_nonblocking(true).is_ok() {
            // Weak: a task that is never run must not keep the device, which keeps the loop.
            let muxer = Arc::downgrade(muxer);
            events.run(move |events| {
                if let Some(muxer) = muxer.upgrade() {
                    lock(&muxer).connect(events, port, socket);
                }
            });
        }
    }

    /// Has `handler` called for each connection that the guest wants, on the device's thread: it must not wait for anything.
    pub fn watch(&self, handler: impl Fn(Ask) + Send + 'static) {
        *lock(&self.0.watch.0) = Some(Box::new(handler));
    }
}

impl VirtioDevice for Vsock {
    fn id(&self) -> DeviceId {
        DeviceId::Vsock
    }

    /// No feature bit means stream sockets (virtio 1.3 §5.10.3).
    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { ram, queues, notify, .. } = activation;
        let mut queues = queues.into_iter();
        let mut take = |index: u16| {
            let queue = queues.next().filter(|queue: &ActiveQueue| queue.index == index);
            Ok(Virtqueue::new(queue.ok_or(ActivateError::MissingQueue(index))?, Arc::clone(&notify)))
        };
        let (receive, transmit) = (take(RECEIVE)?, take(TRANSMIT)?);
        let kicks = [receive.kick().as_raw_fd(), transmit.kick().as_raw_fd()];
        let (cid, watch, mut live) = (self.cid, self.shared.watch.clone(), None);
        let worker = Worker::spawn("vsock", |events| {
            let muxer = Muxer::new(cid, ram, receive, transmit, watch, events.handle());
            for kick in kicks {
                let muxer = Arc::clone(&muxer);
                events.add(kick, KICKED, move |events, _| lock(&muxer).kicked(events))?;
            }
            live = Some(Live { muxer, events: events.handle() });
            Ok(())
        });
        self.worker = Some(worker.map_err(|source| ActivateError::Host { what: "vsock thread", source })?);
        *lock(&self.shared.live) = live;
        Ok(())
    }

    fn reset(&mut self) {
        *lock(&self.shared.live) = None;
        self.worker = None;
    }

    fn pause(&mut self) {
        self.worker.iter_mut().for_each(Worker::pause);
    }

    fn resume(&mut self) {
        self.worker.iter_mut().for_each(Worker::resume);
    }
}
