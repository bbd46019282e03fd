//! What driver and device tell each other over the control queues (virtio 1.3 §5.3.6.2): a pure state machine.
//!
//! ```text
//! driver   DEVICE_READY ──>            PORT_READY ──>                                        PORT_OPEN ──>
//! device                └── PORT_ADD …            └── CONSOLE_PORT, RESIZE, PORT_NAME, PORT_OPEN …
//! ```
//! What is to be told waits in [`Protocol::take`]'s queue until the driver has a buffer for it. The queue is bounded: while
//! it is full ([`Protocol::full`]) nothing of the driver's is read, and what changes on the host's side replaces what was
//! to be told of it before.

use std::collections::VecDeque;

/// Bytes of a message without what follows it: port, event, value.
pub const HEADER: usize = 8;
/// Messages that may wait for the driver's buffers before it is no longer listened to.
const MAX_WAITING: usize = 32;

/// Events (virtio 1.3 §5.3.6.2).
mod event {
    pub const DEVICE_READY: u16 = 0;
    pub const PORT_ADD: u16 = 1;
    pub const PORT_READY: u16 = 3;
    pub const CONSOLE_PORT: u16 = 4;
    pub const RESIZE: u16 = 5;
    pub const PORT_OPEN: u16 = 6;
    pub const PORT_NAME: u16 = 7;
}

/// What a port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortKind {
    /// A console: `hvc0`.
    Console,
    /// A channel, found by its name in `/dev/virtio-ports`.
    Named(&'static str),
}

#[derive(Debug)]
struct PortState {
    kind: PortKind,
    /// The driver has set it up.
    ready: bool,
    /// A process of the guest's has it open.
    guest_open: bool,
    /// Somebody listens on the host's side.
    host_open: bool,
}

/// What the driver's message changed, beyond what is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing that anybody waits for.
    None,
    /// The guest has opened this port: it takes input now.
    Opened(usize),
}

/// See the module.
#[derive(Debug)]
pub struct Protocol {
    ports: Vec<PortState>,
    /// Columns and rows of the console.
    size: Option<(u16, u16)>,
    waiting: VecDeque<Message>,
}

#[derive(Debug, PartialEq, Eq)]
struct Message {
    port: usize,
    event: u16,
    value: u16,
    payload: Vec<u8>,
}

impl Message {
    fn new(port: usize, event: u16, value: u16) -> Self {
        Self { port, event, value, payload: Vec::new() }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = u32::try_from(self.port).unwrap_or(u32::MAX).to_le_bytes().to_vec();
        bytes.extend(self.event.to_le_bytes());
        bytes.extend(self.value.to_le_bytes());
        bytes.extend(&self.payload);
        bytes
    }
}

impl Protocol {
    /// The conversation about these ports, not yet begun.
    pub fn new(kinds: &[PortKind]) -> Self {
        let port = |kind: &PortKind| PortState { kind: *kind, ready: false, guest_open: false, host_open: false };
        Self { ports: kinds.iter().map(port).collect(), size: None, waiting: VecDeque::new() }
    }

    /// Whether the driver has to take messages before more of its own are read.
    pub fn full(&self) -> bool {
        self.waiting.len() >= MAX_WAITING
    }

    /// Takes a message of the driver's. What makes no sense is ignored: it harms nobody.
    pub fn hear(&mut self, message: [u8; HEADER]) -> Change {
        let [p0, p1, p2, p3, e0, e1, v0, v1] = message;
        let index = usize::try_from(u32::from_le_bytes([p0, p1, p2, p3])).unwrap_or(usize::MAX);
        let (event, value) = (u16::from_le_bytes([e0, e1]), u16::from_le_bytes([v0, v1]));
        if event == event::DEVICE_READY && value == 1 {
            let adds = (0..self.ports.len()).map(|port| Message::new(port, event::PORT_ADD, 0));
            self.waiting.extend(adds);
            return Change::None;
        }
        let Some(port) = self.ports.get_mut(index) else { return Change::None };
        match event {
            event::PORT_READY if value == 1 => {
                port.ready = true;
                match port.kind {
                    PortKind::Console => {
                        self.waiting.push_back(Message::new(index, event::CONSOLE_PORT, 1));
                        self.tell_size();
                    }
                    PortKind::Named(name) => {
                        let payload = name.as_bytes().to_vec();
                        self.waiting.push_back(Message { payload, ..Message::new(index, event::PORT_NAME, 1) });
                    }
                }
                if self.ports[index].host_open {
                    self.replace(Message::new(index, event::PORT_OPEN, 1));
                }
                Change::None
            }
            event::PORT_OPEN => {
                let opened = value == 1 && !port.guest_open;
                port.guest_open = value == 1;
                if opened { Change::Opened(index) } else { Change::None }
            }
            _ => Change::None,
        }
    }

    /// Whether the guest reads what comes to a port. A console is always read.
    pub fn takes_input(&self, index: usize) -> bool {
        self.ports.get(index).is_some_and(|port| port.kind == PortKind::Console || port.guest_open)
    }

