use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use proptest::prelude::*;
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use vm_memory::{Bytes, GuestAddress};

use super::tap::Tap;
use super::{HEADER, Limiters, Link, MAX_PACKET, Net, request};
use crate::config::{Rate, RateLimit};
use crate::memory::guest_buffers::GuestBuffers;
use crate::virtio::device::{ActivateError, VirtioDevice};
use crate::virtio::testing::{DATA, DriverQueue, EventThread, Part, Told, activation, ram, wait};
use crate::virtio::virtqueue::Virtqueue;

const MERGEABLE: u64 = 1 << 15;
pub(super) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A card whose tap is one end of a packet socket pair.
pub(super) struct Rig {
    pub net: Net,
    pub wire: UnixDatagram,
    pub receive: DriverQueue,
    pub transmit: DriverQueue,
    pub told: Arc<Told>,
    link: Link,
    _events: EventThread,
}

impl Rig {
    fn start(features: u64) -> Self {
        Self::with(features, |_| {})
    }

    fn limited(features: u64, limiters: Limiters) -> Self {
        Self::with(features, |net| net.limit(limiters))
    }

    pub fn with(features: u64, change: impl FnOnce(&mut Net)) -> Self {
        let events = EventThread::start();
        let (wire, tap) = UnixDatagram::pair().unwrap();
        tap.set_nonblocking(true).unwrap();
        wire.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let link = Link::new(true);
        let mut net =
            Net::on("test".into(), vec![Tap::socket(File::from(OwnedFd::from(tap)))], MAC, Some(1500), link.clone());
        change(&mut net);
        let (ram, told) = (ram(), Arc::new(Told::default()));
        let (receive, transmit) = (DriverQueue::new(&ram, 0x1000, 64), DriverQueue::new(&ram, 0x5000, 64));
        net.start(activation(&[&receive, &transmit], features, &told, &events.handle)).unwrap();
        Self { net, wire, receive, transmit, told, link, _events: events }
    }

    pub fn send(&self, len: usize) -> Vec<u8> {
        let packet: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        self.wire.send(&packet).unwrap();
        packet
    }
}

/// A packet as the guest finds it: with the number of its chains.
fn numbered(mut packet: Vec<u8>, chains: u8) -> Vec<u8> {
    packet[10..12].copy_from_slice(&[chains, 0]);
    packet
}

#[test]
fn a_packet_goes_out_as_it_is() {
    let mut rig = Rig::start(0);
    let packet: Vec<u8> = (0..100).collect();
    rig.transmit.write(DATA, &packet);
    rig.transmit.add(&[Part::Out(DATA, 12), Part::Out(DATA + 12, 88)]);
    rig.transmit.add_indirect(DATA + 0x2000, &[Part::Out(DATA, 50), Part::Out(DATA + 50, 50)]);
    rig.transmit.kick();
    let mut got = [0; 2048];
    for _ in 0..2 {
        assert_eq!(rig.wire.recv(&mut got).unwrap(), 100);
        assert_eq!(got[..100], packet);
    }
    assert_eq!((rig.transmit.wait_used(), rig.transmit.wait_used()), ((0, 0), (2, 0)));
}

#[test]
fn bad_packets_are_dropped_and_the_next_one_goes() {
    let mut rig = Rig::start(0);
    let long = u32::try_from(MAX_PACKET).unwrap();
    for parts in [
        &[Part::Out(DATA, 25)][..],
        &[Part::Out(0, long), Part::Out(0, 1)],
        &[Part::Out(1 << 40, 64)],
        &[Part::In(DATA, 64)],
        &[Part::Out(0, u32::MAX)],
    ] {
        rig.transmit.add(parts);
        rig.transmit.kick();
        rig.transmit.wait_used();
    }
    rig.transmit.add(&[Part::Out(DATA, 26)]);
    rig.transmit.kick();
    let mut got = vec![0; 100_000];
    assert_eq!(rig.wire.recv(&mut got).unwrap(), 26);
    assert!(!rig.told.is_failed());
}

