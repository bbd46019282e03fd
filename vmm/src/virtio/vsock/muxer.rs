//! All connections of a machine, on the device's own thread: packets to sockets, sockets to packets.
//!
//! Sockets are waited for by edges: what was ready once counts as ready until a call says that it isn't, so that a busy
//! connection costs no calls but those that move its bytes.
//!
//! The guest's packets are read only while their answers have a place: a driver that offers no receive buffers isn't heard.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, Weak};

use vmm_sys_util::epoll::EventSet;

use super::connection::{Connection, Heard, Phase};
use super::device::{Ask, Watch, lock};
use super::packet::{self, HOST, Header, MAX_DATA, STREAM, op};
use super::room::Room;
use crate::event_loop::{EventLoop, Handle, Token};
use crate::memory::GuestRam;
use crate::memory::guest_buffers::GuestBuffers;
use crate::virtio::virtqueue::{Broken, Virtqueue};

/// Bytes that may wait for slow readers on the host, of all connections together.
const POOL: u32 = 4 << 20;
/// A connection's share while half of the pool is left, and after that.
const LARGE: u32 = 256 << 10;
const SMALL: u32 = 8 << 10;
/// Questions of the guest's that may wait for the host's answers.
const MAX_ASKS: usize = 32;
/// Resets that may wait for receive buffers.
const MAX_RESETS: usize = 64;
/// Packets served before the thread looks for other events.
const BUDGET: u32 = 256;
/// Packets to the guest after which it is asked whether it wants an interrupt, besides the first one and the last.
const SIGNAL_EVERY: u32 = 8;
/// Ports of the host's side of connections that it asks for: above those that anything listens on.
const FIRST_PORT: u32 = 1 << 30;

/// A connection's name: its two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub host: u32,
    pub guest: u32,
}

/// A connection with its socket.
struct Entry {
    connection: Connection,
    socket: Option<(Arc<UnixStream>, Token)>,
    /// Tells it from an earlier one with the same ports.
    serial: u64,
    /// Sent by the guest, not yet taken by the host.
    backlog: VecDeque<u8>,
    /// Bytes at the front of the backlog that are this side's own, and don't count.
    greeting: usize,
    readable: bool,
    writable: bool,
    /// The host has closed its end.
    hung_up: bool,
    /// It is in the line of those with something to send.
    in_line: bool,
    /// What is to be done once the backlog is gone.
    then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    ShutWrite,
    End,
}

/// See the module.
pub(super) struct Muxer {
    me: Weak<Mutex<Muxer>>,
    cid: u64,
    ram: GuestRam,
    room: Room,
    transmit: Virtqueue,
    data: GuestBuffers,
    entries: HashMap<Key, Entry>,
    /// Those with something to send, in their turn.
    line: VecDeque<Key>,
    /// To be told that there is no such connection.
    resets: VecDeque<Key>,
    pool: u32,
    asks: usize,
    serials: u64,
    next_port: u32,
    watch: Watch,
    events: Handle,
    broken: bool,
}

impl Muxer {
    pub fn new(
        cid: u64,
        ram: GuestRam,
        receive: Virtqueue,
        transmit: Virtqueue,
        watch: Watch,
        events: Handle,
    ) -> Arc<Mutex<Self>> {
        Arc::new_cyclic(|me| {
            Mutex::new(Self {
                me: Weak::clone(me),
                cid,
                room: Room::new(ram.clone(), receive),
                data: GuestBuffers::new(ram.clone()),
                ram,
                transmit,
                entries: HashMap::new(),
                line: VecDeque::new(),
                resets: VecDeque::new(),
                pool: POOL,
                asks: 0,
                serials: 0,
                next_port: FIRST_PORT,
                watch,
                events,
                broken: false,
            })
        })
    }

    /// The driver has sent packets, or offers buffers.
    pub fn kicked(&mut self, events: &mut EventLoop) {
        if !self.broken {
            let done = self.hear(events).and_then(|()| self.speak(events));
            self.check(&done);
        }
    }

