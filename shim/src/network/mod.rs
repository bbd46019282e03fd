//! The pod's network, as the guest gets it.
//!
//! `masquerade` (KubeVirt's default): the guest sits behind the pod's address. In the pod's network namespace stand
//! a tap with the guest's gateway address and one nftables table, `vireo`. What the guest sends leaves with the
//! pod's address; what reaches the pod, on any port or on those that the interface lists, goes on to the guest, and so
//! does what is sent to the pod's loopback address, which is where a port-forward arrives.
//!
//! ```text
//!  eth0 (pod's IP)  <── masquerade ──  tap0 10.0.2.1/24 ═══ virtio-net ═══ guest 10.0.2.2
//!                   ──  dnat       ──>
//! ```
//!
//! A guest sends with its own address only, and nothing to the pod's loopback. The tap lives as long as a descriptor of it
//! is open ([`Attachment`]'s, then the VMM's); the table goes with the [`Attachment`], and both with the namespace at the latest.

mod link;
mod masquerade;
mod netns;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use vireo_runtimeclass::kubevirt::v1::VirtualMachineInstanceSpec;
use vireo_runtimeclass::validate::parse_mac;
use vireo_vmm::config::check::MAX_PAIRS;
use vireo_vmm::tap::open_tap;

/// The guest's address.
pub const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The guest's gateway: the host side of its tap.
pub const GATEWAY_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
/// Length of the guest network's prefix, bits.
pub const PREFIX_LEN: u8 = 24;
/// The same three in the kernel's own words (Linux `nfsroot.rst`, `ip=`).
pub const GUEST_IP_ARGUMENT: &str = "ip=10.0.2.2::10.0.2.1:255.255.255.0::eth0:off";
/// Name of the tap.
const TAP: &str = "tap0";

/// An interface whose host side is there.
#[derive(Debug)]
pub struct PlannedNic {
    /// For messages.
    pub name: String,
    /// The tap's queues.
    pub taps: Vec<File>,
    /// Its cable is plugged in.
    pub link_up: bool,
    /// The guest's hardware address.
    pub mac: [u8; 6],
    /// The MTU of the path, bytes.
    pub mtu: Option<u16>,
}

/// An interface as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// For messages.
    pub name: String,
    /// The guest's hardware address.
    pub mac: [u8; 6],
    /// The ports that reach the guest; all where empty.
    pub ports: Vec<Port>,
    /// Queue pairs.
    pub queues: usize,
    /// Its cable is plugged in.
    pub link_up: bool,
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

/// Why a pod's network can't be had.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The pod's network namespace can't be entered.
    #[error("network namespace {0} can't be entered")]
    Namespace(PathBuf, #[source] io::Error),
    /// The pod has no network.
    #[error("the pod has no network interface; a CNI plugin gives it one, or set autoattachPodInterface to false")]
    NoUplink,
    /// The guest's network collides with the pod's.
    #[error("the pod's address {0} lies in the guest's own network 10.0.2.0/24; give pods other addresses")]
    Collision(Ipv4Addr),
    /// The tap can't be made.
    #[error("{TAP} in the pod's network namespace: {hint}", hint = tap_hint(.0))]
    Tap(#[source] io::Error),
    /// The kernel refused a change.
    #[error("{0}")]
    Link(&'static str, #[source] rtnetlink::Error),
    /// The kernel refused a change.
    #[error("{0}")]
    Io(&'static str, #[source] io::Error),
    /// `nft` isn't there.
    #[error("nft can't be run; install the package nftables on the node")]
    NoNft(#[source] io::Error),
    /// `nft` failed.
    #[error("nft refused the pod's NAT rules: {0}")]
    Nft(String),
}

fn tap_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "/dev/net/tun is missing; load the module tun",
        io::ErrorKind::ResourceBusy => "another machine is attached to it",
        _ => "can't be made",
    }
}

/// The interface that a spec asks for, or the one that every pod has: `None` if it wants none. `name` makes its
/// hardware address where the spec gives none, so that a machine keeps it.
pub fn plan(spec: Option<&VirtualMachineInstanceSpec>, name: &str) -> Option<Binding> {
    let default = VirtualMachineInstanceSpec::default();
    // Validation allows one.
    let spec = spec.unwrap_or(&default);
    let interface = spec.interfaces().into_iter().find(|interface| interface.state.as_deref() != Some("absent"))?;
    let several = spec.domain.devices.network_interface_multiqueue == Some(true);
    // A pair for each vCPU, as far as a card has them. Drivers leave aside what is more.
    let vcpus = spec.domain.vcpus().and_then(|vcpus| usize::try_from(vcpus).ok()).unwrap_or(MAX_PAIRS);
    let queues = if several { vcpus.clamp(1, MAX_PAIRS) } else { 1 };
    let ports = interface.ports.iter().filter_map(|port| {
        let protocol = if port.protocol.as_deref() == Some("UDP") { Protocol::Udp } else { Protocol::Tcp };
        Some(Port { protocol, number: u16::try_from(port.port).ok()? })
    });
    let mac = interface.mac_address.as_deref().and_then(parse_mac).unwrap_or_else(|| mac_of(name));
    let link_up = interface.state.as_deref() != Some("down");
    Some(Binding { ports: ports.collect(), name: interface.name, mac, queues, link_up })
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

/// An interface whose host side is there. Dropped, its NAT rules are gone, and the tap too once the VMM has ended.
#[derive(Debug)]
pub struct Attachment {
    netns: PathBuf,
    name: String,
    taps: Vec<File>,
    link_up: bool,
    mac: [u8; 6],
    mtu: u16,
}

impl Attachment {
    /// The interface for the machine; it shares the tap.
    pub fn nic(&self) -> io::Result<PlannedNic> {
        let taps = self.taps.iter().map(File::try_clone).collect::<io::Result<_>>()?;
        Ok(PlannedNic { name: self.name.clone(), taps, link_up: self.link_up, mac: self.mac, mtu: Some(self.mtu) })
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // The namespace may be gone already, and the table with it.
        if let Err(error) = netns::within(&self.netns, masquerade::remove) {
            log::debug!("NAT rules of {}: {error}", self.netns.display());
        }
    }
}

/// Attaches the guest to the pod's network namespace at `netns`. What an earlier machine of the same pod left there is
/// replaced. Runs `nft`, and takes some milliseconds.
pub fn attach(netns: &Path, binding: &Binding) -> Result<Attachment, NetworkError> {
    let (taps, mtu) = netns::within(netns, || {
        let mtu = link::uplink_mtu()?;
        let taps = open_tap(TAP, binding.queues).map_err(NetworkError::Tap)?;
        link::configure(TAP, GATEWAY_ADDRESS, PREFIX_LEN, mtu)?;
        masquerade::apply(TAP, &binding.ports)?;
        Ok((taps, mtu))
    })?;
    let Binding { name, mac, link_up, .. } = binding.clone();
    Ok(Attachment { netns: netns.to_owned(), name, taps, link_up, mac, mtu })
}
