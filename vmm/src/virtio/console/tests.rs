use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::request::MAX_WRITE;
use super::{AGENT, Backend, Console, Port, Ports};
use crate::virtio::device::{ActivateError, VirtioDevice};
use crate::virtio::testing::{DATA, DriverQueue, EventThread, Part, Told, activation, ram, wait};

#[derive(Default)]
struct Screen {
    text: Mutex<Vec<u8>>,
    ready: AtomicU32,
    full: AtomicBool,
}

impl Backend for Screen {
    fn output(&self, bytes: &[u8]) {
        self.text.lock().unwrap().extend(bytes);
    }
    fn has_room(&self) -> bool {
        !self.full.load(Ordering::SeqCst)
    }
    fn input_ready(&self) {
        self.ready.fetch_add(1, Ordering::SeqCst);
    }
}

struct Rig {
    console: Console,
    port: Port,
    screen: Arc<Screen>,
    receive: DriverQueue,
    transmit: DriverQueue,
    told: Arc<Told>,
    events: EventThread,
}

impl Rig {
    fn start() -> Self {
        let events = EventThread::start();
        let (ram, told, screen) = (ram(), Arc::new(Told::default()), Arc::new(Screen::default()));
        let (mut console, Ports { console: port, .. }) = Console::new();
        port.bind(Arc::clone(&screen) as Arc<dyn Backend>);
        let (receive, transmit) = (DriverQueue::new(&ram, 0x1000, 16), DriverQueue::new(&ram, 0x5000, 16));
        console.activate(activation(&[&receive, &transmit], 1, &told, &events.handle)).unwrap();
        events.settle();
        Self { console, port, screen, receive, transmit, told, events }
    }
}

#[test]
fn output_reaches_the_backend_in_order() {
    let mut rig = Rig::start();
    rig.transmit.write(DATA, b"hello, ");
    rig.transmit.write(DATA + 0x5000, &[b'x'; 5000]);
    rig.transmit.add(&[Part::Out(DATA, 5), Part::Out(DATA + 5, 2)]);
    rig.transmit.add(&[Part::Out(DATA + 0x5000, 5000)]);
    rig.transmit.kick();
    rig.transmit.wait_used();
    assert_eq!(rig.transmit.wait_used(), (2, 0));
    assert_eq!(*rig.screen.text.lock().unwrap(), [b"hello, ".to_vec(), vec![b'x'; 5000]].concat());
}

#[test]
fn input_waits_for_room() {
    let mut rig = Rig::start();
    assert_eq!(rig.screen.ready.load(Ordering::SeqCst), 1, "asked once it's up");
    assert_eq!(rig.port.offer(b"abc"), 0);
    rig.receive.add(&[Part::In(DATA, 4)]);
    rig.receive.add(&[Part::In(DATA + 0x100, 2), Part::In(DATA + 0x200, 2)]);
    rig.receive.kick();
    wait(|| rig.screen.ready.load(Ordering::SeqCst) == 2);
    assert_eq!(rig.port.offer(b"0123456789"), 8);
    assert_eq!(rig.receive.wait_used(), (0, 4));
    assert_eq!(rig.receive.wait_used(), (1, 4));
    assert_eq!(rig.receive.read(DATA, 4), b"0123");
    assert_eq!(rig.receive.read(DATA + 0x200, 2), b"67");
    assert_eq!(rig.told.interrupts(), 1, "one interrupt for all of it");
    rig.console.reset();
    assert_eq!(rig.port.offer(b"x"), 0);
}

#[test]
fn resizing_changes_the_configuration() {
    let rig = Rig::start();
    assert_eq!(rig.console.features() & 1, 1);
    rig.port.resize(132, 50);
    let mut data = [0; 4];
    rig.console.read_config(0, &mut data);
    assert_eq!(data, [132, 0, 50, 0]);
    assert_eq!(rig.told.configs.load(Ordering::SeqCst), 1);
    rig.console.read_config(u64::MAX, &mut data);
    assert_eq!(data, [0; 4]);
}

#[test]
fn bad_buffers_break_the_device() {
    for part in [Part::Out(1 << 40, 4), Part::Out(0, u32::try_from(MAX_WRITE).unwrap() + 1)] {
        let mut rig = Rig::start();
        rig.transmit.add(&[part]);
        rig.transmit.kick();
        wait(|| rig.told.is_failed());
    }
    for part in [Part::In(1 << 40, 4), Part::Out(DATA, 4)] {
        let mut rig = Rig::start();
        rig.receive.add(&[part]);
        rig.port.offer(b"x");
        assert!(rig.told.is_failed(), "{part:?}");
        rig.events.settle();
    }
}

#[test]
fn needs_both_queues() {
    let mut rig = Rig::start();
    rig.console.reset();
    let activation = activation(&[&rig.receive], 1, &rig.told, &rig.events.handle);
    assert!(matches!(rig.console.activate(activation), Err(ActivateError::MissingQueue(1))));
}

/// A driver with MULTIPORT.
struct Multiport {
    ports: Ports,
    agent: Arc<Screen>,
    /// In the order of their indexes.
    queues: Vec<DriverQueue>,
    told: Arc<Told>,
    /// Of the messages that came, the next buffer's place.
    next: u64,
    _console: Console,
    events: EventThread,
}

const CONTROL_RECEIVE: usize = 2;
const CONTROL_TRANSMIT: usize = 3;
const AGENT_RECEIVE: usize = 4;
const AGENT_TRANSMIT: usize = 5;
const MESSAGES: u64 = DATA + 0x1_0000;

