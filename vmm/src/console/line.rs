//! The line between a device's channel and its one client on the host: a stream socket.
//!
//! Bytes pass both ways, bounded by [`MAX_OUTPUT`] and [`READ_SIZE`]: while the client doesn't read, the guest waits; while
//! the guest doesn't read, the client does. A new client takes the place of the last one. Served on the machine's event
//! thread. The line outlives the device: a reset binds a new one.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vmm_sys_util::epoll::EventSet;

use super::hub::Input;
use crate::event_loop::{EventLoop, Handle, Token};

/// Bytes for the client that wait before the guest has to. What one write of the guest's holds may come on top.
pub const MAX_OUTPUT: usize = 64 << 10;
/// Bytes read from the client at once, and so the most that wait for the guest.
const READ_SIZE: usize = 4096;

/// The device's end.
pub trait Channel: Input {
    /// There is room for output again.
    fn output_ready(&self);
    /// A client has come, or gone.
    fn set_open(&self, open: bool);
}

/// See the module.
pub struct Line {
    events: Handle,
    me: Weak<Line>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    channel: Option<Arc<dyn Channel>>,
    client: Option<Client>,
    /// Counts clients: what an earlier one's events say doesn't count.
    generation: u64,
}

struct Client {
    socket: Arc<UnixStream>,
    token: Token,
    interest: EventSet,
    /// For the client.
    output: Vec<u8>,
    /// For the guest.
    input: Vec<u8>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("attached", &self.lock().client.is_some()).finish_non_exhaustive()
    }
}

impl Line {
    /// A line with nobody at either end, served on `events`.
    pub fn new(events: Handle) -> Arc<Self> {
        Arc::new_cyclic(|me| Self { events, me: me.clone(), inner: Mutex::default() })
    }

    /// The device's end is `channel` from now on.
    pub fn bind(&self, channel: &Arc<dyn Channel>) {
        let open = {
            let mut inner = self.lock();
            inner.channel = Some(Arc::clone(channel));
            inner.client.is_some()
        };
        channel.set_open(open);
        self.input_ready();
    }

    /// The client is `socket` from now on.
    pub fn attach(&self, socket: UnixStream) {
        self.on_events(|line, events| line.replace(events, Some(socket)));
    }

    /// The guest writes. What nobody is there for is lost, as on a line without a phone.
    pub fn write(&self, bytes: &[u8]) {
        let mut inner = self.lock();
        let Some(client) = &mut inner.client else { return };
        client.output.extend(bytes);
        // Sent when the guest is done, all at once.
        if client.output.len() == bytes.len() {
            drop(inner);
            self.on_events(Self::pump);
        }
    }

    /// Whether the guest may write on.
    pub fn has_room(&self) -> bool {
        self.lock().client.as_ref().is_none_or(|client| client.output.len() < MAX_OUTPUT)
    }

