//! The pod's network, as the guest gets it.
//!
//! `masquerade` (KubeVirt's default): the guest sits behind the pod's addresses, in a network of its own. What it sends
//! leaves with the pod's address; what reaches the pod, on any port or on those that the interface lists, goes on to the
//! guest, and so does what is sent to the pod's loopback address, which is where a port-forward arrives.
//!
//! ```text
//!  eth0 (pod's IP)  <── masquerade ──  tap0 10.0.2.1/24 ═══ virtio-net ═══ guest 10.0.2.2
//!                   ──  dnat       ──>      fd10:0:2::1/120                      fd10:0:2::2
//! ```
//!
//! `bridge`: the guest stands in the place of the pod's interface, with its hardware and IP addresses; frames pass between
//! interface and tap untouched (nftables' `fwd`, where frames enter: the same hook as tc's redirect).
//!
//! A guest sends with its own addresses only ([`rules`]). A tap lives as long as a descriptor of it is open
//! ([`Attachment`]'s, then the VMM's) and comes up only when its rules are there; the rules go with the [`Attachment`], and
//! all of it with the namespace at the latest.

mod lease;
mod link;
mod netns;
mod nft;
mod plan;
mod relay;
mod rules;
#[cfg(test)]
mod tests;
mod vhost;

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use tokio::task::JoinHandle;
use vireo_runtimeclass::validate::GATEWAY_MAC;
use vireo_vmm::config::AutoconfAnswers;
use vireo_vmm::tap::{open_requests, open_tap};

pub use lease::Names;
use link::TapSetup;
pub use link::{PodLink, PodRoute};
pub use plan::{Attached, Binding, NetworkStatus, NicPlan, Port, Protocol, Side, Wish, wishes};
use relay::Relay;
pub use rules::Policy;
pub use vhost::accelerate;

/// Multus' word on the pod's interfaces.
const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
/// Whether Istio puts a proxy into the pod.
const ISTIO_INJECT: &str = "sidecar.istio.io/inject";
/// The gateway's link-local address under masquerade.
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// An interface whose host side is there.
#[derive(Debug)]
pub struct PlannedNic {
    /// For messages.
    pub name: String,
    /// The tap's queues.
    pub taps: Vec<File>,
    /// A `/dev/vhost-net` for each of them, or none.
    pub vhosts: Vec<File>,
    /// Its cable is plugged in.
    pub link_up: bool,
    /// The guest's hardware address.
    pub mac: [u8; 6],
    /// The MTU of the path, bytes.
    pub mtu: Option<u16>,
    /// The guest's IPv4 address in the kernel's own words (Linux `nfsroot.rst`, `ip=`), if it is known.
    pub ip_argument: Option<String>,
    /// What it is told when it asks, and over which socket.
    pub autoconf: Option<(OwnedFd, AutoconfAnswers)>,
}

/// What a pod says about its network beside its VMI.
#[derive(Debug, Clone, Default)]
pub struct PodFacts {
    /// What Multus has attached.
    pub status: NetworkStatus,
    /// What the rules depend on.
    pub policy: Policy,
    /// Names and servers that guests are told.
    pub names: Names,
}