impl Multiport {
    fn start() -> Self {
        let events = EventThread::start();
        let (ram, told, agent) = (ram(), Arc::new(Told::default()), Arc::new(Screen::default()));
        let (mut console, ports) = Console::new();
        ports.agent.bind(Arc::clone(&agent) as Arc<dyn Backend>);
        let queues: Vec<_> = (0..6).map(|i| DriverQueue::new(&ram, 0x1000 + 0x4000 * i, 16)).collect();
        let references: Vec<_> = queues.iter().collect();
        console.activate(activation(&references, 3, &told, &events.handle)).unwrap();
        events.settle();
        let mut rig = Self { ports, agent, queues, told, next: 0, _console: console, events };
        for buffer in 0..8 {
            rig.queues[CONTROL_RECEIVE].add(&[Part::In(MESSAGES + 64 * buffer, 64)]);
        }
        rig
    }

    fn say(&mut self, port: u32, event: u16, value: u16) {
        let message = [port.to_le_bytes().as_slice(), &event.to_le_bytes(), &value.to_le_bytes()].concat();
        let queue = &mut self.queues[CONTROL_TRANSMIT];
        queue.write(DATA, &message);
        queue.add(&[Part::Out(DATA, 8)]);
        queue.kick();
        queue.wait_used();
    }

    /// The next message: port, event, value, payload.
    fn hear(&mut self) -> (u8, u8, u8, Vec<u8>) {
        let (_, len) = self.queues[CONTROL_RECEIVE].wait_used();
        let bytes = self.queues[CONTROL_RECEIVE].read(MESSAGES + 64 * self.next, len as usize);
        self.next += 1;
        (bytes[0], bytes[4], bytes[6], bytes[8..].to_vec())
    }
}

#[test]
fn the_agents_port_is_found_by_its_name_and_carries_bytes_once_it_is_open() {
    let mut rig = Multiport::start();
    rig.say(0, 0, 1);
    assert_eq!([rig.hear().1, rig.hear().1], [1, 1], "two ports");
    rig.say(1, 3, 1);
    assert_eq!(rig.hear(), (1, 7, 1, AGENT.as_bytes().to_vec()));
    rig.ports.agent.set_open(true);
    assert_eq!(rig.hear(), (1, 6, 1, vec![]));
    rig.queues[AGENT_RECEIVE].add(&[Part::In(DATA + 0x100, 16)]);
    assert_eq!(rig.ports.agent.offer(b"early"), 0, "nobody reads it yet");
    rig.events.settle();
    let before = rig.agent.ready.load(Ordering::SeqCst);
    rig.say(1, 6, 1);
    wait(|| rig.agent.ready.load(Ordering::SeqCst) > before);
    assert_eq!(rig.ports.agent.offer(b"hello"), 5);
    assert_eq!(rig.queues[AGENT_RECEIVE].wait_used(), (0, 5));
    rig.queues[AGENT_TRANSMIT].add(&[Part::Out(DATA + 0x100, 5)]);
    rig.queues[AGENT_TRANSMIT].kick();
    rig.queues[AGENT_TRANSMIT].wait_used();
    assert_eq!(*rig.agent.text.lock().unwrap(), b"hello");
}

#[test]
fn output_that_nobody_has_room_for_waits_in_the_guest() {
    let mut rig = Multiport::start();
    rig.agent.full.store(true, Ordering::SeqCst);
    rig.queues[AGENT_TRANSMIT].write(DATA, b"data");
    rig.queues[AGENT_TRANSMIT].add(&[Part::Out(DATA, 4)]);
    rig.queues[AGENT_TRANSMIT].kick();
    rig.events.settle();
    assert_eq!(rig.queues[AGENT_TRANSMIT].take_used(), None);
    rig.agent.full.store(false, Ordering::SeqCst);
    rig.ports.agent.output_ready();
    assert_eq!(rig.queues[AGENT_TRANSMIT].wait_used(), (0, 0));
}

#[test]
fn the_consoles_size_is_told_to_its_port() {
    let mut rig = Multiport::start();
    rig.say(0, 3, 1);
    assert_eq!(rig.hear(), (0, 4, 1, vec![]));
    rig.ports.console.resize(132, 50);
    assert_eq!(rig.hear(), (0, 5, 0, vec![132, 0, 50, 0]));
}

#[test]
fn a_driver_that_takes_no_answers_is_not_heard_and_harms_nobody() {
    let mut rig = Multiport::start();
    for _ in 0..8 {
        rig.say(1, 3, 1);
    }
    // No buffers are left: the answers wait, and in the end so do the driver's messages.
    let queue = &mut rig.queues[CONTROL_TRANSMIT];
    for _ in 0..16 {
        queue.add(&[Part::Out(DATA, 8)]);
    }
    queue.kick();
    rig.events.settle();
    let mut heard = 0;
    while queue.take_used().is_some() {
        heard += 1;
    }
    assert!(heard <= 16 && !rig.told.is_failed());
}

#[test]
fn a_control_buffer_that_is_too_small_breaks_the_device() {
    let events = EventThread::start();
    let (ram, told) = (ram(), Arc::new(Told::default()));
    let (mut console, _ports) = Console::new();
    let mut queues: Vec<_> = (0..6).map(|i| DriverQueue::new(&ram, 0x1000 + 0x4000 * i, 16)).collect();
    let references: Vec<_> = queues.iter().collect();
    console.activate(activation(&references, 3, &told, &events.handle)).unwrap();
    events.settle();
    queues[CONTROL_RECEIVE].add(&[Part::In(MESSAGES, 4)]);
    let ready = [1_u32.to_le_bytes().as_slice(), &3_u16.to_le_bytes(), &1_u16.to_le_bytes()].concat();
    queues[CONTROL_TRANSMIT].write(DATA, &ready);
    queues[CONTROL_TRANSMIT].add(&[Part::Out(DATA, 8)]);
    queues[CONTROL_TRANSMIT].kick();
    wait(|| told.is_failed());
}
