use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::packet::{HEADER, Header, STREAM, op, side};
use super::{Ask, Vsock, VsockControl};
use crate::memory::GuestRam;
use crate::virtio::device::{ActivateError, VirtioDevice};
use crate::virtio::testing::{DATA, DriverQueue, EventThread, Part, Told, activation, ram, wait};

const CID: u64 = 3;
const LIMIT: Duration = Duration::from_secs(10);
/// Receive buffers: as many as fit, each with a header and this much data.
const BUFFERS: u64 = DATA + 0x2_0000;
const BUFFER: u32 = 4096;
const QUEUE: u16 = 32;

struct Rig {
    vsock: Vsock,
    control: VsockControl,
    receive: DriverQueue,
    transmit: DriverQueue,
    asks: Receiver<Ask>,
    told: Arc<Told>,
    _ram: GuestRam,
    _events: EventThread,
}

impl Rig {
    fn start() -> Self {
        let mut rig = Self::without_buffers();
        for index in 0..QUEUE / 2 {
            rig.offer(index);
        }
        rig.receive.kick();
        rig
    }

    fn without_buffers() -> Self {
        let (ram, told, events) = (ram(), Arc::new(Told::default()), EventThread::start());
        let (mut vsock, control) = Vsock::new(CID);
        let queue = |base| DriverQueue::new(&ram, base, QUEUE);
        let (receive, transmit, event) = (queue(0x1000), queue(0x5000), queue(0x9000));
        let (tx, asks) = channel();
        control.watch(move |ask| drop(tx.send(ask)));
        vsock.activate(activation(&[&receive, &transmit, &event], 0, &told, &events.handle)).unwrap();
        Self { vsock, control, receive, transmit, asks, told, _ram: ram, _events: events }
    }

    fn offer(&mut self, index: u16) {
        let at = BUFFERS + u64::from(index) * 0x2000;
        self.receive.add(&[Part::In(at, 44), Part::In(at + 0x1000, BUFFER)]);
    }

    /// Sends a packet with data, cut in the middle of the header and of the data.
    fn send(&mut self, header: Header, data: &[u8]) {
        let bytes = [header.bytes().as_slice(), data].concat();
        let (first, rest) = (20, u32::try_from(bytes.len()).unwrap() - 20);
        self.transmit.write(DATA, &bytes);
        self.transmit.add(&[Part::Out(DATA, first), Part::Out(DATA + u64::from(first), rest)]);
        self.transmit.kick();
        self.transmit.wait_used();
    }

    fn say(&mut self, ports: (u32, u32), op: u16) {
        self.send(packet(ports, op), &[]);
    }

    fn data(&mut self, ports: (u32, u32), data: &[u8]) {
        let header = Header { len: u32::try_from(data.len()).unwrap(), ..packet(ports, op::RW) };
        self.send(header, data);
    }

    /// The device's next packet; its buffer is offered again.
    fn hear(&mut self) -> (Header, Vec<u8>) {
        let (head, len) = self.receive.wait_used();
        let at = BUFFERS + u64::from(head) / 2 * 0x2000;
        let header = Header::parse(self.receive.read(at, HEADER).as_slice().try_into().unwrap());
        assert_eq!((header.src_cid, header.dst_cid, header.kind), (2, CID, STREAM));
        assert_eq!(len, 44 + header.len);
        let data = self.receive.read(at + 0x1000, header.len as usize);
        // The ring's descriptors go round, two for each buffer.
        self.offer(u16::try_from(head / 2).unwrap());
        self.receive.kick();
        (header, data)
    }

    fn expect(&mut self, op: u16) -> Header {
        let (header, _) = self.hear();
        assert_eq!(header.op, op, "{header:?}");
        header
    }

    /// A connection that the guest has opened, and the host's end.
    fn opened(&mut self, ports: (u32, u32)) -> UnixStream {
        self.say(ports, op::REQUEST);
        let ask = self.asks.recv_timeout(LIMIT).unwrap();
        assert_eq!(ask.port(), ports.1);
        let (ours, theirs) = pair();
        ask.accept(theirs);
        let response = self.expect(op::RESPONSE);
        assert_eq!((response.src_port, response.dst_port), (ports.1, ports.0));
        ours
    }
}

