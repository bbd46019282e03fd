//! DHCPv6 (RFC 8415): one address, for ever, to one client.

use super::frame::{Ipv6, Reply, array_at, u16_at};
use crate::config::Ipv6Answers;

const CLIENT_PORT: u16 = 546;
const SERVER_PORT: u16 = 547;

/// Message types (§7.3).
mod kind {
    pub const SOLICIT: u8 = 1;
    pub const ADVERTISE: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const CONFIRM: u8 = 4;
    pub const RENEW: u8 = 5;
    pub const REBIND: u8 = 6;
    pub const REPLY: u8 = 7;
    pub const RELEASE: u8 = 8;
    pub const DECLINE: u8 = 9;
    pub const INFORMATION: u8 = 11;
}

/// Options (§21) that the server itself fills in.
mod option {
    pub const CLIENT: u16 = 1;
    pub const SERVER: u16 = 2;
    pub const IA_NA: u16 = 3;
    pub const ADDRESS: u16 = 5;
    pub const STATUS: u16 = 13;
    pub const RAPID_COMMIT: u16 = 14;
}

/// Status codes (§21.13).
const NO_ADDRESS: u16 = 2;
const NOT_ON_LINK: u16 = 4;
/// The longest client identifier (§11.1).
const MAX_IDENTIFIER: usize = 130;
/// Identity associations of one message that are answered.
const MAX_ASSOCIATIONS: usize = 4;

/// Splits options; `None` where one reaches beyond the end.
fn options(mut bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut list = Vec::new();
    while !bytes.is_empty() {
        let (code, len) = (u16_at(bytes, 0)?, usize::from(u16_at(bytes, 2)?));
        let (value, rest) = bytes[4..].split_at_checked(len)?;
        list.push((code, value));
        bytes = rest;
    }
    Some(list)
}

fn push(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(code.to_be_bytes());
    out.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(value);
}

pub fn answer(answers: &Ipv6Answers, (server, client): ([u8; 6], [u8; 6]), packet: &Ipv6<'_>) -> Option<Reply> {
    let message = packet.udp(SERVER_PORT)?;
    let (&kind, transaction) = (message.first()?, message.get(1..4)?);
    let asked = options(&message[4..])?;
    let find = |code| asked.iter().find(|option| option.0 == code).map(|option| option.1);
    // DUID-LL (§11.4).
    let own = [&[0, 3, 0, 1][..], &server].concat();
    let identifier = find(option::CLIENT);
    if identifier.is_some_and(|identifier| identifier.len() > MAX_IDENTIFIER) {
        return None;
    }
    // Who has to name the client and this server, and who must not name any (§16).
    let (needs_client, names_server) = match kind {
        kind::SOLICIT | kind::CONFIRM | kind::REBIND => (true, Some(false)),
        kind::REQUEST | kind::RENEW | kind::RELEASE | kind::DECLINE => (true, Some(true)),
        kind::INFORMATION => (false, None),
        _ => return None,
    };
    let named = find(option::SERVER);
    if (needs_client && identifier.is_none())
        || names_server.is_some_and(|names| names != named.is_some())
        || named.is_some_and(|named| named != own)
    {
        return None;
    }
    let rapid = find(option::RAPID_COMMIT).is_some();
    let reply = if kind == kind::SOLICIT && !rapid { kind::ADVERTISE } else { kind::REPLY };
    let mut body = [&[reply], transaction].concat();
    push(&mut body, option::SERVER, &own);
    if let Some(identifier) = identifier {
        push(&mut body, option::CLIENT, identifier);
    }
    if kind == kind::SOLICIT && rapid {
        push(&mut body, option::RAPID_COMMIT, &[]);
    }
    let associations = asked.iter().filter(|option| option.0 == option::IA_NA).map(|option| option.1);
    match kind {
        kind::SOLICIT | kind::REQUEST | kind::RENEW | kind::REBIND => {
            for (index, association) in associations.take(MAX_ASSOCIATIONS).enumerate() {
                let granted = grant(answers, association, index == 0)?;
                push(&mut body, option::IA_NA, &granted);
            }
        }
        kind::CONFIRM => {
            let right = associations
                .flat_map(|association| options(association.get(12..).unwrap_or_default()).unwrap_or_default());
            let mut right = right.filter(|option| option.0 == option::ADDRESS);
            let right = right.all(|option| array_at::<16>(option.1, 0) == Some(answers.address.octets()));
            push(&mut body, option::STATUS, &(if right { 0 } else { NOT_ON_LINK }).to_be_bytes());
        }
        // There is nobody else to give the address to.
        kind::RELEASE | kind::DECLINE => push(&mut body, option::STATUS, &0u16.to_be_bytes()),
        _ => {}
    }
    if !matches!(kind, kind::RELEASE | kind::DECLINE | kind::CONFIRM) {
        for (code, value) in &answers.options {
            push(&mut body, *code, value);
        }
    }
    Reply::udp_over_ipv6(client, ((answers.router, SERVER_PORT), (packet.source, CLIENT_PORT)), &body)
}

/// An identity association with the address, if it is the `first` one.
fn grant(answers: &Ipv6Answers, association: &[u8], first: bool) -> Option<Vec<u8>> {
    let mut granted = association.get(..4)?.to_vec();
    // Renewed never.
    granted.extend([0xff; 8]);
    if first {
        let address = [&answers.address.octets()[..], &[0xff; 8]].concat();
        push(&mut granted, option::ADDRESS, &address);
    } else {
        push(&mut granted, option::STATUS, &NO_ADDRESS.to_be_bytes());
    }
    Some(granted)
}
