use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use super::frame::{checksum, u16_at};
use super::*;
use crate::config::{AutoconfPlan, Ipv4Answers, Ipv6Answers};
use crate::event_loop::EventLoop;

const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 9];
const SERVER: [u8; 6] = [2, 0, 0, 0, 0, 0];
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 2, 0, 0, 0, 0, 2);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const OWN: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);

fn answers() -> AutoconfAnswers {
    let options =
        vec![(1, vec![255, 255, 255, 0]), (3, vec![10, 0, 2, 1]), (6, vec![10, 96, 0, 10]), (12, b"vm".to_vec())];
    let ipv4 = Ipv4Answers { address: ADDRESS, server: GATEWAY, options };
    let options = vec![(23, vec![0xfd; 16])];
    let ipv6 = Ipv6Answers { address: ADDRESS6, prefix_len: 120, router: ROUTER, mtu: 1400, options };
    AutoconfAnswers { server_mac: SERVER, ipv4: Some(ipv4), ipv6: Some(ipv6) }
}

/// A client's frame; `options` come after the message type.
fn dhcp(kind: u8, current: Ipv4Addr, broadcast: bool, options: &[u8]) -> Vec<u8> {
    let mut body = vec![0; 236];
    body[..4].copy_from_slice(&[1, 1, 6, 0]);
    body[4..8].copy_from_slice(&[0xde, 0xad, 0xbe, 0xef]);
    body[10] = u8::from(broadcast) << 7;
    body[12..16].copy_from_slice(&current.octets());
    body[28..34].copy_from_slice(&GUEST);
    body.extend([99, 130, 83, 99, 53, 1, kind]);
    body.extend(options);
    body.push(255);
    let to = (Ipv4Addr::BROADCAST, 67);
    frame::Reply::udp_over_ipv4([0xff; 6], ((current, 68), to), &body).unwrap().ethernet(GUEST)
}

/// An answer's parts: whom to, the message, its options in order.
struct Lease {
    hardware: [u8; 6],
    to: Ipv4Addr,
    message: Vec<u8>,
    options: Vec<(u8, Vec<u8>)>,
}