#[test]
fn a_packet_comes_in_whole() {
    let mut rig = Rig::start(0);
    rig.receive.add(&[Part::In(DATA, 12), Part::In(DATA + 0x100, 1600)]);
    rig.receive.kick();
    let packet = rig.send(1000);
    assert_eq!(rig.receive.wait_used(), (0, 1000));
    let got = [rig.receive.read(DATA, 12), rig.receive.read(DATA + 0x100, 988)].concat();
    assert_eq!(got, numbered(packet, 1));
    wait(|| rig.told.interrupts() == 1);
}

#[test]
fn packets_wait_for_buffers() {
    let mut rig = Rig::start(0);
    for len in [100, 200, 300] {
        rig.send(len);
    }
    for len in [100, 200, 300] {
        rig.receive.add(&[Part::In(DATA, 2000)]);
        rig.receive.kick();
        assert_eq!(rig.receive.wait_used().1, len);
    }
}

#[test]
fn the_first_packet_of_a_burst_is_told_of_before_the_rest_is_read() {
    let mut rig = Rig::start(0);
    for len in [100, 200, 300] {
        rig.send(len);
    }
    for i in 0..3 {
        rig.receive.add(&[Part::In(DATA + i * 0x1000, 2000)]);
    }
    rig.receive.kick();
    for len in [100, 200, 300] {
        assert_eq!(rig.receive.wait_used().1, len);
    }
    // A driver that polls meanwhile would be told of nothing.
    wait(|| rig.told.interrupts() == 2);
}

#[test]
fn mergeable_buffers_hold_a_packet_together() {
    let mut rig = Rig::start(MERGEABLE);
    for i in 0..5 {
        rig.receive.add(&[Part::In(DATA + i * 0x1000, 700)]);
    }
    rig.receive.kick();
    let first = rig.send(1500);
    assert_eq!(
        [rig.receive.wait_used(), rig.receive.wait_used(), rig.receive.wait_used()],
        [(0, 700), (1, 700), (2, 100)]
    );
    let parts = [(0, 700), (1, 700), (2, 100)].map(|(i, len)| rig.receive.read(DATA + i * 0x1000, len));
    assert_eq!(parts.concat(), numbered(first, 3));
    // Two chains are left: not enough for the largest packet, so the next one waits.
    let second = rig.send(600);
    for i in 5..7 {
        rig.receive.add(&[Part::In(DATA + i * 0x1000, 700)]);
    }
    rig.receive.kick();
    assert_eq!(rig.receive.wait_used(), (3, 600));
    assert_eq!(rig.receive.read(DATA + 0x3000, 600), numbered(second, 1));
}

#[test]
fn a_burst_is_one_interrupt_where_the_driver_wants_one() {
    let mut rig = Rig::start(0);
    rig.receive.set_avail_flags(1);
    for i in 0..20 {
        rig.receive.add(&[Part::In(DATA + i * 0x1000, 2000)]);
    }
    rig.receive.kick();
    for _ in 0..20 {
        rig.send(64);
    }
    for i in 0..20 {
        assert_eq!(rig.receive.wait_used(), (i, 64));
    }
    rig.net.reset();
    assert_eq!(rig.told.interrupts(), 0);
}

#[test]
fn a_receive_buffer_outside_of_ram_breaks_the_device() {
    for part in [Part::In(1 << 40, 2000), Part::Out(DATA, 2000)] {
        let mut rig = Rig::start(0);
        rig.receive.add(&[part]);
        rig.receive.kick();
        rig.send(100);
        wait(|| rig.told.is_failed());
        rig.net.reset();
        assert_eq!(rig.receive.take_used(), None);
    }
}

#[test]
fn tells_its_address_and_mtu() {
    let rig = Rig::start(0);
    let mut data = [0; 12];
    rig.net.read_config(0, &mut data);
    assert_eq!(data, [2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0xDC, 5]);
    assert_eq!(rig.net.features() & (1 << 3 | 1 << 5), 1 << 3 | 1 << 5);
}

