//! What is asked for, and what is to be done about it: pure.
//!
//! A VMI spec becomes [`Wish`]es; those and the interfaces that the pod has become [`NicPlan`]s.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use vireo_runtimeclass::Cidr;
use vireo_runtimeclass::kubevirt::v1::{DhcpOptions, Interface, Network, PodNetwork, VirtualMachineInstanceSpec};
use vireo_runtimeclass::validate::parse_mac;
use vireo_vmm::config::check::MAX_PAIRS;

use super::NetworkError;
use super::link::PodLink;

/// The interface that every pod has, as containerd calls it.
const PRIMARY: &str = "eth0";
/// The tap on the pod's own network.
pub(super) const PRIMARY_TAP: &str = "tap0";

/// An interface as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// For messages.
    pub name: String,
    /// The guest's hardware address, if the spec gives one.
    pub mac: Option<[u8; 6]>,
    /// The one that is made from the machine's name otherwise.
    pub own_mac: [u8; 6],
    /// Queue pairs.
    pub queues: usize,
    /// Its cable is plugged in.
    pub link_up: bool,
    /// Which of the pod's networks it is on.
    pub network: Attached,
    /// How.
    pub binding: Binding,
    /// What DHCP tells beside the network's own.
    pub dhcp: Option<DhcpOptions>,
}

/// A network of the pod's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attached {
    /// Its own.
    Pod,
    /// One that Multus gives it.
    Multus {
        /// Name of the `NetworkAttachmentDefinition`, with or without its namespace.
        definition: String,
        /// Its place among the pod's Multus networks, from 1.
        ordinal: usize,
        /// Its place among those with the same definition, from 0.
        repeated: usize,
        /// The part of the interfaces' names that KubeVirt makes of the network's name.
        hash: String,
    },
}

/// How a guest's interface is bound to the pod's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// Behind it.
    Masquerade {
        /// The guest's IPv4 network.
        ipv4: Cidr<Ipv4Addr>,
        /// Its IPv6 network.
        ipv6: Cidr<Ipv6Addr>,
        /// The ports that reach the guest; all where empty.
        ports: Vec<Port>,
    },
    /// In its place.
    Bridge,
}

/// A port that reaches the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub number: u16,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What to do for one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicPlan {
    /// For messages.
    pub name: String,
    /// The tap's name.
    pub tap: String,
    /// The pod's interface that it is bound to.
    pub uplink: PodLink,
    /// The guest's hardware address.
    pub mac: [u8; 6],
    /// Queue pairs.
    pub queues: usize,
    /// Its cable is plugged in.
    pub link_up: bool,
    /// How.
    pub side: Side,
    /// What DHCP tells beside the network's own.
    pub dhcp: Option<DhcpOptions>,
}

impl NicPlan {
    /// Whether the guest is told an IPv4 and an IPv6 address.
    pub fn families(&self) -> (bool, bool) {
        match &self.side {
            Side::Masquerade { ipv4, ipv6, .. } => (ipv4.is_some(), ipv6.is_some()),
            Side::Bridge => (self.uplink.addresses.iter().any(|(address, _)| address.is_ipv4()), false),
        }
    }
}

/// What the guest's side of an interface looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// A network of its own: the tap is the first address, the guest the second. A family that the pod hasn't got is left out.
    Masquerade {
        /// IPv4.
        ipv4: Option<Cidr<Ipv4Addr>>,
        /// IPv6.
        ipv6: Option<Cidr<Ipv6Addr>>,
        /// The ports that reach the guest; all where empty.
        ports: Vec<Port>,
    },
    /// The pod interface's own.
    Bridge,
}

/// The interfaces that a spec asks for, or the one that every pod has. `name` makes their hardware addresses where the
/// spec gives none, so that a machine keeps them.
pub fn wishes(spec: Option<&VirtualMachineInstanceSpec>, name: &str) -> Vec<Wish> {
    let default = VirtualMachineInstanceSpec::default();
    let spec = spec.unwrap_or(&default);
    let networks = spec.networks();
    let several = spec.domain.devices.network_interface_multiqueue == Some(true);
    // A pair for each vCPU, as far as a card has them. Drivers leave aside what is more.
    let vcpus = spec.domain.vcpus().and_then(|vcpus| usize::try_from(vcpus).ok()).unwrap_or(MAX_PAIRS);
    let queues = if several { vcpus.clamp(1, MAX_PAIRS) } else { 1 };
    let interfaces = spec.interfaces().into_iter();
    let present = interfaces.filter(|interface| interface.state.as_deref() != Some("absent"));
    // Validation has found the network of each.
    let wish = |(index, interface): (usize, Interface)| {
        let at = networks.iter().position(|network| network.name == interface.name)?;
        let own_mac = mac_of(&if index == 0 { name.to_owned() } else { format!("{name}/{}", interface.name) });
        let pod = networks[at].pod.clone().unwrap_or_default();
        Some(Wish {
            mac: interface.mac_address.as_deref().and_then(parse_mac),
            own_mac,
            queues,
            link_up: interface.state.as_deref() != Some("down"),
            network: attached(&networks, at),
            binding: binding(&interface, &pod)?,
            dhcp: interface.dhcp_options,
            name: interface.name,
        })
    };
    present.enumerate().filter_map(wish).collect()
}

fn binding(interface: &Interface, pod: &PodNetwork) -> Option<Binding> {
    if interface.bridge.is_some() {
        return Some(Binding::Bridge);
    }
    let ports = interface.ports.iter().filter_map(|port| {
        let protocol = if port.protocol.as_deref() == Some("UDP") { Protocol::Udp } else { Protocol::Tcp };
        Some(Port { protocol, number: u16::try_from(port.port).ok()? })
    });
    Some(Binding::Masquerade { ipv4: pod.ipv4()?, ipv6: pod.ipv6()?, ports: ports.collect() })
}

