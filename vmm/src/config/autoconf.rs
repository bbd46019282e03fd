//! What a guest is told that asks its network who it is.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::check::{Problem, at, wrong};
use super::files::{self, Files};
use super::{ConfigError, FdIndex};

/// The most bytes of one answer's options, so that it fits into a frame.
pub const MAX_OPTIONS: usize = 1000;

/// Options that make a lease, and so are the answerer's own: padding, requested address, lease time, message type, server, end.
const RESERVED_IPV4: [u8; 6] = [0, 50, 51, 53, 54, 255];
/// Likewise: identifiers, associations, addresses, status, rapid commit.
const RESERVED_IPV6: [u16; 6] = [1, 2, 3, 5, 13, 14];

/// Answers, and where they go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutoconfConfig {
    /// A Unix socket (`SOCK_SEQPACKET`, non-blocking) that carries the guest's requests and the answers, an Ethernet frame a packet.
    pub socket: FdIndex,
    /// What is answered.
    pub answers: AutoconfAnswers,
}

/// What a guest is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutoconfAnswers {
    /// The hardware address that answers come from.
    pub server_mac: [u8; 6],
    /// By DHCPv4.
    pub ipv4: Option<Ipv4Answers>,
    /// By router advertisement and DHCPv6.
    pub ipv6: Option<Ipv6Answers>,
}

/// A DHCPv4 lease, for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv4Answers {
    /// The guest's address.
    pub address: Ipv4Addr,
    /// The server's.
    pub server: Ipv4Addr,
    /// Codes and values (RFC 2132), beside those that make a lease.
    pub options: Vec<(u8, Vec<u8>)>,
}

/// A router advertisement and a DHCPv6 lease, for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6Answers {
    /// The guest's address.
    pub address: Ipv6Addr,
    /// The network on the link, bits.
    pub prefix_len: u8,
    /// The router's link-local address; it is the server too.
    pub router: Ipv6Addr,
    /// Bytes.
    pub mtu: u16,
    /// Codes and values (RFC 8415), beside those that make a lease.
    pub options: Vec<(u16, Vec<u8>)>,
}

/// Answers that fit into a frame, and where they go.
#[derive(Debug)]
pub struct AutoconfPlan {
    /// A socket, non-blocking.
    pub socket: File,
    /// What is answered: options are those that no lease is made of, and at most [`MAX_OPTIONS`] bytes.
    pub answers: AutoconfAnswers,
}

pub(super) fn check(path: &str, config: AutoconfConfig, files: &mut Files) -> Result<AutoconfPlan, ConfigError> {
    let AutoconfConfig { socket, answers } = config;
    if let Some(ipv4) = &answers.ipv4 {
        let sizes = ipv4.options.iter().map(|(_, value)| value.len() + 2);
        let reserved = ipv4.options.iter().find(|(code, _)| RESERVED_IPV4.contains(code));
        check_options(&format!("{path}.ipv4"), sizes.sum(), reserved.map(|option| option.0.into()))?;
    }
    if let Some(ipv6) = &answers.ipv6 {
        let sizes = ipv6.options.iter().map(|(_, value)| value.len() + 4);
        let reserved = ipv6.options.iter().find(|(code, _)| RESERVED_IPV6.contains(code));
        check_options(&format!("{path}.ipv6"), sizes.sum(), reserved.map(|option| option.0))?;
        if !ipv6.router.is_unicast_link_local() {
            return Err(wrong(format!("{path}.ipv6.router"), Problem::Router(ipv6.router)));
        }
        if ipv6.prefix_len > 128 {
            return Err(wrong(format!("{path}.ipv6.prefix_len"), Problem::PrefixLength(ipv6.prefix_len)));
        }
    }
    let socket = files.take(socket).and_then(files::socket).map_err(at(format!("{path}.socket")))?;
    Ok(AutoconfPlan { socket, answers })
}

fn check_options(path: &str, size: usize, reserved: Option<u16>) -> Result<(), ConfigError> {
    let problem = match reserved {
        Some(code) => Problem::ReservedOption(code),
        None if size > MAX_OPTIONS => Problem::OptionsSize(size),
        None => return Ok(()),
    };
    Err(wrong(format!("{path}.options"), problem))
}