    /// Somebody on the host's side has come, or gone.
    pub fn set_host_open(&mut self, index: usize, open: bool) {
        let Some(port) = self.ports.get_mut(index).filter(|port| port.host_open != open) else { return };
        port.host_open = open;
        if port.ready {
            self.replace(Message::new(index, event::PORT_OPEN, open.into()));
        }
    }

    /// The console has another size.
    pub fn set_size(&mut self, columns: u16, rows: u16) {
        self.size = Some((columns, rows));
        self.tell_size();
    }

    /// In the order of the specification: columns, rows. Linux before 6.15 takes them the other way round.
    fn tell_size(&mut self) {
        let console = self.ports.iter().position(|port| port.ready && port.kind == PortKind::Console);
        if let (Some(index), Some((columns, rows))) = (console, self.size) {
            let payload = [columns.to_le_bytes(), rows.to_le_bytes()].concat();
            self.replace(Message { payload, ..Message::new(index, event::RESIZE, 0) });
        }
    }

    /// To be told instead of what waits about the same thing.
    fn replace(&mut self, message: Message) {
        self.waiting.retain(|other| (other.port, other.event) != (message.port, message.event));
        self.waiting.push_back(message);
    }

    /// The next message to the driver.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        self.waiting.pop_front().map(|message| message.bytes())
    }

    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: &str = "org.example.0";

    fn protocol() -> Protocol {
        Protocol::new(&[PortKind::Console, PortKind::Named(AGENT)])
    }

    fn say(protocol: &mut Protocol, port: u32, event: u16, value: u16) -> Change {
        let mut message = [0; HEADER];
        message[..4].copy_from_slice(&port.to_le_bytes());
        message[4..6].copy_from_slice(&event.to_le_bytes());
        message[6..].copy_from_slice(&value.to_le_bytes());
        protocol.hear(message)
    }

    /// What is told: port, event, value, payload.
    fn told(protocol: &mut Protocol) -> Vec<(u8, u8, u8, Vec<u8>)> {
        std::iter::from_fn(|| protocol.take()).map(|m| (m[0], m[4], m[6], m[HEADER..].to_vec())).collect()
    }

    #[test]
    fn a_driver_is_told_of_its_ports() {
        let mut protocol = protocol();
        protocol.set_size(80, 25);
        assert!(protocol.is_empty(), "nothing is told before it asks");
        say(&mut protocol, u32::MAX, 0, 1);
        assert_eq!(told(&mut protocol), [(0, 1, 0, vec![]), (1, 1, 0, vec![])]);
        say(&mut protocol, 0, 3, 1);
        assert_eq!(told(&mut protocol), [(0, 4, 1, vec![]), (0, 5, 0, vec![80, 0, 25, 0])]);
        say(&mut protocol, 1, 3, 1);
        assert_eq!(told(&mut protocol), [(1, 7, 1, AGENT.as_bytes().to_vec())]);
        protocol.set_host_open(1, true);
        assert_eq!(told(&mut protocol), [(1, 6, 1, vec![])]);
    }

    #[test]
    fn a_host_that_was_there_first_is_told_with_the_port() {
        let mut protocol = protocol();
        protocol.set_host_open(1, true);
        assert!(protocol.is_empty());
        say(&mut protocol, 1, 3, 1);
        assert_eq!(told(&mut protocol)[1], (1, 6, 1, vec![]));
    }

    #[test]
    fn a_channel_takes_input_while_the_guest_has_it_open() {
        let mut protocol = protocol();
        assert_eq!((protocol.takes_input(0), protocol.takes_input(1)), (true, false));
        assert_eq!(say(&mut protocol, 1, 6, 1), Change::Opened(1));
        assert_eq!(say(&mut protocol, 1, 6, 1), Change::None, "once");
        assert!(protocol.takes_input(1));
        say(&mut protocol, 1, 6, 0);
        assert!(!protocol.takes_input(1));
    }

    #[test]
    fn what_waits_is_bounded_and_only_the_last_state_counts() {
        let mut protocol = protocol();
        while !protocol.full() {
            say(&mut protocol, 0, 0, 1);
        }
        assert!(protocol.waiting.len() < MAX_WAITING + 4);
        told(&mut protocol);
        say(&mut protocol, 0, 3, 1);
        say(&mut protocol, 1, 3, 1);
        for size in 0..1000 {
            protocol.set_size(size, size);
            protocol.set_host_open(1, size % 2 == 0);
        }
        assert_eq!(protocol.waiting.len(), 4);
    }

    #[test]
    fn nonsense_is_ignored() {
        let mut protocol = protocol();
        for (port, event, value) in [(7, 3, 1), (u32::MAX, 6, 1), (0, 99, 1), (0, 0, 0), (0, 3, 0), (1, 2, 5)] {
            assert_eq!(say(&mut protocol, port, event, value), Change::None);
        }
        assert!(protocol.is_empty());
    }
}