impl Lease {
    fn read(frame: &[u8]) -> Self {
        assert_eq!(frame[6..14], [2, 0, 0, 0, 0, 0, 8, 0]);
        let ip = &frame[14..];
        // A header with its checksum adds up to nothing.
        assert_eq!((checksum(0, &ip[..20]), usize::from(u16_at(ip, 2).unwrap())), (0, ip.len()));
        assert_eq!(ip[12..16], GATEWAY.octets());
        let pseudo = [&ip[12..20], &[0, 17], &ip[24..26]].concat();
        assert_eq!(checksum(0, &[&pseudo, &ip[20..]].concat()), 0);
        let message = frame::udp_over_ipv4(ip, 68).unwrap();
        assert_eq!(message[..8], [2, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
        let (mut options, mut rest) = (Vec::new(), &message[240..]);
        while rest[0] != 255 {
            let len = usize::from(rest[1]);
            options.push((rest[0], rest[2..2 + len].to_vec()));
            rest = &rest[2 + len..];
        }
        let to: [u8; 4] = ip[16..20].try_into().unwrap();
        Self { hardware: frame[..6].try_into().unwrap(), to: to.into(), message: message.to_vec(), options }
    }

    fn codes(&self) -> Vec<u8> {
        self.options.iter().map(|option| option.0).collect()
    }
}

fn leased(frame: &[u8]) -> Lease {
    Lease::read(&answer(&answers(), GUEST, frame).unwrap())
}

#[test]
fn a_client_gets_its_address_for_ever() {
    let offer = leased(&dhcp(1, Ipv4Addr::UNSPECIFIED, false, &[55, 3, 12, 1, 99]));
    assert_eq!((offer.hardware, offer.to), (GUEST, ADDRESS));
    assert_eq!(offer.message[16..20], ADDRESS.octets());
    // What it asks for first, in its order.
    assert_eq!(offer.codes(), [53, 54, 51, 12, 1, 3, 6]);
    assert_eq!((&offer.options[0].1[..], &offer.options[2].1[..]), (&[2][..], &[0xff; 4][..]));

    let request = [&[50, 4][..], &ADDRESS.octets(), &[54, 4], &GATEWAY.octets()].concat();
    let ack = leased(&dhcp(3, Ipv4Addr::UNSPECIFIED, true, &request));
    assert_eq!((ack.hardware, ack.to, ack.options[0].1[0]), ([0xff; 6], Ipv4Addr::BROADCAST, 5));
    // As it renews what it has.
    let ack = leased(&dhcp(3, ADDRESS, false, &[]));
    assert_eq!((ack.hardware, ack.to, ack.options[0].1[0]), (GUEST, ADDRESS, 5));
    // Another address, from another network: not here.
    let nak = leased(&dhcp(3, Ipv4Addr::UNSPECIFIED, false, &[50, 4, 192, 168, 1, 7]));
    assert_eq!((nak.to, nak.options[0].1[0], nak.codes()), (Ipv4Addr::BROADCAST, 6, vec![53, 54]));
    // It has an address, and wants to know the rest.
    let inform = leased(&dhcp(8, ADDRESS, false, &[]));
    assert_eq!((inform.message[16..20].to_vec(), inform.codes()), (vec![0; 4], vec![53, 54, 1, 3, 6, 12]));
}

#[test]
fn what_is_not_meant_for_us_is_not_answered() {
    let discover = dhcp(1, Ipv4Addr::UNSPECIFIED, false, &[]);
    let silent = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = discover.clone();
        change(&mut frame);
        assert_eq!(answer(&answers(), GUEST, &frame), None);
    };
    assert!(answer(&answers(), GUEST, &discover).is_some());
    silent(&|frame| frame[11] = 8);
    silent(&|frame| frame[42 + 33] = 8);
    silent(&|frame| frame[42] = 2);
    silent(&|frame| frame[14 + 6] = 0x20);
    silent(&|frame| frame[37] = 68);
    silent(&|frame| frame[42 + 236] = 0);
    silent(&|frame| frame[42 + 242] = 4);
    for other in [vec![54, 4, 192, 168, 1, 1], vec![54, 2, 1, 1], vec![12, 200, 1]] {
        assert_eq!(answer(&answers(), GUEST, &dhcp(1, Ipv4Addr::UNSPECIFIED, false, &other)), None);
    }
    let mut none = answers();
    (none.ipv4, none.ipv6) = (None, None);
    assert_eq!(answer(&none, GUEST, &discover), None);
    assert_eq!(advertisement(&none), None);
    // Cut off anywhere.
    for len in 0..discover.len() - 1 {
        let _ = answer(&answers(), GUEST, &discover[..len]);
    }
}

#[test]
fn options_without_room_are_left_out_and_long_ones_continued() {
    let mut many = answers();
    let ipv4 = many.ipv4.as_mut().unwrap();
    ipv4.options = vec![(119, vec![7; 300]), (224, vec![8; 250]), (26, vec![5, 120])];
    let plain = Lease::read(&answer(&many, GUEST, &dhcp(1, Ipv4Addr::UNSPECIFIED, false, &[])).unwrap());
    assert_eq!(plain.codes(), [53, 54, 51, 224, 26]);
    let roomy = dhcp(1, Ipv4Addr::UNSPECIFIED, false, &[57, 2, 0xff, 0xff]);
    let all = Lease::read(&answer(&many, GUEST, &roomy).unwrap());
    assert_eq!(all.codes(), [53, 54, 51, 119, 119, 224, 26]);
    assert_eq!((all.options[3].1.len(), all.options[4].1.len()), (255, 45));
    let asks = dhcp(1, Ipv4Addr::UNSPECIFIED, false, &[55, 1, 224]);
    let asked = Lease::read(&answer(&many, GUEST, &asks).unwrap());
    assert_eq!(asked.codes(), [53, 54, 51, 224, 26]);
}

/// A frame over IPv6, from the guest.
fn over_ipv6(protocol: u8, payload: Vec<u8>) -> Vec<u8> {
    let sum = if protocol == 17 { 6 } else { 2 };
    frame::Reply::ipv6([0x33, 0x33, 0, 1, 0, 2], (OWN, ROUTER), (protocol, sum), payload).ethernet(GUEST)
}

fn dhcpv6(kind: u8, options: &[u8]) -> Vec<u8> {
    let message = [&[kind, 1, 2, 3], options].concat();
    let len = u16::try_from(8 + message.len()).unwrap().to_be_bytes();
    over_ipv6(17, [&[2, 34, 2, 35], &len[..], &[0, 0], &message].concat())
}

const CLIENT_ID: [u8; 8] = [0, 1, 0, 4, 1, 2, 3, 4];
const SERVER_ID: [u8; 14] = [0, 2, 0, 10, 0, 3, 0, 1, 2, 0, 0, 0, 0, 0];
const IA: [u8; 16] = [0, 3, 0, 12, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0];

/// The message of an answer, whose checksum is right.
fn message6(frame: &[u8], protocol: u8) -> Vec<u8> {
    let packet = &frame[14..];
    let len = u16_at(packet, 4).unwrap();
    assert_eq!((&frame[..6], packet[6], usize::from(len) + 40), (&GUEST[..], protocol, packet.len()));
    let pseudo = [&packet[8..40], &[0, 0], &len.to_be_bytes(), &[0, 0, 0, protocol]].concat();
    assert_eq!(checksum(0, &[&pseudo, &packet[40..]].concat()), 0);
    packet[40..].to_vec()
}

#[test]
fn dhcpv6_gives_one_address_for_ever() {
    let exchange = |kind, options: &[&[u8]]| {
        let frame = answer(&answers(), GUEST, &dhcpv6(kind, &options.concat()))?;
        Some(message6(&frame, 17)[8..].to_vec())
    };
    let mut granted = vec![0, 3, 0, 40, 7, 7, 7, 7];
    granted.extend([0xff; 8]);
    granted.extend([0, 5, 0, 24]);
    granted.extend(ADDRESS6.octets());
    granted.extend([0xff; 8]);
    let tail = [&SERVER_ID[..], &CLIENT_ID, &granted, &[0, 23, 0, 16], &[0xfd; 16]].concat();
    let advertised = [&[2, 1, 2, 3], &tail[..]].concat();
    assert_eq!(exchange(1, &[&CLIENT_ID, &IA]).unwrap(), advertised);
    assert_eq!(exchange(3, &[&CLIENT_ID, &SERVER_ID, &IA]).unwrap(), [&[7, 1, 2, 3], &tail[..]].concat());
    // At once, and no second address.
    let rapid = exchange(1, &[&CLIENT_ID, &IA, &IA, &[0, 14, 0, 0]]).unwrap();
    assert_eq!(rapid[0], 7);
    assert!(rapid.windows(6).any(|bytes| bytes == [0, 13, 0, 2, 0, 2]));
    // Who asks for no address gets the rest.
    assert_eq!(exchange(11, &[]).unwrap(), [&[7, 1, 2, 3], &SERVER_ID[..], &[0, 23, 0, 16], &[0xfd; 16]].concat());
    // An address from elsewhere isn't on this link.
    let elsewhere = [&[0, 3, 0, 40, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 24], &[9; 24][..]].concat();
    assert!(exchange(4, &[&CLIENT_ID, &elsewhere]).unwrap().ends_with(&[0, 13, 0, 2, 0, 4]));
    for wrong in [
        exchange(1, &[&IA]),
        exchange(1, &[&CLIENT_ID, &SERVER_ID, &IA]),
        exchange(3, &[&CLIENT_ID, &IA]),
        exchange(3, &[&CLIENT_ID, &[0, 2, 0, 2, 1, 1], &IA]),
        exchange(1, &[&CLIENT_ID, &[0, 3, 0, 2, 1, 1]]),
        exchange(1, &[&CLIENT_ID, &[0, 3, 0, 99]]),
        exchange(1, &[&[0, 1, 0, 131], &[0; 131]]),
        exchange(2, &[&CLIENT_ID]),
    ] {
        assert_eq!(wrong, None);
    }
}

#[test]
fn a_router_says_who_it_is() {
    let solicitation = over_ipv6(58, vec![133, 0, 0, 0, 0, 0, 0, 0]);
    let frame = answer(&answers(), GUEST, &solicitation).unwrap();
    assert_eq!(frame[22..38], ROUTER.octets());
    let message = message6(&frame, 58);
    // Managed, for as long as can be; MTU; the prefix on the link, of which no address is made.
    assert_eq!((message[0], message[5], &message[6..8]), (134, 0xc0, &[0xff, 0xff][..]));
    assert_eq!(message[24..36], [5, 1, 0, 0, 0, 0, 5, 120, 3, 4, 120, 0x80]);
    assert_eq!(message[48..], Ipv6Addr::new(0xfd10, 0, 2, 0, 0, 0, 0, 0).octets());
    // Not to whom it could only have come through a router.
    let mut far = solicitation.clone();
    far[21] = 64;
    assert_eq!(answer(&answers(), GUEST, &far), None);
    let unasked = advertisement(&answers()).unwrap();
    assert_eq!(unasked[..6], [0x33, 0x33, 0, 0, 0, 1]);
}

#[test]
fn it_serves_until_dropped_or_left_alone() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let plan = AutoconfPlan { socket: OwnedFd::from(theirs).into(), answers: answers() };
    let mut events = EventLoop::new().unwrap();
    let handle = events.handle();
    let thread = std::thread::spawn(move || events.run());
    let served = Autoconf::serve(&handle, &plan, GUEST).unwrap();
    let discover = dhcp(1, Ipv4Addr::UNSPECIFIED, false, &[]);
    let mut frame = [0; 2048];
    // Even long frames and floods are only answered or not.
    let _ = ours.send(&[0xff; 4000]);
    for _ in 0..3 {
        ours.send(&discover).unwrap();
        let len = ours.recv(&mut frame).unwrap();
        assert_eq!(Lease::read(&frame[..len]).to, ADDRESS);
    }
    drop(served);
    // In order: what comes now finds nobody.
    let (done, waits) = std::sync::mpsc::channel();
    handle.run(move |_| done.send(()).unwrap());
    waits.recv().unwrap();
    ours.send(&discover).unwrap();
    let again = Autoconf::serve(&handle, &plan, GUEST).unwrap();
    assert!(ours.recv(&mut frame).is_ok(), "another one takes over what waits");
    drop(plan);
    drop(again);
    handle.stop();
    thread.join().unwrap().unwrap();
}

proptest::proptest! {
    #[test]
    fn any_frame_has_an_answer_that_fits_or_none(
        kind in 0..4usize,
        changes in proptest::collection::vec((0..400usize, 0..=255u8), 0..12),
        more in proptest::collection::vec(0..=255u8, 0..200),
        len in 0..700usize,
    ) {
        let solicit = [&CLIENT_ID[..], &IA, &more].concat();
        let mut frame = match kind {
            0 => dhcp(1, Ipv4Addr::UNSPECIFIED, false, &more),
            1 => dhcpv6(1, &solicit),
            2 => over_ipv6(58, [&[133, 0, 0, 0, 0, 0, 0, 0], &more[..]].concat()),
            _ => more,
        };
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        frame.truncate(len);
        if let Some(answer) = answer(&answers(), GUEST, &frame) {
            assert!(answer.len() <= MAX_FRAME);
        }
    }
}
