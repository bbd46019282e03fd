//! Answers to a guest that asks its network who it is: DHCPv4 (RFC 2131), DHCPv6 (RFC 8415) and router solicitations
//! (RFC 4861).
//!
//! What is answered is settled before the guest starts ([`AutoconfAnswers`]); a guest's requests only choose among it, so no
//! state is kept. Frames come and go over a socket that carries nothing else, whichever way the guest's other frames take: the
//! answers of a card on vhost are the same.

mod dhcpv4;
mod dhcpv6;
mod frame;
mod ndp;
mod service;
#[cfg(test)]
mod tests;

use crate::config::AutoconfAnswers;
pub use service::Autoconf;

/// The longest frame that is answered, and the longest answer, bytes.
pub const MAX_FRAME: usize = 1514;

/// The answer to one frame of the guest with the hardware address `guest`, if there is one.
///
/// The frame is what the guest wrote: any bytes.
pub fn answer(answers: &AutoconfAnswers, guest: [u8; 6], frame: &[u8]) -> Option<Vec<u8>> {
    let ethernet = frame::Ethernet::parse(frame)?;
    if ethernet.source != guest {
        return None;
    }
    let reply = match ethernet.kind {
        frame::IPV4 => dhcpv4::answer(answers.ipv4.as_ref()?, guest, ethernet.payload)?,
        frame::IPV6 => {
            let ipv6 = answers.ipv6.as_ref()?;
            let packet = frame::Ipv6::parse(ethernet.payload)?;
            match packet.next_header {
                frame::UDP => dhcpv6::answer(ipv6, (answers.server_mac, guest), &packet)?,
                frame::ICMPV6 => ndp::answer(ipv6, (answers.server_mac, guest), &packet)?,
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(reply.ethernet(answers.server_mac))
}

/// What a router says of itself unasked, if there is one.
pub fn advertisement(answers: &AutoconfAnswers) -> Option<Vec<u8>> {
    let ipv6 = answers.ipv6.as_ref()?;
    Some(ndp::advertisement(ipv6, answers.server_mac).ethernet(answers.server_mac))
}
