//! The rules between guest and pod, in nft's own language: pure.
//!
//! Two tables, replaced as a whole in one transaction. `netdev vireo` stands where frames enter: what a guest may
//! not send ends there, and a bridged guest's frames go straight to the other interface. `inet vireo` is the NAT of a
//! masqueraded guest.

use std::fmt::{self, Display, Write as _};
use std::net::IpAddr;

use vireo_runtimeclass::Cidr;
use vireo_runtimeclass::cidr::Address;

use super::plan::{NicPlan, Port, Protocol, Side};

/// Removing a table that isn't there fails; adding one that is doesn't.
pub(super) const REMOVE: &str =
    "add table netdev vireo\ndelete table netdev vireo\nadd table inet vireo\ndelete table inet vireo\n";

/// Ports on which an Istio proxy listens in the pod: never the guest's (KubeVirt's list).
const ISTIO_PORTS: &str = "15000, 15001, 15004, 15006, 15008, 15009, 15020, 15021, 15053, 15090";
/// The one TCP port that an Istio proxy leaves alone.
const ISTIO_FREE: u16 = 22;

/// What the rules depend on beside the interfaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// An Istio proxy stands in the pod, and passes on what comes in.
    pub istio: bool,
    /// Guests may send with any address.
    pub allow_spoofing: bool,
}

/// Both tables.
pub(super) fn rules(nics: &[NicPlan], policy: Policy) -> String {
    let mut text = REMOVE.to_owned();
    // Writing to a string can't fail.
    let _ = write_rules(&mut text, nics, policy);
    text
}

fn write_rules(out: &mut String, nics: &[NicPlan], policy: Policy) -> fmt::Result {
    writeln!(out, "table netdev vireo {{")?;
    for nic in nics {
        let (tap, uplink) = (&nic.tap, &nic.uplink.name);
        writeln!(out, "  chain from_{tap} {{")?;
        writeln!(out, "    type filter hook ingress device \"{tap}\" priority -500; policy accept;")?;
        answered(out, nic)?;
        if !policy.allow_spoofing {
            guard(out, nic)?;
        }
        if nic.side == Side::Bridge {
            writeln!(out, "    fwd to \"{uplink}\"\n  }}\n  chain to_{tap} {{")?;
            writeln!(out, "    type filter hook ingress device \"{uplink}\" priority -500; policy accept;")?;
            writeln!(out, "    fwd to \"{tap}\"")?;
        }
        writeln!(out, "  }}")?;
    }
    writeln!(out, "}}")?;
    nics.iter().try_for_each(|nic| nat(out, nic, policy))
}

/// Ends the requests that the VMM answers: nobody else is asked.
fn answered(out: &mut String, nic: &NicPlan) -> fmt::Result {
    let (ipv4, ipv6) = nic.families();
    if ipv4 {
        writeln!(out, "    meta protocol ip udp dport 67 drop")?;
    }
    if ipv6 {
        writeln!(out, "    meta protocol ip6 udp dport 547 drop\n    icmpv6 type nd-router-solicit drop")?;
    }
    Ok(())
}

