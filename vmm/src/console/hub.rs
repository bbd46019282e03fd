//! The hub between one console device and its clients.
//!
//! Output goes into the [`History`]; each client has a cursor into it and is sent what follows as fast as it takes it. A
//! slow client loses the oldest bytes, the guest never waits. Input of all clients goes to the device in the order in which
//! it came; while the device has no room nothing more is read, so that clients wait in their own sockets.
//!
//! Clients are served on the machine's event thread. The hub outlives the device: a reset binds a new one.
//!
//! A guest writes byte by byte, and each byte that is sent by itself wakes every reader down to containerd's log. So the first
//! byte is sent at once, and what follows it within [`BATCH`] goes together.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::epoll::EventSet;

use super::history::History;
use crate::event_loop::{EventLoop, Handle, Token};

/// Bytes read from a client at once, and so the most that waits for the device.
const READ_SIZE: usize = 4096;
/// How long output waits for more of it: too short for a human to see, long enough for a line of a booting kernel.
const BATCH: Duration = Duration::from_millis(10);
/// More clients than that are turned away.
const MAX_CLIENTS: usize = 64;

/// A device that takes what is typed.
pub trait Input: Send + Sync {
    /// Takes what it has room for from the front of `bytes`; returns how many. Once it has room again it calls
    /// [`Hub::input_ready`].
    fn offer(&self, bytes: &[u8]) -> usize;
}

/// See the module.
pub struct Hub {
    events: Handle,
    me: Weak<Hub>,
    inner: Mutex<Inner>,
    /// The event thread looks for output by itself, now or within [`BATCH`].
    flushing: AtomicBool,
    /// Bytes wait for the device.
    starved: AtomicBool,
}

#[derive(Default)]
struct Inner {
    history: History,
    /// How far the history had come at the last flush.
    flushed: u64,
    clients: BTreeMap<u64, Client>,
    next: u64,
    input: Option<Arc<dyn Input>>,
    /// Typed, but not taken by the device yet.
    backlog: Vec<u8>,
}

struct Client {
    socket: Arc<UnixStream>,
    token: Token,
    cursor: u64,
    /// It may still type.
    open: bool,
    interest: EventSet,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("Hub")
            .field("end", &inner.history.end())
            .field("clients", &inner.clients.len())
            .finish_non_exhaustive()
    }
}