    /// The guest may have room.
    pub fn input_ready(&self) {
        self.on_events(Self::pump);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_events(&self, task: impl FnOnce(&Self, &mut EventLoop) + Send + 'static) {
        let me = self.me.clone();
        self.events.run(move |events| {
            if let Some(line) = me.upgrade() {
                task(&line, events);
            }
        });
    }

    /// Another client, or none.
    fn replace(&self, events: &mut EventLoop, socket: Option<UnixStream>) {
        let mut inner = self.lock();
        if let Some(old) = inner.client.take() {
            events.remove(old.token);
        }
        inner.generation += 1;
        inner.client = socket.and_then(|socket| self.client(events, socket, inner.generation));
        let (channel, open) = (inner.channel.clone(), inner.client.is_some());
        drop(inner);
        if let Some(channel) = channel {
            channel.set_open(open);
            // The guest may have waited for the old client to read.
            channel.output_ready();
        }
    }

    fn client(&self, events: &mut EventLoop, socket: UnixStream, generation: u64) -> Option<Client> {
        socket.set_nonblocking(true).ok()?;
        let socket = Arc::new(socket);
        let (me, own) = (self.me.clone(), Arc::clone(&socket));
        let interest = EventSet::IN;
        let added = events.add(socket.as_raw_fd(), interest, move |events, ready| {
            let _socket = &own;
            if let Some(line) = me.upgrade() {
                line.serve(events, generation, ready);
            }
        });
        Some(Client { socket, token: added.ok()?, interest, output: Vec::new(), input: Vec::new() })
    }

    fn serve(&self, events: &mut EventLoop, generation: u64, ready: EventSet) {
        let mut inner = self.lock();
        if inner.generation != generation {
            return;
        }
        let Some(client) = &mut inner.client else { return };
        let gone = if ready.contains(EventSet::IN) && client.input.is_empty() {
            client.read().is_err()
        } else {
            // What the guest hasn't taken by now has nobody to be answered to.
            ready.intersects(EventSet::HANG_UP | EventSet::ERROR)
        };
        drop(inner);
        if gone {
            self.replace(events, None);
        } else {
            self.pump(events);
        }
    }

    /// Passes on what can be passed on, and waits for what must be waited for.
    fn pump(&self, events: &mut EventLoop) {
        let (channel, input, was_full) = {
            let mut inner = self.lock();
            let channel = inner.channel.clone();
            let Some(client) = &mut inner.client else { return };
            let was_full = client.output.len() >= MAX_OUTPUT;
            if client.send().is_err() {
                drop(inner);
                return self.replace(events, None);
            }
            (channel, std::mem::take(&mut client.input), was_full)
        };
        // The channel is used without the lock, for it may be writing at this moment.
        let taken = channel.as_ref().map_or(0, |channel| if input.is_empty() { 0 } else { channel.offer(&input) });
        if let Some(channel) = channel.filter(|_| was_full && self.has_room()) {
            channel.output_ready();
        }
        let mut inner = self.lock();
        let Some(client) = &mut inner.client else { return };
        client.input = input.get(taken..).unwrap_or_default().to_vec();
        let mut interest = EventSet::empty();
        interest.set(EventSet::IN, client.input.is_empty());
        interest.set(EventSet::OUT, !client.output.is_empty());
        if interest != client.interest && events.modify(client.token, interest).is_ok() {
            client.interest = interest;
        }
    }
}

impl Client {
    /// Takes what the client says next; an error if it has hung up.
    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; READ_SIZE];
        match (&*self.socket).read(&mut buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.input.extend(&buffer[..count]);
                Ok(())
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Sends what the client takes.
    fn send(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match (&*self.socket).write(&self.output) {
                Ok(sent) => {
                    self.output.drain(..sent);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.output.shrink_to(MAX_OUTPUT);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::JoinHandle;
    use std::time::{Duration, Instant};

    /// A guest that takes what it has room for.
    #[derive(Default)]
    struct Guest(Mutex<State>);

    #[derive(Default)]
    struct State {
        room: usize,
        taken: Vec<u8>,
        open: Vec<bool>,
        output_ready: u32,
    }

    impl Input for Guest {
        fn offer(&self, bytes: &[u8]) -> usize {
            let State { room, taken, .. } = &mut *self.0.lock().unwrap();
            let count = bytes.len().min(*room);
            *room -= count;
            taken.extend(&bytes[..count]);
            count
        }
    }

    impl Channel for Guest {
        fn output_ready(&self) {
            self.0.lock().unwrap().output_ready += 1;
        }
        fn set_open(&self, open: bool) {
            self.0.lock().unwrap().open.push(open);
        }
    }

    struct Rig {
        line: Arc<Line>,
        guest: Arc<Guest>,
        events: Handle,
        thread: Option<JoinHandle<()>>,
    }

    impl Rig {
        fn new() -> Self {
            let mut events = EventLoop::new().unwrap();
            let handle = events.handle();
            let thread = std::thread::spawn(move || events.run().unwrap());
            let (line, guest) = (Line::new(handle.clone()), Arc::new(Guest::default()));
            line.bind(&(Arc::clone(&guest) as Arc<dyn Channel>));
            Self { line, guest, events: handle, thread: Some(thread) }
        }

        fn client(&self) -> UnixStream {
            let (ours, theirs) = UnixStream::pair().unwrap();
            ours.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            self.line.attach(theirs);
            ours
        }

        fn wait(&self, mut done: impl FnMut(&mut State) -> bool) {
            let deadline = Instant::now() + Duration::from_secs(10);
            while !done(&mut self.guest.0.lock().unwrap()) {
                assert!(Instant::now() < deadline);
                std::thread::yield_now();
            }
        }
    }

    impl Drop for Rig {
        fn drop(&mut self) {
            self.events.stop();
            self.thread.take().unwrap().join().unwrap();
        }
    }

    #[test]
    fn bytes_pass_both_ways_and_the_guest_sees_who_listens() {
        let rig = Rig::new();
        rig.line.write(b"lost");
        let mut client = rig.client();
        rig.wait(|guest| guest.open == [false, true]);
        client.write_all(b"ping").unwrap();
        rig.wait(|guest| {
            guest.room += 1;
            guest.taken == b"ping" || {
                rig.line.input_ready();
                false
            }
        });
        rig.line.write(b"pong");
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"pong");
        drop(client);
        rig.wait(|guest| guest.open == [false, true, false]);
    }

    #[test]
    fn a_client_that_does_not_read_holds_the_guest_and_lets_it_go_on() {
        let rig = Rig::new();
        let mut client = rig.client();
        rig.wait(|guest| guest.open.len() == 2);
        let before = rig.guest.0.lock().unwrap().output_ready;
        let (mut written, deadline) = (0, Instant::now() + Duration::from_secs(10));
        // Until the socket is full and the line with it, for longer than the event thread needs to send on.
        let mut full_since = None;
        loop {
            assert!(Instant::now() < deadline);
            if rig.line.has_room() {
                full_since = None;
                rig.line.write(&[b'x'; 1000]);
                written += 1000;
            } else if full_since.get_or_insert_with(Instant::now).elapsed() > Duration::from_millis(50) {
                break;
            }
            std::thread::yield_now();
        }
        let mut all = vec![0; written];
        client.read_exact(&mut all).unwrap();
        rig.wait(|guest| guest.output_ready > before);
        assert!(rig.line.has_room());
    }

    #[test]
    fn a_new_client_takes_the_place_of_the_last() {
        let rig = Rig::new();
        let mut first = rig.client();
        let mut second = rig.client();
        assert_eq!(first.read(&mut [0; 1]).unwrap(), 0, "hung up");
        rig.line.write(b"hello");
        let mut text = [0; 5];
        second.read_exact(&mut text).unwrap();
        // Hanging up with something unread by the guest is the end, too.
        second.write_all(b"unread").unwrap();
        drop(second);
        rig.wait(|guest| guest.open.last() == Some(&false));
    }
}
