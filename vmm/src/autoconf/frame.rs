//! Ethernet, IPv4, IPv6 and UDP, as far as answers need them. Parsers take any bytes; lengths come from the headers and never
//! reach beyond the frame.
//!
//! Checksums of what comes in are not looked at: a guest's card leaves them to be filled in later, which here never happens.

use std::net::{Ipv4Addr, Ipv6Addr};

/// EtherTypes.
pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
/// Protocols above IP.
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
/// Neighbour discovery is not answered if it came through a router (RFC 4861 §6.1).
pub const NEIGHBOUR_HOPS: u8 = 255;

/// Big-endian numbers at a place of a slice.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// As many bytes as an array has, at a place of a slice.
pub fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// An Ethernet II frame without tags.
#[derive(Debug)]
pub struct Ethernet<'a> {
    pub source: [u8; 6],
    pub kind: u16,
    pub payload: &'a [u8],
}

impl<'a> Ethernet<'a> {
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        Some(Self { source: array_at(frame, 6)?, kind: u16_at(frame, 12)?, payload: frame.get(14..)? })
    }
}

/// The payload of an unfragmented UDP packet to `port` over IPv4.
pub fn udp_over_ipv4(packet: &[u8], port: u16) -> Option<&[u8]> {
    let first = *packet.first()?;
    let header = usize::from(first & 15) * 4;
    let total = usize::from(u16_at(packet, 2)?);
    // Neither more fragments nor an offset (RFC 791 §3.1).
    let fragment = u16_at(packet, 6)? & 0x3fff;
    if first >> 4 != 4 || header < 20 || fragment != 0 || *packet.get(9)? != UDP {
        return None;
    }
    udp(packet.get(header..total)?, port)
}

/// An IPv6 packet without extension headers.
#[derive(Debug)]
pub struct Ipv6<'a> {
    pub source: Ipv6Addr,
    pub next_header: u8,
    pub hop_limit: u8,
    pub payload: &'a [u8],
}

impl<'a> Ipv6<'a> {
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let len = usize::from(u16_at(packet, 4)?);
        if packet.first()? >> 4 != 6 {
            return None;
        }
        let source: [u8; 16] = array_at(packet, 8)?;
        Some(Self {
            source: source.into(),
            next_header: *packet.get(6)?,
            hop_limit: *packet.get(7)?,
            payload: packet.get(40..40 + len)?,
        })
    }

    /// The payload of UDP to `port`.
    pub fn udp(&self, port: u16) -> Option<&'a [u8]> {
        udp(self.payload, port)
    }
}

fn udp(datagram: &[u8], port: u16) -> Option<&[u8]> {
    let len = usize::from(u16_at(datagram, 4)?);
    if u16_at(datagram, 2)? != port {
        return None;
    }
    datagram.get(8..len)
}

/// A packet on its way to the guest.
#[derive(Debug)]
pub struct Reply {
    destination: [u8; 6],
    kind: u16,
    packet: Vec<u8>,
}

impl Reply {
    /// UDP over IPv4.
    pub fn udp_over_ipv4(
        destination: [u8; 6],
        (from, to): ((Ipv4Addr, u16), (Ipv4Addr, u16)),
        payload: &[u8],
    ) -> Option<Self> {
        let udp = udp_datagram(from.1, to.1, payload)?;
        let total = u16::try_from(20 + udp.len()).ok()?;
        let mut header = [0; 20];
        header[0] = 0x45;
        header[2..4].copy_from_slice(&total.to_be_bytes());
        (header[8], header[9]) = (64, UDP);
        header[12..16].copy_from_slice(&from.0.octets());
        header[16..].copy_from_slice(&to.0.octets());
        let sum = checksum(0, &header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        let pseudo = [&header[12..], &[0, UDP], &udp[4..6]].concat();
        Some(Self { destination, kind: IPV4, packet: [&header[..], &sealed(udp, 6, &pseudo)].concat() })
    }

    /// UDP over IPv6.
    pub fn udp_over_ipv6(
        destination: [u8; 6],
        (from, to): ((Ipv6Addr, u16), (Ipv6Addr, u16)),
        payload: &[u8],
    ) -> Option<Self> {
        Some(Self::ipv6(destination, (from.0, to.0), (UDP, 6), udp_datagram(from.1, to.1, payload)?))
    }

    /// Anything over IPv6 whose checksum stands at `sum_at`.
    pub fn ipv6(
        destination: [u8; 6],
        (from, to): (Ipv6Addr, Ipv6Addr),
        (protocol, sum_at): (u8, usize),
        payload: Vec<u8>,
    ) -> Self {
        let len = u16::try_from(payload.len()).unwrap_or(u16::MAX);
        let mut header = [0; 40];
        header[0] = 0x60;
        header[4..6].copy_from_slice(&len.to_be_bytes());
        (header[6], header[7]) = (protocol, NEIGHBOUR_HOPS);
        header[8..24].copy_from_slice(&from.octets());
        header[24..].copy_from_slice(&to.octets());
        // RFC 8200 §8.1: the length has 32 bits here.
        let pseudo = [&header[8..], &[0, 0], &len.to_be_bytes(), &[0, 0, 0, protocol]].concat();
        Self { destination, kind: IPV6, packet: [&header[..], &sealed(payload, sum_at, &pseudo)].concat() }
    }

    /// The frame.
    pub fn ethernet(self, source: [u8; 6]) -> Vec<u8> {
        [&self.destination[..], &source, &self.kind.to_be_bytes(), &self.packet].concat()
    }
}

fn udp_datagram(from: u16, to: u16, payload: &[u8]) -> Option<Vec<u8>> {
    let len = u16::try_from(8 + payload.len()).ok()?;
    Some([&from.to_be_bytes()[..], &to.to_be_bytes(), &len.to_be_bytes(), &[0, 0], payload].concat())
}

/// `payload` with its checksum, over the pseudo header too, at `at`.
fn sealed(mut payload: Vec<u8>, at: usize, pseudo: &[u8]) -> Vec<u8> {
    let sum = match checksum(sum_of(0, pseudo), &payload) {
        // All zero would mean that there is none (RFC 768).
        0 => u16::MAX,
        sum => sum,
    };
    payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    payload
}

/// The Internet checksum (RFC 1071) of bytes, added to what came before.
pub fn checksum(before: u32, bytes: &[u8]) -> u16 {
    let mut sum = sum_of(before, bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

fn sum_of(before: u32, bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0)));
    before + words.sum::<u32>()
}