impl Hub {
    /// A hub without a device, whose clients are served on `events`.
    pub fn new(events: Handle) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            events,
            me: me.clone(),
            inner: Mutex::default(),
            flushing: AtomicBool::new(false),
            starved: AtomicBool::new(false),
        })
    }

    /// The guest writes. Any thread; never waits for a client.
    pub fn write(&self, bytes: &[u8]) {
        let mut inner = self.lock();
        inner.history.push(bytes);
        let heard = !inner.clients.is_empty();
        drop(inner);
        if heard && !self.flushing.swap(true, Ordering::AcqRel) {
            self.on_events(Self::batch);
        }
    }

    /// A new client: it gets the history, then what follows. Closed at once if there are too many.
    pub fn attach(&self, socket: UnixStream) {
        self.on_events(|hub, events| hub.add_client(events, socket));
    }

    /// What is typed goes to `input` from now on.
    pub fn bind_input(&self, input: Arc<dyn Input>) {
        self.lock().input = Some(input);
        self.on_events(Self::pump);
    }

    /// The device has room again. Any thread; cheap while nothing waits.
    pub fn input_ready(&self) {
        if self.starved.swap(false, Ordering::AcqRel) {
            self.on_events(Self::pump);
        }
    }

    /// Whether every client has all output.
    pub fn drained(&self) -> bool {
        let inner = self.lock();
        inner.clients.values().all(|c| c.cursor == inner.history.end())
    }

    /// Sends the last output, for at most `limit`: a client that doesn't read can't hold the end up for longer.
    pub fn drain(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let waiting: Vec<_> = {
                let mut inner = self.lock();
                inner.send();
                let end = inner.history.end();
                inner.clients.values().filter(|c| c.cursor != end).map(|c| Arc::clone(&c.socket)).collect()
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if waiting.is_empty() || left.is_zero() {
                return;
            }
            let mut polled: Vec<_> = waiting.iter().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLOUT)).collect();
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            if poll(&mut polled, timeout).is_err_and(|e| e != nix::errno::Errno::EINTR) {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_events(&self, task: impl FnOnce(&Self, &mut EventLoop) + Send + 'static) {
        let me = self.me.clone();
        self.events.run(move |events| {
            if let Some(hub) = me.upgrade() {
                task(&hub, events);
            }
        });
    }

    fn add_client(&self, events: &mut EventLoop, socket: UnixStream) {
        let mut inner = self.lock();
        if inner.clients.len() >= MAX_CLIENTS || socket.set_nonblocking(true).is_err() {
            return;
        }
        let (id, socket) = (inner.next, Arc::new(socket));
        let (me, own) = (self.me.clone(), Arc::clone(&socket));
        let added = events.add(socket.as_raw_fd(), EventSet::empty(), move |events, ready| {
            let _socket = &own;
            if let Some(hub) = me.upgrade() {
                hub.serve(events, id, ready);
            }
        });
        let Ok(token) = added else { return };
        inner.next += 1;
        let client = Client { socket, token, cursor: 0, open: true, interest: EventSet::empty() };
        inner.clients.insert(id, client);
        drop(inner);
        self.flush(events);
    }

    fn serve(&self, events: &mut EventLoop, id: u64, ready: EventSet) {
        let gone = ready.intersects(EventSet::HANG_UP | EventSet::ERROR);
        let mut typed = Vec::new();
        {
            let mut inner = self.lock();
            let full = !inner.backlog.is_empty();
            let Some(client) = inner.clients.get_mut(&id) else { return };
            if ready.contains(EventSet::IN) && client.open && !full {
                client.read(&mut typed);
            }
            if gone && typed.is_empty() {
                let token = client.token;
                inner.clients.remove(&id);
                events.remove(token);
            }
            inner.backlog.extend(typed);
        }
        self.pump(events);
    }

    /// Offers what waits to the device, then serves all clients.
    fn pump(&self, events: &mut EventLoop) {
        let (input, waiting) = {
            let mut inner = self.lock();
            (inner.input.clone(), std::mem::take(&mut inner.backlog))
        };
        // Said before the offer: room that comes right after it must not go unnoticed. The device is offered without the
        // lock, for it may be writing at this moment.
        self.starved.store(!waiting.is_empty(), Ordering::Release);
        let taken = input.map_or(0, |input| input.offer(&waiting));
        let left = waiting.get(taken..).unwrap_or_default();
        if left.is_empty() {
            self.starved.store(false, Ordering::Release);
        } else {
            self.lock().backlog = left.to_vec();
        }
        self.flush(events);
    }

    /// Flushes, and looks again after [`BATCH`]. On the event thread, with `flushing` set.
    fn batch(&self, events: &mut EventLoop) {
        self.flush(events);
        let me = self.me.clone();
        events.after(BATCH, move |events| {
            if let Some(hub) = me.upgrade() {
                hub.settle(events);
            }
        });
    }

    /// Goes on while output comes; else the next byte wakes the event thread.
    fn settle(&self, events: &mut EventLoop) {
        let more = || {
            let inner = self.lock();
            inner.history.end() != inner.flushed
        };
        if !more() {
            self.flushing.store(false, Ordering::Release);
            // Output that came before the store has woken nobody.
            if !more() || self.flushing.swap(true, Ordering::AcqRel) {
                return;
            }
        }
        self.batch(events);
    }

    /// Sends what can be sent and waits for what must be waited for. On the event thread.
    fn flush(&self, events: &mut EventLoop) {
        let mut inner = self.lock();
        inner.flushed = inner.history.end();
        for token in inner.send() {
            events.remove(token);
        }
        let (end, full) = (inner.history.end(), !inner.backlog.is_empty());
        for client in inner.clients.values_mut() {
            let mut interest = EventSet::empty();
            interest.set(EventSet::IN, client.open && !full);
            interest.set(EventSet::OUT, client.cursor != end);
            if interest != client.interest && events.modify(client.token, interest).is_ok() {
                client.interest = interest;
            }
        }
    }
}

