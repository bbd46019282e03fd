//! Router advertisements (RFC 4861): the way out, the network on the link, and that DHCPv6 has the address.

use std::net::Ipv6Addr;

use super::frame::{ICMPV6, Ipv6, NEIGHBOUR_HOPS, Reply};
use crate::config::Ipv6Answers;

/// Message types.
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// Everybody on the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// Addresses and everything else come by DHCPv6 (§4.2: M and O).
const MANAGED: u8 = 0xc0;
/// Seconds that a router is one for, at most (RFC 8319); advertised again long before.
const LIFETIME: u16 = 65535;
/// On the link, but no address is to be made from it (§4.6.2: L without A).
const ON_LINK: u8 = 0x80;

pub fn answer(answers: &Ipv6Answers, (server, client): ([u8; 6], [u8; 6]), packet: &Ipv6<'_>) -> Option<Reply> {
    if packet.hop_limit != NEIGHBOUR_HOPS || packet.payload.first() != Some(&SOLICITATION) || packet.payload.len() < 8 {
        return None;
    }
    if packet.source.is_unspecified() {
        return Some(advertisement(answers, server));
    }
    Some(compose(answers, server, (client, packet.source)))
}

/// To everybody.
pub fn advertisement(answers: &Ipv6Answers, server: [u8; 6]) -> Reply {
    compose(answers, server, (ALL_NODES_MAC, ALL_NODES))
}

fn compose(answers: &Ipv6Answers, server: [u8; 6], (hardware, to): ([u8; 6], Ipv6Addr)) -> Reply {
    let mut body = vec![ADVERTISEMENT, 0, 0, 0, 64, MANAGED];
    body.extend(LIFETIME.to_be_bytes());
    // Reachable time and retransmission timer: the guest's own.
    body.extend([0; 8]);
    // Source link-layer address, MTU, prefix (§4.6).
    body.extend([1, 1]);
    body.extend(server);
    body.extend([5, 1, 0, 0]);
    body.extend(u32::from(answers.mtu).to_be_bytes());
    body.extend([3, 4, answers.prefix_len, ON_LINK]);
    body.extend([0xff; 8]);
    body.extend([0; 4]);
    let mask = u128::MAX.checked_shl(128 - u32::from(answers.prefix_len)).unwrap_or(0);
    body.extend((answers.address.to_bits() & mask).to_be_bytes());
    Reply::ipv6(hardware, (answers.router, to), (ICMPV6, 2), body)
}