/// Ends what the guest sends as somebody else.
fn guard(out: &mut String, nic: &NicPlan) -> fmt::Result {
    let mac = nic.mac.map(|byte| format!("{byte:02x}")).join(":");
    writeln!(out, "    ether saddr != {mac} drop")?;
    writeln!(out, "    arp saddr ether != {mac} drop")?;
    let (ipv4, ipv6): (Vec<IpAddr>, Vec<IpAddr>) = match &nic.side {
        Side::Masquerade { ipv4, ipv6, .. } => {
            (ipv4.iter().map(|cidr| cidr.nth(2).into()).collect(), ipv6.iter().map(|cidr| cidr.nth(2).into()).collect())
        }
        // Without addresses of its own the pod's interface is a mere cable.
        Side::Bridge if nic.uplink.addresses.iter().all(|(address, _)| is_link_local(address)) => return Ok(()),
        Side::Bridge => nic.uplink.addresses.iter().map(|(address, _)| *address).partition(IpAddr::is_ipv4),
    };
    let set = |own: &[IpAddr], unspecified: &str| {
        let own = own.iter().filter(|address| !is_link_local(address)).map(ToString::to_string);
        own.chain([unspecified.to_owned()]).collect::<Vec<_>>().join(", ")
    };
    // Before it has an address, a guest asks for one and probes it with none.
    writeln!(out, "    arp saddr ip != {{ {} }} drop", set(&ipv4, "0.0.0.0"))?;
    writeln!(out, "    ip saddr != {{ {} }} drop", set(&ipv4, "0.0.0.0"))?;
    writeln!(out, "    ip6 saddr != {{ {} }} drop", set(&ipv6, "::, fe80::/10"))?;
    writeln!(out, "    ip daddr 127.0.0.0/8 drop\n    ip6 daddr ::1 drop")?;
    // As it stands in the frame: behind a tag the rest would be somebody else's network.
    writeln!(out, "    ether type != {{ ip, ip6, arp }} drop")
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn nat(out: &mut String, nic: &NicPlan, policy: Policy) -> fmt::Result {
    let Side::Masquerade { ipv4, ipv6, ports } = &nic.side else { return Ok(()) };
    let (tap, uplink) = (&nic.tap, &nic.uplink.name);
    let ports = Ports { listed: ports, istio: policy.istio };
    let own = |of: fn(&IpAddr) -> bool| nic.uplink.addresses.iter().map(|(own, _)| *own).filter(of).collect::<Vec<_>>();
    let mut families = Vec::new();
    if let Some(cidr) = ipv4 {
        // Where Istio's proxy connects from.
        let loopback = if policy.istio { "{ 127.0.0.1, 127.0.0.6 }" } else { "127.0.0.0/8" };
        families.push(Family::new("ip", cidr, "127.0.0.1", loopback, own(IpAddr::is_ipv4)));
    }
    if let Some(cidr) = ipv6 {
        let loopback = if policy.istio { "{ ::1, ::6 }" } else { "::1" };
        families.push(Family::new("ip6", cidr, "::1", loopback, own(IpAddr::is_ipv6)));
    }
    writeln!(out, "table inet vireo {{\n  chain inbound {{")?;
    writeln!(out, "    type nat hook prerouting priority -100; policy accept;")?;
    for family in &families {
        ports.inbound(out, family, &format!("iifname \"{uplink}\" meta nfproto {}", family.nfproto()))?;
    }
    writeln!(out, "  }}\n  chain local {{\n    type nat hook output priority -100; policy accept;")?;
    for family in &families {
        ports.local(out, family)?;
    }
    writeln!(out, "  }}\n  chain outbound {{\n    type nat hook postrouting priority 100; policy accept;")?;
    for Family { name, guest, gateway, loopback, .. } in &families {
        writeln!(out, "    oifname \"{tap}\" {name} saddr {loopback} snat {name} to {gateway}")?;
        writeln!(out, "    oifname != \"{tap}\" {name} saddr {guest} masquerade")?;
    }
    writeln!(out, "  }}\n}}")
}

/// IPv4 or IPv6 of a masqueraded guest.
struct Family {
    name: &'static str,
    guest: String,
    gateway: String,
    /// Where a port-forward arrives.
    local: &'static str,
    /// What comes from the pod itself, and is not to be answered there.
    loopback: &'static str,
    /// The pod's addresses.
    own: Vec<IpAddr>,
}

impl Family {
    fn new<A: Address>(
        name: &'static str,
        cidr: &Cidr<A>,
        local: &'static str,
        loopback: &'static str,
        own: Vec<IpAddr>,
    ) -> Self {
        Self { name, guest: cidr.nth(2).to_string(), gateway: cidr.nth(1).to_string(), local, loopback, own }
    }

    fn nfproto(&self) -> &'static str {
        if self.name == "ip" { "ipv4" } else { "ipv6" }
    }

    fn dnat(&self, out: &mut String, condition: impl Display) -> fmt::Result {
        writeln!(out, "    {condition} dnat {} to {}", self.name, self.guest)
    }
}

/// What reaches the guest.
struct Ports<'a> {
    listed: &'a [Port],
    istio: bool,
}

impl Ports<'_> {
    /// From outside. Istio's own rules lead what is TCP to its proxy, but for one port.
    fn inbound(&self, out: &mut String, family: &Family, condition: &str) -> fmt::Result {
        if !self.istio {
            return self.each(out, family, condition);
        }
        if self.listed.is_empty() {
            return family
                .dnat(out, format_args!("{condition} meta l4proto != tcp"))
                .and_then(|()| family.dnat(out, format_args!("{condition} tcp dport {ISTIO_FREE}")));
        }
        let free = |port: &&Port| port.protocol == Protocol::Udp || port.number == ISTIO_FREE;
        let listed: Vec<_> = self.listed.iter().filter(free).copied().collect();
        if listed.is_empty() { Ok(()) } else { Ports { listed: &listed, istio: false }.each(out, family, condition) }
    }

    /// From the pod itself: a port-forward, and Istio's proxy, which goes to the pod's address.
    fn local(&self, out: &mut String, family: &Family) -> fmt::Result {
        let mut to = vec![family.local.to_owned()];
        if self.istio {
            to.extend(family.own.iter().filter(|own| !is_link_local(own)).map(ToString::to_string));
            writeln!(out, "    tcp dport {{ {ISTIO_PORTS} }} return")?;
        }
        self.each(out, family, &format!("{} daddr {{ {} }}", family.name, to.join(", ")))
    }

    fn each(&self, out: &mut String, family: &Family, condition: &str) -> fmt::Result {
        if self.listed.is_empty() {
            return family.dnat(out, condition);
        }
        for (protocol, name) in [(Protocol::Tcp, "tcp"), (Protocol::Udp, "udp")] {
            let of_protocol = self.listed.iter().filter(|port| port.protocol == protocol);
            let numbers: Vec<_> = of_protocol.map(|port| port.number.to_string()).collect();
            if !numbers.is_empty() {
                family.dnat(out, format_args!("{condition} {name} dport {{ {} }}", numbers.join(", ")))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