    /// Somebody on the host wants to reach a port of the guest's.
    pub fn connect(&mut self, events: &mut EventLoop, port: u32, socket: UnixStream) {
        let Some(alloc) = self.grant() else { return };
        let mut host = self.next_port;
        while self.entries.contains_key(&Key { host, guest: port }) {
            host = host.wrapping_add(1).max(FIRST_PORT);
        }
        self.next_port = host.wrapping_add(1).max(FIRST_PORT);
        let key = Key { host, guest: port };
        self.insert(key, Connection::asked(alloc));
        self.attach(events, key, socket);
        self.go_on(events, key);
    }

    /// The host's answer to what the guest has asked.
    pub fn answer(&mut self, events: &mut EventLoop, key: Key, serial: u64, socket: Option<UnixStream>) {
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.serial == serial) else { return };
        match socket {
            Some(socket) => {
                entry.connection.accept();
                self.asks -= 1;
                self.attach(events, key, socket);
            }
            None => self.end(events, key, true),
        }
        self.go_on(events, key);
    }

    /// A socket is ready for something.
    fn ready(&mut self, events: &mut EventLoop, key: Key, serial: u64, ready: EventSet) {
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.serial == serial) else { return };
        let hung_up = ready.intersects(EventSet::HANG_UP | EventSet::ERROR);
        entry.hung_up |= hung_up;
        entry.readable |= hung_up || ready.intersects(EventSet::IN | EventSet::READ_HANG_UP);
        if ready.contains(EventSet::OUT)
            && let Some((_, token)) = &entry.socket
        {
            entry.writable = true;
            watch_room(events, *token, false);
        }
        if hung_up && entry.connection.is_host_done() {
            entry.connection.host_done(true);
        }
        // Nobody waits for the guest's answer any more.
        if hung_up && entry.connection.phase() == Phase::Asked {
            self.end(events, key, true);
        }
        self.go_on(events, key);
    }

    /// Does what can be done for one connection, then speaks.
    fn go_on(&mut self, events: &mut EventLoop, key: Key) {
        self.flush(events, key);
        self.queue_up(key);
        if !self.broken {
            // Packets may have waited for a place for their answers.
            let done = self.speak(events);
            self.check(&done);
        }
    }

    // === From the guest ===

    fn hear(&mut self, events: &mut EventLoop) -> Result<(), Broken> {
        let ram = Arc::clone(&self.ram);
        self.transmit.disable_kicks(&ram)?;
        let mut left = BUDGET;
        loop {
            if self.resets.len() >= MAX_RESETS {
                self.speak(events)?;
                if self.resets.len() >= MAX_RESETS {
                    break;
                }
            }
            if left == 0 {
                let _ = self.transmit.kick().write(1);
                break;
            }
            left -= 1;
            let Some(chain) = self.transmit.pop(&ram)? else {
                if self.transmit.enable_kicks(&ram)? {
                    continue;
                }
                break;
            };
            let head = chain.head_index();
            if let Some(header) = packet::read(&ram, chain, &mut self.data)? {
                self.packet(events, &header);
            }
            self.transmit.add_used(&ram, head, 0)?;
            self.transmit.publish(&ram)?;
        }
        self.transmit.signal(&ram)
    }

    fn packet(&mut self, events: &mut EventLoop, header: &Header) {
        let key = Key { host: header.dst_port, guest: header.src_port };
        if (header.src_cid, header.dst_cid) != (self.cid, HOST) {
            // Nobody else is here to be answered, or to answer.
            return;
        }
        let Some(entry) = self.entries.get_mut(&key) else {
            return match header.op {
                op::REQUEST if header.kind == STREAM => self.ask(key, header),
                op::RST => {}
                _ => self.resets.push_back(key),
            };
        };
        let mut heard = entry.connection.hear(header);
        if header.kind != STREAM || heard == Heard::Data && self.data.len() != header.len as usize {
            heard = Heard::Over { reset: true };
        }
        match heard {
            Heard::Nothing => {}
            Heard::Accepted => {
                // As Firecracker's hybrid vsock: what the host's client waits for.
                entry.backlog.extend(format!("OK {}\n", key.host).bytes());
                entry.greeting = entry.backlog.len();
            }
            Heard::Data => self.deliver(events, key),
            Heard::NoMore => entry.then = Then::ShutWrite,
            Heard::Through => entry.then = Then::End,
            Heard::Over { reset } => self.end(events, key, reset),
        }
        self.flush(events, key);
        self.queue_up(key);
    }

    /// Asks the host for a connection that the guest wants.
    fn ask(&mut self, key: Key, header: &Header) {
        let Some(alloc) = (self.asks < MAX_ASKS).then(|| self.grant()).flatten() else {
            return self.resets.push_back(key);
        };
        let serial = self.insert(key, Connection::answering(alloc, header));
        self.asks += 1;
        self.watch.ask(Ask::new(key, serial, Weak::clone(&self.me), self.events.clone()));
    }

    /// Hands the packet's data to the host: straight out of guest memory while the host keeps up.
    fn deliver(&mut self, events: &mut EventLoop, key: Key) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let mut done = 0;
        if entry.backlog.is_empty()
            && entry.writable
            && let Some((socket, token)) = &entry.socket
        {
            match self.data.write(socket.as_fd()) {
                Ok(written) => done = written,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    entry.writable = false;
                    watch_room(events, *token, true);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.end(events, key, true),
            }
        }
        let mut rest = vec![0; self.data.len() - done];
        self.data.get(done, &mut rest);
        entry.backlog.extend(rest);
        entry.connection.forwarded(count(done));
    }

    /// Sends on what the host hasn't taken yet.
    fn flush(&mut self, events: &mut EventLoop, key: Key) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let Some((socket, token)) = &entry.socket else { return };
        while entry.writable && !entry.backlog.is_empty() {
            match nix::unistd::write(socket, entry.backlog.as_slices().0).map_err(io::Error::from) {
                Ok(written) => {
                    entry.backlog.drain(..written);
                    let own = written.min(entry.greeting);
                    entry.greeting -= own;
                    entry.connection.forwarded(count(written - own));
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    entry.writable = false;
                    watch_room(events, *token, true);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.end(events, key, true),
            }
        }
        if entry.backlog.is_empty() {
            entry.backlog = VecDeque::new();
            match std::mem::replace(&mut entry.then, Then::Nothing) {
                Then::Nothing => {}
                // A host that has gone needs no telling.
                Then::ShutWrite => drop(socket.shutdown(Shutdown::Write)),
                Then::End => self.end(events, key, true),
            }
        }
    }

    // === To the guest ===

    /// Sends everything that there is to send and that the driver has buffers for.
    fn speak(&mut self, events: &mut EventLoop) -> Result<(), Broken> {
        let mut left = BUDGET;
        while let Some(next) = self.next() {
            if left == 0 {
                // Other events first; then as if the driver had offered buffers.
                let _ = self.transmit.kick().write(1);
                break;
            }
            left -= 1;
            if !self.room.take()? {
                break;
            }
            match next {
                Next::Reset(key) => {
                    self.resets.pop_front();
                    self.send(key, op::RST, 0, 0, (0, 0))?;
                }
                Next::Entry(key) => {
                    self.line.pop_front();
                    if let Some(entry) = self.entries.get_mut(&key) {
                        entry.in_line = false;
                    }
                    self.speak_of(events, key)?;
                    // To the end of the line, if there is more.
                    self.queue_up(key);
                }
            }
            // The guest begins with the first while others are read, and catches up with the rest.
            if (BUDGET - left) % SIGNAL_EVERY == 1 {
                self.room.signal()?;
            }
        }
        self.room.signal()
    }

    fn next(&self) -> Option<Next> {
        let reset = self.resets.front().map(|key| Next::Reset(*key));
        reset.or_else(|| self.line.front().map(|key| Next::Entry(*key)))
    }

    /// Sends one packet of a connection.
    fn speak_of(&mut self, events: &mut EventLoop, key: Key) -> Result<(), Broken> {
        let Some(entry) = self.entries.get_mut(&key) else { return Ok(()) };
        if let Some((op, flags)) = entry.connection.take_owed() {
            let credit = entry.connection.tell_credit();
            return self.send(key, op, flags, 0, credit);
        }
        let limit = MAX_DATA.min(entry.connection.may_send() as usize);
        let Some((socket, _)) = entry.socket.as_ref().filter(|_| entry.readable && limit > 0) else { return Ok(()) };
        let Some(read) = self.room.read(socket.as_fd(), limit)? else {
            return Err(Broken::Request("a vsock buffer has no room for data"));
        };
        match read {
            Ok(0) => {
                entry.readable = false;
                entry.connection.host_done(entry.hung_up);
            }
            Ok(len) => {
                entry.connection.sent(count(len));
                let credit = entry.connection.tell_credit();
                return self.send(key, op::RW, 0, count(len), credit);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => entry.readable = false,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.end(events, key, true),
        }
        Ok(())
    }

    fn send(&mut self, key: Key, op: u16, flags: u32, len: u32, credit: (u32, u32)) -> Result<(), Broken> {
        let (buf_alloc, fwd_cnt) = credit;
        self.room.send(&Header {
            src_cid: HOST,
            dst_cid: self.cid,
            src_port: key.host,
            dst_port: key.guest,
            len,
            kind: STREAM,
            op,
            flags,
            buf_alloc,
            fwd_cnt,
        })
    }

    // === Connections ===

    /// A share of the pool.
    fn grant(&self) -> Option<u32> {
        let share = if self.pool > POOL / 2 { LARGE } else { SMALL };
        (self.pool >= share).then_some(share)
    }

    fn insert(&mut self, key: Key, connection: Connection) -> u64 {
        self.serials += 1;
        self.pool -= connection.alloc();
        let entry = Entry {
            connection,
            socket: None,
            serial: self.serials,
            backlog: VecDeque::new(),
            greeting: 0,
            readable: false,
            writable: true,
            hung_up: false,
            in_line: false,
            then: Then::Nothing,
        };
        self.entries.insert(key, entry);
        self.serials
    }

    /// Gives a connection its socket, which is non-blocking.
    fn attach(&mut self, events: &mut EventLoop, key: Key, socket: UnixStream) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let (socket, serial, me) = (Arc::new(socket), entry.serial, Weak::clone(&self.me));
        let own = Arc::clone(&socket);
        let added = events.add(socket.as_raw_fd(), interest(false), move |events, ready| {
            let _socket = &own;
            if let Some(muxer) = me.upgrade() {
                lock(&muxer).ready(events, key, serial, ready);
            }
        });
        match added {
            Ok(token) => entry.socket = Some((socket, token)),
            Err(_) => self.end(events, key, true),
        }
    }

    /// Puts a connection in line if it has something to send.
    fn queue_up(&mut self, key: Key) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let Entry { connection, readable, in_line, .. } = entry;
        if !*in_line && (connection.owes() || *readable && connection.may_send() > 0) {
            *in_line = true;
            self.line.push_back(key);
        }
    }

    fn end(&mut self, events: &mut EventLoop, key: Key, reset: bool) {
        let Some(entry) = self.entries.remove(&key) else { return };
        self.pool += entry.connection.alloc();
        if entry.connection.phase() == Phase::Answering {
            self.asks -= 1;
        }
        if entry.in_line {
            self.line.retain(|other| *other != key);
        }
        if let Some((_, token)) = entry.socket {
            events.remove(token);
        }
        if reset {
            self.resets.push_back(key);
        }
    }

    fn check(&mut self, done: &Result<(), Broken>) {
        if done.is_err() {
            self.broken = true;
            self.room.fail();
        }
    }
}

/// What a socket is watched for. Room in it only while something waits for that: a Unix socket tells each time its other
/// end has read, which would wake the loop for every packet.
fn interest(room: bool) -> EventSet {
    let always = EventSet::IN | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
    if room { always | EventSet::OUT } else { always }
}

fn watch_room(events: &mut EventLoop, token: Token, room: bool) {
    // Fails only for a socket that isn't watched, and each is as long as it is there. It also asks anew what is there already.
    let _ = events.modify(token, interest(room));
}

enum Next {
    Reset(Key),
    Entry(Key),
}

fn count(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
