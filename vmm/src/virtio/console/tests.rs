use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::request::MAX_WRITE;
use super::{Backend, Console, Port};
use crate::virtio::device::{ActivateError, VirtioDevice};
use crate::virtio::testing::{DATA, DriverQueue, EventThread, Part, Told, activation, ram, wait};

#[derive(Default)]
struct Screen {
    text: Mutex<Vec<u8>>,
    ready: AtomicU32,
}

impl Backend for Screen {
    fn output(&self, bytes: &[u8]) {
        self.text.lock().unwrap().extend(bytes);
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
        let (mut console, port) = Console::new(Some(Arc::clone(&screen) as Arc<dyn Backend>));
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