#[test]
fn a_pulled_cable_loses_packets_both_ways() {
    let mut rig = Rig::start(0);
    rig.link.set(false);
    assert_eq!(rig.told.configs.load(Ordering::SeqCst), 1);
    let mut status = [0xFF; 2];
    rig.net.read_config(6, &mut status);
    assert_eq!(status, [0, 0]);
    rig.transmit.add(&[Part::Out(DATA, 100)]);
    rig.transmit.kick();
    assert_eq!(rig.transmit.wait_used(), (0, 0));
    rig.receive.add(&[Part::In(DATA, 2000)]);
    rig.receive.kick();
    rig.send(100);
    rig.wire.set_nonblocking(true).unwrap();
    assert!(rig.wire.recv(&mut [0; 2048]).is_err(), "nothing went out");
    rig.net.pause();
    rig.link.set(true);
    rig.net.resume();
    let packet = rig.send(300);
    // The first may still have been in the wire when the cable came back.
    let mut len = rig.receive.wait_used().1;
    if len == 100 {
        rig.receive.add(&[Part::In(DATA, 2000)]);
        rig.receive.kick();
        len = rig.receive.wait_used().1;
    }
    assert_eq!((len, rig.receive.read(DATA, 300)), (300, numbered(packet, 1)));
}

/// Processor time that this process has used.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap().into()
}

#[test]
fn over_its_limit_a_card_sends_late_and_sleeps_meanwhile() {
    let limit = RateLimit { operations: Some(Rate { per_second: 20, burst: 1 }), bytes: None };
    let mut rig = Rig::limited(0, Limiters::new(RateLimit::default(), limit));
    let (start, cpu) = (Instant::now(), cpu_time());
    (0..5).for_each(|_| _ = rig.transmit.add(&[Part::Out(DATA, 100)]));
    rig.transmit.kick();
    for _ in 0..5 {
        assert_eq!(rig.wire.recv(&mut [0; 2048]).unwrap(), 100);
    }
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert!(cpu_time() < cpu + Duration::from_millis(100));
    // What comes in isn't touched by it.
    rig.receive.add(&[Part::In(DATA, 2000)]);
    rig.receive.kick();
    rig.send(100);
    assert_eq!(rig.receive.wait_used(), (0, 100));
}

#[test]
fn over_its_limit_a_card_receives_late() {
    // 88 bytes without their headers: the first finds its burst, the second the token that it needs, the others wait.
    let limit = RateLimit { bytes: Some(Rate { per_second: 88 * 20, burst: 88 }), operations: None };
    let mut rig = Rig::limited(0, Limiters::new(limit, RateLimit::default()));
    let start = Instant::now();
    (0..5).for_each(|i| _ = rig.receive.add(&[Part::In(DATA + i * 0x1000, 2000)]));
    rig.receive.kick();
    (0..5).for_each(|_| _ = rig.send(100));
    for i in 0..4 {
        assert_eq!(rig.receive.wait_used(), (i, 100));
    }
    // More buffers and a pause change nothing.
    rig.receive.kick();
    rig.net.pause();
    rig.net.resume();
    rig.receive.kick();
    assert_eq!(rig.receive.wait_used(), (4, 100));
    assert!(start.elapsed() >= Duration::from_millis(150));
    rig.net.reset();
}

#[test]
fn starts_again_after_a_reset() {
    let mut rig = Rig::start(0);
    rig.net.reset();
    rig.send(100);
    let (receive, transmit) = (DriverQueue::new(&ram(), 0x1000, 64), DriverQueue::new(&ram(), 0x5000, 64));
    let events = EventThread::start();
    let error = rig.net.start(activation(&[&receive], 0, &rig.told, &events.handle)).unwrap_err();
    assert!(matches!(error, ActivateError::MissingQueue(1)));
    let mut receive = DriverQueue::new(&transmit.ram, 0x1000, 64);
    rig.net.start(activation(&[&receive, &transmit], 0, &rig.told, &events.handle)).unwrap();
    receive.add(&[Part::In(DATA, 2000)]);
    receive.kick();
    assert_eq!(receive.wait_used(), (0, 100));
    rig.net.reset();
}

