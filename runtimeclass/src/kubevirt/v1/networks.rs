//! Interfaces, and the networks they attach to.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::Cidr;

/// A network interface of the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Interface {
    /// The network it attaches to.
    pub name: String,
    /// Behind the pod's address, by NAT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<InterfaceMasquerade>,
    /// In the place of the pod's interface, with its hardware address and its IP addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<InterfaceBridge>,
    /// `up` (also where left out), `down` (its cable is pulled), or `absent` (it isn't there).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// `virtio`, also where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The guest's hardware address; where left out, one made from the machine's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    /// The ports of the pod that reach the guest; all where left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// What DHCP tells beside the network's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp_options: Option<DhcpOptions>,
    /// Its place in the boot order, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_order: Option<u32>,
}

impl Interface {
    /// An interface on the network `name`.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

/// What DHCPv4 tells a guest beside its network's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DhcpOptions {
    /// What to boot: option 67.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_file_name: Option<String>,
    /// Who has it: option 66.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tftp_server_name: Option<String>,
    /// Who tells the time, IPv4 addresses: option 42.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ntp_servers: Vec<String>,
    /// Options of one's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private_options: Vec<DhcpPrivateOption>,
}

/// An option of one's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DhcpPrivateOption {
    /// 224 to 254 (RFC 3942).
    pub option: u32,
    /// Its bytes.
    pub value: String,
}

/// NAT between the pod's address and the guest's; it has no options.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct InterfaceMasquerade {}

/// The guest stands where the pod's interface is; it has no options.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct InterfaceBridge {}

/// A port of the pod that is passed on to the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(clippy::struct_field_names, reason = "KubeVirt's names")]
pub struct Port {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `TCP` (also where left out) or `UDP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Its number.
    pub port: u32,
}

/// A network that an interface attaches to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Network {
    /// Joins it with an interface.
    pub name: String,
    /// The pod's own network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodNetwork>,
    /// A network that Multus gives the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multus: Option<MultusNetwork>,
}

impl Network {
    /// It is the network that every pod has, be it the cluster's or the one that Multus gives it instead.
    pub fn is_pods_own(&self) -> bool {
        self.pod.is_some() || self.multus.as_ref().is_some_and(|multus| multus.default == Some(true))
    }
}

/// The pod's own network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodNetwork {
    /// The guest's own IPv4 network under masquerade: [`DEFAULT_CIDR`] where left out.
    #[serde(default, rename = "vmNetworkCIDR", skip_serializing_if = "Option::is_none")]
    pub vm_network_cidr: Option<String>,
    /// Its IPv6 network: [`DEFAULT_IPV6_CIDR`] where left out.
    #[serde(default, rename = "vmIPv6NetworkCIDR", skip_serializing_if = "Option::is_none")]
    pub vm_ipv6_network_cidr: Option<String>,
}

/// The IPv4 network of masqueraded guests.
pub const DEFAULT_CIDR: &str = "10.0.2.0/24";
/// Their IPv6 network.
pub const DEFAULT_IPV6_CIDR: &str = "fd10:0:2::/120";

impl PodNetwork {
    /// The guest's own IPv4 network; `None` where what is written is none.
    pub fn ipv4(&self) -> Option<Cidr<Ipv4Addr>> {
        self.vm_network_cidr.as_deref().unwrap_or(DEFAULT_CIDR).parse().ok()
    }

    /// Its IPv6 network; `None` where what is written is none.
    pub fn ipv6(&self) -> Option<Cidr<Ipv6Addr>> {
        self.vm_ipv6_network_cidr.as_deref().unwrap_or(DEFAULT_IPV6_CIDR).parse().ok()
    }
}

/// A network that Multus gives the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MultusNetwork {
    /// The `NetworkAttachmentDefinition`: `name` or `namespace/name`.
    pub network_name: String,
    /// It is the pod's own network, in the place of the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<bool>,
}