fn attached(networks: &[Network], at: usize) -> Attached {
    let network = &networks[at];
    let Some(multus) = network.multus.as_ref().filter(|_| !network.is_pods_own()) else { return Attached::Pod };
    let definition = multus.network_name.clone();
    let before = networks[..at].iter().filter(|network| !network.is_pods_own()).filter_map(|n| n.multus.as_ref());
    let repeated = before.clone().filter(|other| other.network_name == definition).count();
    Attached::Multus { definition, ordinal: before.count() + 1, repeated, hash: hash(&network.name) }
}

/// KubeVirt's name of a network in the names of interfaces: the first 11 digits of its SHA-256.
fn hash(network: &str) -> String {
    let digest = Sha256::digest(network);
    let digit = |index: usize| (u32::from(digest[index / 2]) >> if index.is_multiple_of(2) { 4 } else { 0 }) & 15;
    (0..11).filter_map(|index| char::from_digit(digit(index), 16)).collect()
}

/// A locally administered hardware address made from a name (FNV-1a).
fn mac_of(name: &str) -> [u8; 6] {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut mac = [0x02; 6];
    mac[1..].copy_from_slice(&hash.to_be_bytes()[..5]);
    mac
}

/// What Multus says of a pod: annotation `k8s.v1.cni.cncf.io/network-status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct NetworkStatus(Vec<StatusEntry>);

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct StatusEntry {
    name: String,
    #[serde(default)]
    interface: String,
    #[serde(default)]
    default: bool,
}

impl NetworkStatus {
    /// The interfaces on the networks of a definition, in the order of their attachment.
    fn of<'a>(&'a self, definition: &'a str) -> impl Iterator<Item = &'a str> {
        let same = move |entry: &&StatusEntry| {
            let without_namespace = || entry.name.split_once('/').is_some_and(|(_, name)| name == definition);
            !entry.default && (entry.name == definition || without_namespace())
        };
        self.0.iter().filter(same).map(|entry| entry.interface.as_str())
    }
}

/// What to do in a pod that has the interfaces `links`.
pub(super) fn plan(wishes: &[Wish], links: &[PodLink], status: &NetworkStatus) -> Result<Vec<NicPlan>, NetworkError> {
    let mut plans: Vec<NicPlan> = Vec::with_capacity(wishes.len());
    for wish in wishes {
        let (uplink, tap) = match &wish.network {
            Attached::Pod => {
                let first = || links.iter().find(|link| link.up);
                let link = links.iter().find(|link| link.name == PRIMARY).or_else(first);
                (link.ok_or(NetworkError::NoUplink)?, PRIMARY_TAP.to_owned())
            }
            Attached::Multus { definition, ordinal, repeated, hash } => {
                let names = [Some(format!("pod{hash}")), status.of(definition).nth(*repeated).map(str::to_owned)];
                let mut names = names.into_iter().flatten().chain([format!("net{ordinal}")]);
                let link = names.find_map(|name| links.iter().find(|link| link.name == name));
                let missing = || NetworkError::NoInterface {
                    network: wish.name.clone(),
                    definition: definition.clone(),
                    interface: format!("pod{hash}"),
                };
                (link.ok_or_else(missing)?, format!("tap{hash}"))
            }
        };
        if let Some(other) = plans.iter().find(|plan| plan.uplink.index == uplink.index) {
            let (interface, first, second) = (uplink.name.clone(), other.name.clone(), wish.name.clone());
            return Err(NetworkError::Taken { interface, first, second });
        }
        let (side, own_mac) = match &wish.binding {
            Binding::Masquerade { ipv4, ipv6, ports } => {
                (masquerade(*ipv4, *ipv6, ports, uplink, links)?, wish.own_mac)
            }
            Binding::Bridge => (Side::Bridge, uplink.mac),
        };
        let mac = wish.mac.unwrap_or(own_mac);
        if let Some(other) = plans.iter().find(|plan| plan.mac == mac) {
            return Err(NetworkError::OneMac { first: other.name.clone(), second: wish.name.clone() });
        }
        let Wish { name, queues, link_up, dhcp, .. } = wish.clone();
        plans.push(NicPlan { name, tap, uplink: uplink.clone(), mac, queues, link_up, side, dhcp });
    }
    Ok(plans)
}

/// The families that the pod has, once none of the pod's networks collides with the guest's.
fn masquerade(
    ipv4: Cidr<Ipv4Addr>,
    ipv6: Cidr<Ipv6Addr>,
    ports: &[Port],
    uplink: &PodLink,
    links: &[PodLink],
) -> Result<Side, NetworkError> {
    for (address, len) in links.iter().flat_map(|link| &link.addresses) {
        let (collides, guest) = match address {
            IpAddr::V4(own) => (Cidr::of(*own, *len).overlaps(&ipv4), ipv4.to_string()),
            IpAddr::V6(own) => (Cidr::of(*own, *len).overlaps(&ipv6), ipv6.to_string()),
        };
        if collides {
            let field = if address.is_ipv4() { "vmNetworkCIDR" } else { "vmIPv6NetworkCIDR" };
            return Err(NetworkError::Collision { pod: format!("{address}/{len}"), guest, field });
        }
    }
    let has = |of: fn(&IpAddr) -> bool| uplink.addresses.iter().any(|(address, _)| of(address));
    Ok(Side::Masquerade {
        ipv4: has(IpAddr::is_ipv4).then_some(ipv4),
        // The pod's link-local address is no way to anywhere.
        ipv6: has(|address| matches!(address, IpAddr::V6(own) if !own.is_unicast_link_local())).then_some(ipv6),
        ports: ports.to_vec(),
    })
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