proptest! {
    /// Whatever the descriptors say, a packet to send has a sane length and lies in RAM.
    #[test]
    fn parsing_any_packet_is_safe(
        parts in prop::collection::vec((any::<u64>(), prop_oneof![0..2048_u32, any::<u32>()], 0..8_u16, 0..10_u16, any::<bool>()), 1..8),
    ) {
        let ram = ram();
        let mut driver = DriverQueue::new(&ram, 0x2_0000, 8);
        for (i, (addr, len, flags, next, inside)) in (0..).zip(&parts) {
            let addr = if *inside { addr % 0x10_0000 } else { *addr };
            let raw = RawDescriptor::from(Descriptor::new(addr, *len, *flags, *next));
            ram.write_obj(raw, GuestAddress(driver.desc() + 16 * i)).unwrap();
        }
        driver.offer(0);
        let mut queue = Virtqueue::new(driver.active(0), Arc::new(Told::default()));
        let mut buffers = GuestBuffers::new(Arc::clone(&ram));
        if request::transmit(queue.pop(&ram).unwrap().unwrap(), &mut buffers).is_ok() {
            prop_assert!((HEADER + 14..=MAX_PACKET).contains(&buffers.len()));
        }
        buffers.clear();
        driver.offer(0);
        if let Ok((len, segments)) = request::receive(queue.pop(&ram).unwrap().unwrap(), &mut buffers) {
            prop_assert_eq!((len, segments), (buffers.len(), buffers.segments()));
        }
    }
}

/// A real tap in a network namespace of its own; needs root.
pub(super) mod real {
    use super::*;
    use std::os::fd::{AsRawFd, FromRawFd};

    use nix::sched::{CloneFlags, unshare};

    use crate::tap::open_tap;

    /// ETH_P_ALL, in network order.
    const ALL: u16 = 3_u16.to_be();

    fn short(flags: libc::c_int) -> libc::c_short {
        libc::c_short::try_from(flags).unwrap()
    }