fn packet((guest, host): (u32, u32), op: u16) -> Header {
    Header {
        src_cid: CID,
        dst_cid: 2,
        src_port: guest,
        dst_port: host,
        kind: STREAM,
        op,
        buf_alloc: 1 << 20,
        ..Header::default()
    }
}

fn pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(LIMIT)).unwrap();
    (ours, theirs)
}

fn read(stream: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// The guest begins with the first packet of a burst while others are read, is told now and then, and of the last.
#[test]
fn a_burst_s_first_packet_is_told_of_at_once() {
    let mut rig = Rig::without_buffers();
    rig.offer(0);
    rig.say((1, 9), op::REQUEST);
    let (mut ours, theirs) = pair();
    rig.asks.recv_timeout(LIMIT).unwrap().accept(theirs);
    rig.receive.wait_used();
    let burst = QUEUE / 2;
    ours.write_all(&vec![7; usize::from(burst) * BUFFER as usize]).unwrap();
    // Nothing is sent without buffers, and a pause waits for what is being done.
    rig.vsock.pause();
    let before = rig.told.interrupts();
    (0..burst).for_each(|index| rig.offer(index));
    rig.receive.kick();
    rig.vsock.resume();
    (0..burst).for_each(|_| assert_eq!(rig.receive.wait_used().1, 44 + BUFFER));
    rig.vsock.pause();
    assert_eq!(rig.told.interrupts() - before, 3, "after 1, 9 and 16 packets");
}

#[test]
fn the_host_reaches_a_port_of_the_guests() {
    let mut rig = Rig::start();
    let (mut client, theirs) = pair();
    rig.control.connect(1024, theirs);
    let request = rig.expect(op::REQUEST);
    assert_eq!(request.dst_port, 1024);
    let ports = (1024, request.src_port);
    rig.say(ports, op::RESPONSE);
    let ok = format!("OK {}\n", request.src_port);
    assert_eq!(read(&mut client, ok.len()), ok.as_bytes());
    client.write_all(b"ping").unwrap();
    let (header, data) = rig.hear();
    assert_eq!((header.op, data.as_slice()), (op::RW, b"ping".as_slice()));
    rig.data(ports, b"pong");
    assert_eq!(read(&mut client, 4), b"pong");
    rig.send(Header { flags: side::BOTH, ..packet(ports, op::SHUTDOWN) }, &[]);
    rig.expect(op::RST);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_port_that_nobody_listens_on_closes_the_socket() {
    let mut rig = Rig::start();
    let (mut client, theirs) = pair();
    rig.control.connect(1024, theirs);
    let request = rig.expect(op::REQUEST);
    rig.say((1024, request.src_port), op::RST);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    // And one without a driver at once.
    rig.vsock.reset();
    let (mut client, theirs) = pair();
    rig.control.connect(1024, theirs);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn the_guest_reaches_a_port_of_the_hosts_that_is_answered_for() {
    let mut rig = Rig::start();
    let mut server = rig.opened((5000, 22));
    rig.data((5000, 22), &[b'x'; 3000]);
    assert_eq!(read(&mut server, 3000), [b'x'; 3000]);
    rig.say((5001, 23), op::REQUEST);
    drop(rig.asks.recv_timeout(LIMIT).unwrap());
    let reset = rig.expect(op::RST);
    assert_eq!((reset.src_port, reset.dst_port), (23, 5001));
    // The other connection lives on.
    server.write_all(b"y").unwrap();
    assert_eq!(rig.hear().1, b"y");
}

#[test]
fn a_host_that_does_not_read_is_waited_for_within_the_credit() {
    let mut rig = Rig::start();
    let mut server = rig.opened((5000, 22));
    let alloc = 256 << 10;
    // The socket takes some, the backlog the rest; every byte that the host hasn't taken counts.
    let piece = [b'z'; 8192];
    let mut sent = 0;
    while sent < alloc {
        rig.data((5000, 22), &piece);
        sent += piece.len();
    }
    assert_eq!(read(&mut server, sent), vec![b'z'; sent]);
    // Half of the room is free again, which the guest is told.
    wait(|| rig.receive.take_used().is_some());
    rig.data((5000, 22), b"more");
    assert_eq!(read(&mut server, 4), b"more");
}

#[test]
fn more_than_the_credit_is_a_reset() {
    let mut rig = Rig::start();
    let _server = rig.opened((5000, 22));
    let piece = [b'z'; 8192];
    let overdone = (0..200).any(|_| {
        rig.data((5000, 22), &piece);
        // Without looking at what the host has taken.
        rig.receive.take_used().is_some()
    });
    assert!(overdone, "1.6 MiB don't fit");
}

#[test]
fn a_guest_without_room_is_sent_nothing() {
    let mut rig = Rig::start();
    let mut server = rig.opened((5000, 22));
    let credit = |alloc, taken| Header { buf_alloc: alloc, fwd_cnt: taken, ..packet((5000, 22), op::CREDIT_UPDATE) };
    rig.send(credit(10, 0), &[]);
    server.write_all(&[b'a'; 25]).unwrap();
    assert_eq!(rig.hear().1.len(), 10);
    rig.send(Header { op: op::CREDIT_REQUEST, ..credit(10, 0) }, &[]);
    rig.expect(op::CREDIT_UPDATE);
    rig.send(credit(10, 4), &[]);
    assert_eq!(rig.hear().1.len(), 4);
}

#[test]
fn each_side_can_be_done_on_its_own() {
    let mut rig = Rig::start();
    let mut server = rig.opened((5000, 22));
    rig.data((5000, 22), b"last");
    rig.send(Header { flags: side::SEND, ..packet((5000, 22), op::SHUTDOWN) }, &[]);
    let mut all = Vec::new();
    server.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"last");
    server.write_all(b"answer").unwrap();
    assert_eq!(rig.hear().1, b"answer");
    server.shutdown(std::net::Shutdown::Write).unwrap();
    let shutdown = rig.expect(op::SHUTDOWN);
    assert!(shutdown.flags & side::SEND != 0);
    drop(server);
    rig.send(Header { flags: side::BOTH, ..packet((5000, 22), op::SHUTDOWN) }, &[]);
    // Shut from here too, or over.
    while rig.hear().0.op != op::RST {}
}

#[test]
fn a_host_that_goes_shuts_both_sides() {
    let mut rig = Rig::start();
    let mut server = rig.opened((5000, 22));
    server.write_all(b"bye").unwrap();
    drop(server);
    assert_eq!(rig.hear().1, b"bye");
    // The end of its data may be read before the hang-up is noticed.
    let mut shut = rig.expect(op::SHUTDOWN).flags;
    if shut == side::SEND {
        shut = rig.expect(op::SHUTDOWN).flags;
    }
    assert_eq!(shut, side::BOTH);
    rig.say((5000, 22), op::RST);
    rig.say((5000, 22), op::CREDIT_UPDATE);
    rig.expect(op::RST);
}

#[test]
fn many_connections_take_turns_and_are_bounded() {
    let mut rig = Rig::start();
    let mut servers: Vec<_> = (0..20).map(|n| rig.opened((5000 + n, 22))).collect();
    for (n, server) in (0..).zip(&mut servers) {
        server.write_all(&[n]).unwrap();
    }
    let mut seen: Vec<_> = (0..20).map(|_| rig.hear()).map(|(header, data)| (header.dst_port, data)).collect();
    seen.sort();
    let expected: Vec<_> = (0..20).map(|n: u8| (5000 + u32::from(n), vec![n])).collect();
    assert_eq!(seen, expected);
    // In the end there is nothing left to promise.
    let refused = (5020..6000).find(|port| {
        rig.say((*port, 22), op::REQUEST);
        match rig.asks.recv_timeout(Duration::from_millis(200)) {
            Ok(ask) => {
                let (ours, theirs) = pair();
                ask.accept(theirs);
                rig.expect(op::RESPONSE);
                servers.push(ours);
                false
            }
            Err(_) => true,
        }
    });
    assert!(refused.is_some() && servers.len() > 200, "{}", servers.len());
    rig.expect(op::RST);
}

#[test]
fn questions_without_answers_are_bounded() {
    let mut rig = Rig::start();
    for port in 0..40 {
        rig.say((port, 22), op::REQUEST);
    }
    let asks: Vec<_> = (0..32).map(|_| rig.asks.recv_timeout(LIMIT).unwrap()).collect();
    for _ in 32..40 {
        rig.expect(op::RST);
    }
    // The guest gives one up; its late answer does no harm, and makes room.
    rig.say((0, 22), op::RST);
    rig.say((100, 22), op::REQUEST);
    assert_eq!(rig.asks.recv_timeout(LIMIT).unwrap().port(), 22);
    drop(asks);
}

#[test]
fn strange_packets_are_reset_or_ignored() {
    let mut rig = Rig::start();
    for op in [op::RW, op::SHUTDOWN, op::RESPONSE, 99] {
        rig.say((1, 2), op);
        rig.expect(op::RST);
    }
    rig.send(Header { kind: 2, ..packet((1, 2), op::REQUEST) }, &[]);
    rig.expect(op::RST);
    rig.say((1, 2), op::RST);
    rig.send(Header { dst_cid: 9, ..packet((1, 2), op::REQUEST) }, &[]);
    rig.send(Header { src_cid: 9, ..packet((1, 2), op::REQUEST) }, &[]);
    // Less data than the header says.
    let mut server = rig.opened((5000, 22));
    rig.send(Header { len: 100, ..packet((5000, 22), op::RW) }, b"short");
    rig.expect(op::RST);
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    // Not even a header.
    rig.transmit.add(&[Part::Out(DATA, 10)]);
    rig.transmit.kick();
    rig.transmit.wait_used();
    assert!(!rig.told.is_failed() && rig.receive.take_used().is_none());
}

#[test]
fn bad_buffers_break_the_device() {
    let mut rig = Rig::start();
    rig.transmit.add(&[Part::Out(1 << 40, 44)]);
    rig.transmit.kick();
    wait(|| rig.told.is_failed());
    let mut rig = Rig::without_buffers();
    rig.receive.add(&[Part::In(BUFFERS, 43)]);
    rig.receive.kick();
    rig.say((1, 2), op::RW);
    wait(|| rig.told.is_failed());
}

#[test]
fn a_driver_that_takes_no_answers_is_not_heard() {
    let mut rig = Rig::without_buffers();
    let packet = packet((1, 2), op::RW).bytes();
    rig.transmit.write(DATA, &packet);
    let mut heard = 0;
    while heard < 1000 {
        rig.transmit.add(&[Part::Out(DATA, 44)]);
        rig.transmit.kick();
        let deadline = std::time::Instant::now() + Duration::from_millis(200);
        let mut used = None;
        while used.is_none() && std::time::Instant::now() < deadline {
            used = rig.transmit.take_used();
        }
        if used.is_none() {
            break;
        }
        heard += 1;
    }
    assert_eq!(heard, 64);
    rig.offer(0);
    rig.receive.kick();
    rig.receive.wait_used();
    rig.transmit.wait_used();
}

#[test]
fn a_reset_closes_every_connection() {
    let mut rig = Rig::start();
    let mut server = rig.opened((5000, 22));
    rig.vsock.reset();
    match server.read(&mut [0]) {
        Ok(count) => assert_eq!(count, 0),
        Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset),
    }
    let mut config = [0; 8];
    rig.vsock.read_config(0, &mut config);
    assert_eq!(config, CID.to_le_bytes());
}

#[test]
fn needs_both_queues() {
    let mut rig = Rig::start();
    rig.vsock.reset();
    let events = EventThread::start();
    let activation = activation(&[&rig.receive], 0, &rig.told, &events.handle);
    assert!(matches!(rig.vsock.activate(activation), Err(ActivateError::MissingQueue(1))));
}
