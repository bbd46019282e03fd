//! The NAT between pod and guest: one nftables table, replaced as a whole.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::{GATEWAY_ADDRESS, GUEST_ADDRESS, NetworkError, Port, Protocol};

/// Removing a table that isn't there fails; adding one that is doesn't.
const REMOVE: &str = "add table ip vireo\ndelete table ip vireo\n";

/// Sets up the NAT of the calling thread's network namespace.
pub(super) fn apply(tap: &str, ports: &[Port]) -> Result<(), NetworkError> {
    nft(&rules(tap, ports))
}

/// Takes it away again.
pub(super) fn remove() -> Result<(), NetworkError> {
    nft(REMOVE)
}

/// The whole table, in nft's own language; one transaction.
fn rules(tap: &str, ports: &[Port]) -> String {
    let (guest, gateway) = (GUEST_ADDRESS, GATEWAY_ADDRESS);
    let to_guest = |condition: &str| -> String {
        let mut rules = String::new();
        let mut add = |ports: &str| {
            let _ = writeln!(rules, "    {condition} {ports}dnat to {guest}");
        };
        if ports.is_empty() {
            add("");
        }
        for (protocol, name) in [(Protocol::Tcp, "tcp"), (Protocol::Udp, "udp")] {
            let of_protocol = ports.iter().filter(|port| port.protocol == protocol);
            let numbers: Vec<_> = of_protocol.map(|port| port.number.to_string()).collect();
            if !numbers.is_empty() {
                add(&format!("{name} dport {{ {} }} ", numbers.join(", ")));
            }
        }
        rules
    };
    format!(
        r#"{REMOVE}table ip vireo {{
  chain guard {{
    type filter hook prerouting priority -300; policy accept;
    iifname "{tap}" ip saddr != {guest} drop
    iifname "{tap}" ip daddr 127.0.0.0/8 drop
  }}
  chain inbound {{
    type nat hook prerouting priority -100; policy accept;
{inbound}  }}
  chain local {{
    type nat hook output priority -100; policy accept;
{local}  }}
  chain outbound {{
    type nat hook postrouting priority 100; policy accept;
    oifname "{tap}" ip saddr 127.0.0.0/8 snat to {gateway}
    oifname != "{tap}" ip saddr {guest} masquerade
  }}
}}
"#,
        inbound = to_guest(&format!(r#"iifname != {{ "lo", "{tap}" }}"#)),
        local = to_guest("ip daddr 127.0.0.1"),
    )
}

fn nft(rules: &str) -> Result<(), NetworkError> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(NetworkError::NoNft)?;
    // A few hundred bytes: the pipe takes them at once, and closes behind them.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(rules.as_bytes()));
    let output = child.wait_with_output().map_err(|error| NetworkError::Io("nft", error))?;
    match (output.status.success(), written) {
        (true, Ok(())) => Ok(()),
        (true, Err(error)) => Err(NetworkError::Io("nft", error)),
        (false, _) => Err(NetworkError::Nft(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_or_those_listed() {
        let all = rules("tap0", &[]);
        assert!(all.contains("    iifname != { \"lo\", \"tap0\" } dnat to 10.0.2.2\n"), "{all}");
        let port = |protocol, number| Port { protocol, number };
        let some = rules("tap0", &[port(Protocol::Tcp, 80), port(Protocol::Udp, 53), port(Protocol::Tcp, 443)]);
        assert!(some.contains("    ip daddr 127.0.0.1 tcp dport { 80, 443 } dnat to 10.0.2.2\n"), "{some}");
        assert!(some.contains("    ip daddr 127.0.0.1 udp dport { 53 } dnat to 10.0.2.2\n"), "{some}");
        assert!(!some.contains("} dnat to 10.0.2.2\n    iifname != { \"lo\", \"tap0\" } dnat"), "{some}");
    }
}
