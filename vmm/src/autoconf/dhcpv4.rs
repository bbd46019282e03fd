//! DHCPv4 (RFC 2131): one address, for ever, to one client.

use std::net::Ipv4Addr;

use super::frame::{Reply, array_at, u16_at, udp_over_ipv4};
use crate::config::Ipv4Answers;

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// Bytes of a message's fixed part, and the four that say that options follow (RFC 2131 §2 and §3).
const FIXED: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// The shortest message (BOOTP's, RFC 951), and the datagram that every client takes (RFC 2132 §9.10).
const SHORTEST: usize = 300;
const ANY_CLIENT: usize = 576;
/// The longest datagram: what an Ethernet frame carries.
const LONGEST: usize = 1500;
/// Headers of IPv4 and UDP.
const HEADERS: usize = 28;

/// Options (RFC 2132) that the server itself fills in.
mod option {
    pub const PAD: u8 = 0;
    pub const REQUESTED: u8 = 50;
    pub const LEASE: u8 = 51;
    pub const TYPE: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const PARAMETERS: u8 = 55;
    pub const LONGEST: u8 = 57;
    pub const END: u8 = 255;
}

/// Message types.
mod kind {
    pub const DISCOVER: u8 = 1;
    pub const OFFER: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const ACK: u8 = 5;
    pub const NAK: u8 = 6;
    pub const INFORM: u8 = 8;
}

/// A client's message.
struct Message<'a> {
    fixed: &'a [u8],
    kind: u8,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    parameters: &'a [u8],
    longest: usize,
}

impl<'a> Message<'a> {
    /// A request of the client with the hardware address `client`.
    fn parse(message: &'a [u8], client: [u8; 6]) -> Option<Self> {
        let fixed = message.get(..FIXED)?;
        // BOOTREQUEST, Ethernet, six bytes of address.
        if fixed[..3] != [1, 1, 6] || fixed[28..34] != client || message.get(FIXED..FIXED + 4)? != COOKIE {
            return None;
        }
        let mut parsed = Self { fixed, kind: 0, requested: None, server: None, parameters: &[], longest: ANY_CLIENT };
        let mut rest = &message[FIXED + 4..];
        while let Some((&code, after)) = rest.split_first() {
            match code {
                option::PAD => {
                    rest = after;
                    continue;
                }
                option::END => break,
                _ => {}
            }
            let (&len, after) = after.split_first()?;
            let (value, after) = after.split_at_checked(len.into())?;
            match code {
                option::TYPE => parsed.kind = *value.first()?,
                option::REQUESTED => parsed.requested = Some(array_at::<4>(value, 0)?.into()),
                option::SERVER => parsed.server = Some(array_at::<4>(value, 0)?.into()),
                option::PARAMETERS => parsed.parameters = value,
                option::LONGEST => parsed.longest = usize::from(u16_at(value, 0)?).clamp(ANY_CLIENT, LONGEST),
                _ => {}
            }
            rest = after;
        }
        Some(parsed)
    }

    /// The address that it has already.
    fn current(&self) -> Ipv4Addr {
        array_at::<4>(self.fixed, 12).unwrap_or_default().into()
    }

    fn wants_broadcast(&self) -> bool {
        self.fixed[10] & 0x80 != 0
    }
}

pub fn answer(answers: &Ipv4Answers, client: [u8; 6], packet: &[u8]) -> Option<Reply> {
    let message = Message::parse(udp_over_ipv4(packet, SERVER_PORT)?, client)?;
    // What is meant for another server is none of ours.
    if message.server.is_some_and(|server| server != answers.server) {
        return None;
    }
    let kind = match message.kind {
        kind::DISCOVER => kind::OFFER,
        kind::INFORM => kind::ACK,
        kind::REQUEST => {
            let wanted = message.requested.unwrap_or_else(|| message.current());
            if wanted == answers.address { kind::ACK } else { kind::NAK }
        }
        _ => return None,
    };
    let body = compose(answers, &message, kind);
    let current = message.current();
    let to = if kind == kind::NAK || (current.is_unspecified() && message.wants_broadcast()) {
        Ipv4Addr::BROADCAST
    } else if current.is_unspecified() {
        answers.address
    } else {
        current
    };
    let hardware = if to.is_broadcast() { [0xff; 6] } else { client };
    Reply::udp_over_ipv4(hardware, ((answers.server, SERVER_PORT), (to, CLIENT_PORT)), &body)
}

fn compose(answers: &Ipv4Answers, message: &Message<'_>, kind: u8) -> Vec<u8> {
    let mut body = message.fixed.to_vec();
    // BOOTREPLY; neither hops nor seconds; yiaddr; siaddr, giaddr, sname and file are empty.
    body[0] = 2;
    body[3] = 0;
    body[8..10].fill(0);
    body[16..28].fill(0);
    body[34..].fill(0);
    let informs = message.kind == kind::INFORM;
    if kind == kind::NAK {
        body[12..16].fill(0);
    } else if !informs {
        body[16..20].copy_from_slice(&answers.address.octets());
    }
    body.extend(COOKIE);
    body.extend([option::TYPE, 1, kind, option::SERVER, 4]);
    body.extend(answers.server.octets());
    if kind != kind::NAK {
        if !informs {
            // For ever.
            body.extend([option::LEASE, 4, 0xff, 0xff, 0xff, 0xff]);
        }
        // What the client asks for comes first, in its order; what has no room is left out.
        let room = message.longest - HEADERS - 1;
        let asked = message.parameters.iter().filter_map(|code| answers.options.iter().position(|o| o.0 == *code));
        let mut order: Vec<usize> = Vec::with_capacity(answers.options.len());
        for index in asked.chain(0..answers.options.len()) {
            if !order.contains(&index) {
                order.push(index);
            }
        }
        for (code, value) in order.into_iter().map(|index| &answers.options[index]) {
            // Long ones are continued (RFC 3396).
            let parts = value.len().div_ceil(255).max(1);
            if body.len() + value.len() + 2 * parts > room {
                continue;
            }
            for part in value.chunks(255) {
                body.extend([*code, u8::try_from(part.len()).unwrap_or(u8::MAX)]);
                body.extend(part);
            }
        }
    }
    body.push(option::END);
    body.resize(body.len().max(SHORTEST), 0);
    body
}
