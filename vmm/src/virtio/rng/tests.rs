use std::sync::Arc;

use super::*;
use crate::virtio::testing::{DATA, DriverQueue, EventThread, Part, Told, activation, ram, wait};

fn start(events: &EventThread) -> (Rng, DriverQueue, Arc<Told>) {
    let queue = DriverQueue::new(&ram(), 0x1000, QUEUE_SIZE);
    let told = Arc::new(Told::default());
    let mut rng = Rng::new();
    rng.activate(activation(&[&queue], 0, &told, &events.handle)).unwrap();
    (rng, queue, told)
}

#[test]
fn gives_bytes_up_to_the_cap() {
    let events = EventThread::start();
    let (_rng, mut queue, told) = start(&events);
    queue.add(&[Part::In(DATA, 32), Part::In(DATA + 0x100, 32)]);
    queue.add(&[Part::In(DATA + 0x1000, 0x8000)]);
    queue.kick();
    assert_eq!(queue.wait_used(), (0, 64));
    assert_eq!(queue.wait_used().1, 4096);
    assert_ne!(queue.read(DATA, 32), [0; 32]);
    assert_ne!(queue.read(DATA + 0x100, 32), [0; 32]);
    assert_eq!(queue.read(DATA + 0x2000, 16), [0; 16], "past the cap nothing is written");
    wait(|| told.interrupts() == 1);
}

#[test]
fn readable_buffers_are_left_alone() {
    let events = EventThread::start();
    let (_rng, mut queue, _) = start(&events);
    queue.add(&[Part::Out(DATA, 32)]);
    queue.kick();
    assert_eq!(queue.wait_used(), (0, 0));
    assert_eq!(queue.read(DATA, 32), [0; 32]);
}

#[test]
fn a_buffer_outside_of_ram_breaks_the_device() {
    let events = EventThread::start();
    let (mut rng, mut queue, told) = start(&events);
    queue.add(&[Part::In(1 << 40, 32)]);
    queue.kick();
    wait(|| told.is_failed());
    assert_eq!(queue.take_used(), None);
    rng.reset();
}

#[test]
fn reset_stops_it_at_once() {
    let events = EventThread::start();
    let (mut rng, mut queue, told) = start(&events);
    events.settle();
    rng.reset();
    queue.add(&[Part::In(DATA, 32)]);
    queue.kick();
    events.settle();
    events.settle();
    assert_eq!(queue.take_used(), None);
    rng.activate(activation(&[&queue], 0, &told, &events.handle)).unwrap();
    assert_eq!(queue.wait_used(), (0, 32));
}
