//! Pairs that the host's kernel is to serve.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;

use super::tests::real::tap;
use super::tests::{MAC, Rig};
use super::{HEADER, Link, Net};
use crate::virtio::device::VirtioDevice;
use crate::virtio::testing::{DATA, DriverQueue, EventThread, Part, Told, activation, ram, wait};

#[test]
fn what_the_kernel_refuses_goes_through_this_process() {
    let null = || File::options().read(true).write(true).open("/dev/null").unwrap();
    let mut rig = Rig::with(0, |net| net.accelerate(vec![null()]));
    rig.transmit.add(&[Part::Out(DATA, 100)]);
    rig.transmit.kick();
    assert_eq!(rig.wire.recv(&mut [0; 2048]).unwrap(), 100);
    rig.receive.add(&[Part::In(DATA, 2000)]);
    rig.receive.kick();
    rig.send(100);
    assert_eq!(rig.receive.wait_used(), (0, 100));
    assert!(!rig.told.is_failed());
    rig.net.reset();
}

/// A card that the kernel serves, on a real tap.
struct Kernel {
    net: Net,
    wire: File,
    link: Link,
    receive: DriverQueue,
    transmit: DriverQueue,
    told: Arc<Told>,
    events: EventThread,
    sent: u8,
}

impl Kernel {
    fn new() -> Self {
        let vhost = File::options().read(true).write(true).open("/dev/vhost-net").expect("/dev/vhost-net");
        let (taps, wire) = tap(1);
        let (ram, told, link) = (ram(), Arc::new(Told::default()), Link::new(true));
        let mut net = Net::new("test".into(), taps, MAC, None, link.clone()).unwrap();
        net.accelerate(vec![vhost]);
        let (receive, transmit) = (DriverQueue::new(&ram, 0x1000, 64), DriverQueue::new(&ram, 0x5000, 64));
        let mut kernel = Self { net, wire, link, receive, transmit, told, events: EventThread::start(), sent: 0 };
        kernel.activate();
        kernel
    }

    fn activate(&mut self) {
        let features = self.net.features() | 1 << 32;
        let activation = activation(&[&self.receive, &self.transmit], features, &self.told, &self.events.handle);
        self.net.activate(activation).unwrap();
        for i in 0..40 {
            self.receive.add(&[Part::In(DATA + i * 0x800, 0x800)]);
        }
        self.receive.kick();
    }

    /// Threads of this process that serve a pair.
    fn threads() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        tasks.map(|task| name(task.unwrap())).filter(|name| name == "net0 test\n").count()
    }

    /// A frame of an experimental EtherType, so that no protocol answers; each is another.
    fn frame(&mut self) -> Vec<u8> {
        self.sent += 1;
        [&[0xFF; 6][..], &MAC, &[0x88, 0xB5], &[self.sent; 50]].concat()
    }

    fn transmit(&mut self) -> Vec<u8> {
        let frame = self.frame();
        let at = 0x8_0000 + 0x100 * u64::from(self.sent);
        self.transmit.write(at, &[vec![0; HEADER], frame.clone()].concat());
        self.transmit.add(&[Part::Out(at, u32::try_from(HEADER + frame.len()).unwrap())]);
        self.transmit.kick();
        frame
    }

    /// The next frame of ours on the wire.
    fn on_the_wire(&mut self) -> Vec<u8> {
        let mut got = [0; 2048];
        loop {
            let len = self.wire.read(&mut got).unwrap();
            if got[..len].get(12..14) == Some(&[0x88, 0xB5]) {
                return got[..len].to_vec();
            }
        }
    }

    /// The next frame of ours that the driver finds.
    fn received(&mut self) -> Vec<u8> {
        loop {
            let (head, len) = self.receive.wait_used();
            let packet = self.receive.read(DATA + u64::from(head) * 0x800, len as usize);
            if packet[HEADER..].get(12..14) == Some(&[0x88, 0xB5]) {
                return packet[HEADER..].to_vec();
            }
        }
    }

    fn passes_both_ways(&mut self) {
        let out = self.transmit();
        assert_eq!(self.on_the_wire(), out);
        self.transmit.wait_used();
        let inward = self.frame();
        self.wire.write_all(&inward).unwrap();
        assert_eq!(self.received(), inward);
        assert!(!self.told.is_failed());
    }
}

#[test]
#[ignore = "needs /dev/vhost-net, as nodes have; a scenario of theirs has the kernel move a guest's packets"]
fn the_kernel_moves_packets_until_it_is_told_not_to() {
    let mut card = Kernel::new();
    card.passes_both_ways();
    assert_eq!(Kernel::threads(), 0);
    wait(|| card.told.interrupts() >= 2);

    card.net.pause();
    let (out, inward) = (card.transmit(), card.frame());
    card.wire.write_all(&inward).unwrap();
    assert_eq!((card.transmit.take_used(), card.receive.take_used()), (None, None));
    card.net.rewire();
    card.net.resume();
    assert_eq!((card.on_the_wire(), card.received()), (out, inward));
    card.transmit.wait_used();

    // With the cable pulled, packets are lost here.
    card.link.set(false);
    wait(|| Kernel::threads() == 1);
    card.transmit();
    card.transmit.wait_used();
    card.net.pause();
    card.link.set(true);
    card.net.resume();
    assert_eq!(Kernel::threads(), 0);
    card.passes_both_ways();

    card.net.reset();
    card.receive = DriverQueue::new(&card.receive.ram, 0x1000, 64);
    card.transmit = DriverQueue::new(&card.transmit.ram, 0x5000, 64);
    card.activate();
    card.passes_both_ways();
    assert_eq!(Kernel::threads(), 0);
}

#[test]
#[ignore = "needs /dev/vhost-net, as nodes have; a scenario of theirs has the kernel move a guest's packets"]
fn a_broken_ring_breaks_the_device() {
    let mut card = Kernel::new();
    card.transmit.add(&[Part::Out(1 << 40, 100)]);
    card.transmit.set_available(500);
    card.transmit.kick();
    wait(|| card.told.is_failed());
    card.net.reset();
}