impl Inner {
    /// Sends each client what it takes; forgets those that are gone and returns their registrations.
    fn send(&mut self) -> Vec<Token> {
        let history = &self.history;
        let mut gone = Vec::new();
        self.clients.retain(|_, client| {
            let alive = client.send(history).is_ok();
            if !alive {
                gone.push(client.token);
            }
            alive
        });
        gone
    }
}

impl Client {
    fn send(&mut self, history: &History) -> io::Result<()> {
        loop {
            let (at, piece) = history.from(self.cursor);
            self.cursor = at;
            if piece.is_empty() {
                return Ok(());
            }
            match (&*self.socket).write(piece) {
                Ok(sent) => self.cursor += sent as u64,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn read(&mut self, typed: &mut Vec<u8>) {
        let mut buffer = [0; READ_SIZE];
        match (&*self.socket).read(&mut buffer) {
            // It types no more, but may still listen.
            Ok(0) => self.open = false,
            Ok(count) => typed.extend(&buffer[..count]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.open = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::history::CAPACITY;
    use std::net::Shutdown;
    use std::thread::JoinHandle;

    struct Rig {
        hub: Arc<Hub>,
        events: Handle,
        thread: Option<JoinHandle<()>>,
    }

    impl Rig {
        fn new() -> Self {
            let mut events = EventLoop::new().unwrap();
            let handle = events.handle();
            let thread = std::thread::spawn(move || events.run().unwrap());
            Self { hub: Hub::new(handle.clone()), events: handle, thread: Some(thread) }
        }

        fn client(&self) -> UnixStream {
            let (ours, theirs) = UnixStream::pair().unwrap();
            ours.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            self.hub.attach(theirs);
            ours
        }
    }

    impl Drop for Rig {
        fn drop(&mut self) {
            self.events.stop();
            self.thread.take().unwrap().join().unwrap();
        }
    }

    /// A device with a little room that is given back on request.
    #[derive(Default)]
    struct Device(Mutex<(usize, Vec<u8>)>);

    impl Input for Device {
        fn offer(&self, bytes: &[u8]) -> usize {
            let (room, taken) = &mut *self.0.lock().unwrap();
            let count = bytes.len().min(*room);
            *room -= count;
            taken.extend(&bytes[..count]);
            count
        }
    }

    fn read(client: &mut UnixStream, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        client.read_exact(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_late_client_gets_the_history_then_what_follows() {
        let rig = Rig::new();
        rig.hub.write(b"early ");
        let mut client = rig.client();
        assert_eq!(read(&mut client, 6), b"early ");
        rig.hub.write(b"late");
        assert_eq!(read(&mut client, 4), b"late");
    }

    #[test]
    fn a_slow_client_loses_the_oldest_bytes_and_nobody_waits() {
        let rig = Rig::new();
        let mut client = rig.client();
        let line = [b'.'; 1000];
        for _ in 0..5000 {
            rig.hub.write(&line);
        }
        rig.hub.write(b"the end");
        let mut all = Vec::new();
        while !all.ends_with(b"the end") {
            let mut buffer = [0; 8192];
            let count = client.read(&mut buffer).unwrap();
            all.extend(&buffer[..count]);
        }
        assert!(all.len() >= CAPACITY && all.len() < 5_000_000, "{}", all.len());
    }

    #[test]
    fn what_the_device_has_no_room_for_waits() {
        let rig = Rig::new();
        let device = Arc::new(Device::default());
        let as_input: Arc<dyn Input> = device.clone();
        rig.hub.bind_input(as_input);
        let mut client = rig.client();
        client.write_all(b"hello world").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while device.0.lock().unwrap().1 != b"hello world" {
            assert!(Instant::now() < deadline);
            device.0.lock().unwrap().0 += 1;
            rig.hub.input_ready();
            std::thread::yield_now();
        }
        rig.hub.write(b"bye");
        assert_eq!(read(&mut client, 3), b"bye", "a client that types no more still listens");
    }

    #[test]
    fn the_last_words_are_drained() {
        let rig = Rig::new();
        let mut client = rig.client();
        rig.hub.write(b"x");
        read(&mut client, 1);
        rig.hub.write(&vec![b'y'; CAPACITY]);
        rig.hub.drain(Duration::from_secs(10));
        assert!(rig.hub.drained());
        assert_eq!(read(&mut client, CAPACITY).len(), CAPACITY);
    }
}