    fn request() -> libc::ifreq {
        // SAFETY: all zeros is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(b"vireo0") {
            *to = from.cast_signed();
        }
        request
    }

    fn ioctl(fd: &impl AsRawFd, number: libc::Ioctl, request: &mut libc::ifreq) {
        // SAFETY: the kernel reads and writes one ifreq.
        let done = unsafe { libc::ioctl(fd.as_raw_fd(), number, std::ptr::from_mut(request)) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }

    /// A tap that is up, and a packet socket on the host's side of it.
    pub fn tap(queues: usize) -> (Vec<File>, File) {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let taps = open_tap("vireo0", queues).unwrap();
        let mut request = request();
        // SAFETY: plain numbers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, ALL.into()) };
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: just made, owned by nobody else.
        let socket = unsafe { File::from_raw_fd(fd) };
        request.ifr_ifru.ifru_flags = short(libc::IFF_UP);
        ioctl(&socket, libc::SIOCSIFFLAGS, &mut request);
        ioctl(&socket, libc::SIOCGIFINDEX, &mut request);
        // SAFETY: SIOCGIFINDEX has set the index; all zeros is a valid address otherwise.
        let address = unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = short(libc::AF_PACKET).cast_unsigned();
            address.sll_protocol = ALL;
            address.sll_ifindex = request.ifr_ifru.ifru_ifindex;
            address
        };
        let size = libc::socklen_t::try_from(size_of_val(&address)).unwrap();
        // SAFETY: the address is as long as said.
        let done = unsafe { libc::bind(fd, std::ptr::from_ref(&address).cast(), size) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        (taps, socket)
    }

    #[test]
    fn packets_cross_a_real_tap() {
        assert!(nix::unistd::geteuid().is_root(), "making a tap needs root");
        let (taps, wire) = tap(1);
        let events = EventThread::start();
        let (ram, told) = (ram(), Arc::new(Told::default()));
        let mut net = Net::new("test".into(), taps, MAC, None, Link::new(true)).unwrap();
        let (mut receive, mut transmit) = (DriverQueue::new(&ram, 0x1000, 64), DriverQueue::new(&ram, 0x5000, 64));
        let features = net.features();
        // All offloads are on, so a packet waits for 64 KiB of room.
        for i in 0..40 {
            receive.add(&[Part::In(DATA + i * 0x800, 0x800)]);
        }
        net.activate(activation(&[&receive, &transmit], features, &told, &events.handle)).unwrap();
        // Experimental EtherType, so that no protocol answers.
        let frame = [&[0xFF; 6][..], &MAC, &[0x88, 0xB5], &[0x5A; 50]].concat();
        transmit.write(0x8_0000, &[vec![0; HEADER], frame.clone()].concat());
        transmit.add(&[Part::Out(0x8_0000, u32::try_from(HEADER + frame.len()).unwrap())]);
        transmit.kick();
        transmit.wait_used();
        let mut got = [0; 2048];
        loop {
            // The host may have its own to say on a new interface.
            let len = std::io::Read::read(&mut &wire, &mut got).unwrap();
            if got[..len] == frame {
                break;
            }
        }
        std::io::Write::write_all(&mut &wire, &frame).unwrap();
        loop {
            let (head, len) = receive.wait_used();
            let at = DATA + u64::from(head) * 0x800;
            if receive.read(at + HEADER as u64, frame.len()) == frame {
                assert_eq!(len as usize, HEADER + frame.len());
                assert_eq!(receive.read(at + 10, 2), [1, 0]);
                break;
            }
        }
        net.reset();
    }

    /// One command by the control queue; its answer.
    fn ask(control: &mut DriverQueue, command: &[u8]) -> u8 {
        control.write(0x9_0000, command);
        control.write(0x9_0100, &[0xEE]);
        control.add(&[Part::Out(0x9_0000, u32::try_from(command.len()).unwrap()), Part::In(0x9_0100, 1)]);
        control.kick();
        control.wait_used();
        control.read(0x9_0100, 1)[0]
    }

    #[test]
    fn the_driver_chooses_how_many_queues_it_uses() {
        assert!(nix::unistd::geteuid().is_root(), "making a tap needs root");
        let (taps, wire) = tap(2);
        let events = EventThread::start();
        let (ram, told) = (ram(), Arc::new(Told::default()));
        let mut net = Net::new("test".into(), taps, MAC, None, Link::new(true)).unwrap();
        let mut pairs = [0, 1, 2, 3].map(|i| DriverQueue::new(&ram, 0x1000 + i * 0x2000, 64));
        let mut control = DriverQueue::new(&ram, 0xA000, 16);
        let features = net.features();
        assert_ne!(features & 1 << 22, 0, "VIRTIO_NET_F_MQ");
        let [rx0, tx0, rx1, tx1] = &pairs;
        net.activate(activation(&[rx0, tx0, rx1, tx1, &control], features, &told, &events.handle)).unwrap();
        for (command, answer) in [
            (&[4, 0, 0, 0][..], 1),
            (&[4, 0, 3, 0], 1),
            (&[4, 0, 2, 0], 0),
            (&[4, 0, 1, 0], 0),
            (&[4, 0, 2, 0], 0),
            (&[5, 0, 2, 0, 0, 0, 0, 0, 0, 0], 0),
            (&[5, 0, 0, 0, 0x40, 0, 0, 0, 0, 0], 1),
            (&[0, 0, 1], 1),
        ] {
            assert_eq!(ask(&mut control, command), answer, "{command:?}");
        }
        net.pause();
        net.resume();
        // What the second pair sends goes out, and with both a packet finds one of the receive queues.
        let frame = [&[0xFF; 6][..], &MAC, &[0x88, 0xB5], &[0x5A; 50]].concat();
        pairs[3].write(0x8_0000, &[vec![0; HEADER], frame.clone()].concat());
        pairs[3].add(&[Part::Out(0x8_0000, u32::try_from(HEADER + frame.len()).unwrap())]);
        pairs[3].kick();
        pairs[3].wait_used();
        let mut got = [0; 2048];
        while std::io::Read::read(&mut &wire, &mut got).unwrap() != frame.len() || got[..frame.len()] != frame {}
        for (queue, at) in [(0, 0x4_0000), (2, 0x6_0000)] {
            for i in 0..34 {
                pairs[queue].add(&[Part::In(at + i * 0x800, 0x800)]);
            }
            pairs[queue].kick();
        }
        std::io::Write::write_all(&mut &wire, &frame).unwrap();
        let mut came = false;
        wait(|| {
            for queue in [0, 2] {
                while let Some((_, len)) = pairs[queue].take_used() {
                    came |= len as usize == HEADER + frame.len();
                }
            }
            came
        });
        net.reset();
    }
}