impl PodFacts {
    /// Reads them from a container's spec, and names where that has none from its sandbox's; `allow_spoofing` is the node's.
    pub fn read(oci: &Spec, sandbox: Option<&Spec>, allow_spoofing: bool) -> Result<Self, NetworkError> {
        let annotation = |key| oci.annotations().as_ref().and_then(|annotations| annotations.get(key));
        let status = annotation(NETWORK_STATUS).map(|json| serde_json::from_str(json)).transpose();
        let istio = annotation(ISTIO_INJECT).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        Ok(Self {
            status: status.map_err(NetworkError::Status)?.unwrap_or_default(),
            policy: Policy { istio, allow_spoofing },
            names: Names::of(&std::iter::once(oci).chain(sandbox).collect::<Vec<_>>()),
        })
    }
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
    /// Multus' annotation can't be read.
    #[error("annotation {NETWORK_STATUS}")]
    Status(#[source] serde_json::Error),
    /// Multus has not attached a network.
    #[error(
        "network {network:?}: the pod has no interface {interface} on {definition}; \
         attach it with the annotation k8s.v1.cni.cncf.io/networks and that name, and see that Multus runs"
    )]
    NoInterface {
        /// The VMI's network.
        network: String,
        /// Its definition.
        definition: String,
        /// What KubeVirt calls the pod's interface.
        interface: String,
    },
    /// Two networks are the same interface.
    #[error("networks {first:?} and {second:?} are both the pod's interface {interface}; attach one for each")]
    Taken {
        /// The interface.
        interface: String,
        /// Who has it.
        first: String,
        /// Who wants it.
        second: String,
    },
    /// Two interfaces with one hardware address.
    #[error("interfaces {first:?} and {second:?} have the same macAddress; give one of them another")]
    OneMac {
        /// Who has it.
        first: String,
        /// Who wants it.
        second: String,
    },
    /// An interface's name would garble the rules.
    #[error("the pod's interface {0:?}: its name has other characters than letters, digits, '.', '_' and '-'")]
    Name(String),
    /// The guest's network collides with the pod's.
    #[error("the pod's network {pod} and the guest's own, {guest}, overlap; choose another one as {field}")]
    Collision {
        /// The pod's.
        pod: String,
        /// The guest's.
        guest: String,
        /// Where to say so.
        field: &'static str,
    },
    /// The tap can't be made.
    #[error("{name} in the pod's network namespace: {hint}", hint = tap_hint(.source))]
    Tap {
        /// The tap.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
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

/// Interfaces whose host sides are there. Dropped, their rules are gone, and the taps too once the VMM has ended.
#[derive(Debug)]
pub struct Attachment {
    netns: PathBuf,
    nics: Vec<AttachedNic>,
    relays: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct AttachedNic {
    plan: NicPlan,
    taps: Vec<File>,
    relay: Option<Relay>,
    autoconf: Option<(OwnedFd, AutoconfAnswers)>,
}

impl Attachment {
    /// The interfaces for the machine; it shares the taps, and answers what its guest asks.
    pub fn nics(&mut self) -> io::Result<Vec<PlannedNic>> {
        let nic = |AttachedNic { plan, taps, autoconf, .. }: &mut AttachedNic| {
            Ok(PlannedNic {
                name: plan.name.clone(),
                taps: taps.iter().map(File::try_clone).collect::<io::Result<_>>()?,
                vhosts: Vec::new(),
                link_up: plan.link_up,
                mac: plan.mac,
                mtu: Some(plan.uplink.mtu),
                ip_argument: ip_argument(&plan.side),
                autoconf: autoconf.take(),
            })
        };
        self.nics.iter_mut().map(nic).collect()
    }

    /// Carries the guest's questions to the machine, and its answers back, from now on. Needs a tokio runtime.
    pub fn serve(&mut self) -> io::Result<()> {
        for relay in self.nics.iter_mut().filter_map(|nic| nic.relay.take()) {
            self.relays.push(relay.start()?);
        }
        Ok(())
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.relays.iter().for_each(JoinHandle::abort);
        // The namespace may be gone already, and the tables with it.
        if let Err(error) = netns::within(&self.netns, || nft::apply(rules::REMOVE)) {
            log::debug!("rules of {}: {error}", self.netns.display());
        }
    }
}

/// Attaches the guest to the pod's network namespace at `netns`. What an earlier machine of the same pod left there is
/// replaced. Runs `nft`, and takes some milliseconds.
///
/// # Errors
/// The first thing that stands in the way. Nothing is left behind then but settings of the namespace.
pub fn attach(netns: &Path, wishes: &[Wish], facts: &PodFacts) -> Result<Attachment, NetworkError> {
    netns::within(netns, || {
        let links = link::observe(is_tap)?;
        let plans = plan::plan(wishes, &links, &facts.status)?;
        if let Some(plan) = plans.iter().find(|plan| !plain(&plan.uplink.name)) {
            return Err(NetworkError::Name(plan.uplink.name.clone()));
        }
        let with_taps = |plan: NicPlan| match open_tap(&plan.tap, plan.queues) {
            Ok(taps) => Ok(AttachedNic { plan, taps, relay: None, autoconf: None }),
            Err(source) => Err(NetworkError::Tap { name: plan.tap, source }),
        };
        let nics = plans.into_iter().map(with_taps).collect::<Result<_, _>>()?;
        // Nobody else has the taps: from here on a failure takes the rules away again.
        let mut attachment = Attachment { netns: netns.to_owned(), nics, relays: Vec::new() };
        let indices = attachment.nics.iter().map(|nic| set_up(&nic.plan)).collect::<Result<Vec<_>, _>>()?;
        let plans: Vec<_> = attachment.nics.iter().map(|nic| nic.plan.clone()).collect();
        nft::apply(&rules::rules(&plans, facts.policy))?;
        for (number, (nic, index)) in attachment.nics.iter_mut().zip(&indices).enumerate() {
            if let Some(answers) = lease::answers(&nic.plan, number, &facts.names) {
                let failed = |error| NetworkError::Io("the socket for a guest's DHCP requests can't be had", error);
                let (relay, socket) = open_requests(*index).and_then(Relay::new).map_err(failed)?;
                (nic.relay, nic.autoconf) = (Some(relay), Some((socket, answers)));
            }
        }
        for (nic, index) in attachment.nics.iter().zip(indices) {
            link::bring_up(index)?;
            if matches!(nic.plan.side, Side::Masquerade { ipv6: Some(_), .. }) {
                link::answer_loopback(index)?;
            }
        }
        Ok(attachment)
    })
}

/// A name that means nothing but itself to nft.
fn plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Gives a tap its addresses, and the kernel's number of it.
fn set_up(plan: &NicPlan) -> Result<u32, NetworkError> {
    let mut setup = TapSetup { name: &plan.tap, mac: GATEWAY_MAC, mtu: plan.uplink.mtu, ipv4: None, ipv6: &[] };
    let Side::Masquerade { ipv4, ipv6, .. } = &plan.side else { return link::configure(&setup) };
    setup.ipv4 = ipv4.map(|cidr| (cidr.nth(1), cidr.prefix_len));
    let addresses = ipv6.map(|cidr| [(LINK_LOCAL, 64), (cidr.nth(1), cidr.prefix_len)]);
    setup.ipv6 = addresses.as_ref().map_or(&[], |addresses| addresses);
    let index = link::configure(&setup)?;
    link::forward(&plan.tap, &plan.uplink.name, ipv6.is_some())?;
    Ok(index)
}

fn is_tap(name: &str) -> bool {
    let hashed = |hash: &str| hash.len() == 11 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    name == plan::PRIMARY_TAP || name.strip_prefix("tap").is_some_and(hashed)
}

fn ip_argument(side: &Side) -> Option<String> {
    let Side::Masquerade { ipv4: Some(cidr), .. } = side else { return None };
    let mask = Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(cidr.prefix_len)).unwrap_or(0));
    Some(format!("ip={}::{}:{mask}::eth0:off", cidr.nth(2), cidr.nth(1)))
}
