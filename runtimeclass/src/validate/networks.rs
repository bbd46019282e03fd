//! Rules on interfaces and networks.

use std::net::Ipv4Addr;

use super::Rules;
use crate::kubevirt::v1::{
    DEFAULT_CIDR, DEFAULT_IPV6_CIDR, DhcpOptions, DhcpPrivateOption, Interface, Network, VirtualMachineInstanceSpec,
};

/// Bytes of a DHCP option (RFC 2132), and of all that a user may add.
const MAX_DHCP_OPTION: usize = 255;
const MAX_DHCP_OPTIONS: usize = 512;

/// The hardware address of a guest's gateway, as KubeVirt has it: no guest's.
pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0];

pub(super) fn check(spec: &VirtualMachineInstanceSpec, rules: &mut Rules<'_>) {
    let (interfaces, networks) = (spec.interfaces(), spec.networks());
    for (index, interface) in interfaces.iter().enumerate() {
        let at = format!("domain.devices.interfaces[{index}]");
        if !networks.iter().any(|network| network.name == interface.name) {
            rules.refuse(format_args!("{at}.name"), format!("no network is named {:?}", interface.name));
        }
        check_interface(interface, &at, rules);
    }
    for (index, network) in networks.iter().enumerate() {
        check_network(network, index, rules);
        let bound: Vec<_> = interfaces.iter().filter(|interface| interface.name == network.name).collect();
        match bound.len() {
            0 => {
                let what = format!("no interface is named {:?}", network.name);
                rules.refuse(format_args!("networks[{index}].name"), what);
            }
            1 => {}
            _ => rules.refuse(format_args!("networks[{index}]"), "has several interfaces; one is supported"),
        }
        if networks[..index].iter().any(|other| other.name == network.name) {
            rules.refuse(format_args!("networks[{index}].name"), format!("{:?} is there twice", network.name));
        }
        if bound.iter().any(|interface| interface.masquerade.is_some()) && !network.is_pods_own() {
            let what = "is bound by masquerade, which only the pod's own network is; bridge is supported";
            rules.refuse(format_args!("networks[{index}]"), what);
        }
    }
    if let Some(index) = networks.iter().skip(1).position(Network::is_pods_own)
        && networks[..=index].iter().any(Network::is_pods_own)
    {
        rules.refuse(format_args!("networks[{}]", index + 1), "is a second pod network; a pod has one");
    }
    for (index, interface) in interfaces.iter().enumerate() {
        let Some(mac) = interface.mac_address.as_deref().and_then(parse_mac) else { continue };
        let same = |other: &Interface| other.mac_address.as_deref().and_then(parse_mac) == Some(mac);
        if let Some(other) = interfaces[..index].iter().position(same) {
            let what = format!("is the address of domain.devices.interfaces[{other}] already");
            rules.refuse(format_args!("domain.devices.interfaces[{index}].macAddress"), what);
        }
    }
}

fn check_network(network: &Network, index: usize, rules: &mut Rules<'_>) {
    let at = format!("networks[{index}]");
    match (&network.pod, &network.multus) {
        (None, None) => rules.refuse(&at, "has no source; pod and multus are supported"),
        (Some(_), Some(_)) => rules.refuse(&at, "has two sources, pod and multus; name one of them"),
        (Some(pod), None) => {
            if pod.ipv4().is_none_or(|cidr| cidr.prefix_len > 30) {
                let text = pod.vm_network_cidr.as_deref().unwrap_or_default();
                let what = format!("{text:?} is no IPv4 network with room for a guest, such as {DEFAULT_CIDR}");
                rules.refuse(format_args!("{at}.pod.vmNetworkCIDR"), what);
            }
            if pod.ipv6().is_none_or(|cidr| cidr.prefix_len > 126) {
                let text = pod.vm_ipv6_network_cidr.as_deref().unwrap_or_default();
                let what = format!("{text:?} is no IPv6 network with room for a guest, such as {DEFAULT_IPV6_CIDR}");
                rules.refuse(format_args!("{at}.pod.vmIPv6NetworkCIDR"), what);
            }
        }
        (None, Some(multus)) => {
            let mut parts = multus.network_name.split('/');
            if parts.clone().count() > 2 || parts.any(str::is_empty) {
                let what = format!("{:?} is neither name nor namespace/name", multus.network_name);
                rules.refuse(format_args!("{at}.multus.networkName"), what);
            }
        }
    }
}

fn check_interface(interface: &Interface, at: &str, rules: &mut Rules<'_>) {
    match (interface.masquerade, interface.bridge) {
        (None, None) => rules.refuse(at, "has no binding; masquerade and bridge are supported"),
        (Some(_), Some(_)) => rules.refuse(at, "has two bindings, masquerade and bridge; name one of them"),
        (None, Some(_)) if !interface.ports.is_empty() => {
            let what = "not supported by vireo with bridge, by which every port reaches the guest; leave it out";
            rules.refuse(format_args!("{at}.ports"), what);
        }
        _ => {}
    }
    if let Some(model) = interface.model.as_deref().filter(|model| *model != "virtio") {
        rules.refuse(format_args!("{at}.model"), format!("{model:?} is not supported by vireo; virtio is"));
    }
    if let Some(state) = interface.state.as_deref().filter(|state| !matches!(*state, "" | "up" | "down" | "absent")) {
        rules.refuse(
            format_args!("{at}.state"),
            format!("{state:?} is not supported by vireo; up, down and absent are"),
        );
    }
    let mac = interface.mac_address.as_deref().map(parse_mac);
    if mac == Some(Some(GATEWAY_MAC)) {
        let what = "is the gateway's own; choose another one";
        rules.refuse(format_args!("{at}.macAddress"), what);
    }
    if let (Some(text), Some(None)) = (&interface.mac_address, mac) {
        let what = format!("{text:?} is no unicast hardware address, such as 02:00:00:12:34:56");
        rules.refuse(format_args!("{at}.macAddress"), what);
    }
    if let Some(options) = &interface.dhcp_options {
        check_dhcp(options, &format!("{at}.dhcpOptions"), rules);
    }
    for (index, port) in interface.ports.iter().enumerate() {
        if !(1..=65535).contains(&port.port) {
            rules.refuse(format_args!("{at}.ports[{index}].port"), format!("{} is not within 1 to 65535", port.port));
        }
        if let Some(protocol) = port.protocol.as_deref().filter(|protocol| !matches!(*protocol, "TCP" | "UDP")) {
            let what = format!("{protocol:?} is not supported by vireo; TCP and UDP are");
            rules.refuse(format_args!("{at}.ports[{index}].protocol"), what);
        }
    }
}

fn check_dhcp(options: &DhcpOptions, at: &str, rules: &mut Rules<'_>) {
    let texts = [("bootFileName", &options.boot_file_name), ("tftpServerName", &options.tftp_server_name)];
    for (field, text) in texts {
        if text.as_ref().is_some_and(|text| !(1..=MAX_DHCP_OPTION).contains(&text.len())) {
            rules.refuse(format_args!("{at}.{field}"), format!("is not 1 to {MAX_DHCP_OPTION} bytes long"));
        }
    }
    for (index, server) in options.ntp_servers.iter().enumerate() {
        if server.parse::<Ipv4Addr>().is_err() {
            rules.refuse(format_args!("{at}.ntpServers[{index}]"), format!("{server:?} is no IPv4 address"));
        }
    }
    if options.ntp_servers.len() > MAX_DHCP_OPTION / 4 {
        rules.refuse(format_args!("{at}.ntpServers"), format!("more than {}", MAX_DHCP_OPTION / 4));
    }
    let private = &options.private_options;
    for (index, DhcpPrivateOption { option, value }) in private.iter().enumerate() {
        let at = format!("{at}.privateOptions[{index}]");
        if !(224..=254).contains(option) {
            rules.refuse(format_args!("{at}.option"), format!("{option} is not within 224 to 254"));
        }
        if private[..index].iter().any(|other| other.option == *option) {
            rules.refuse(format_args!("{at}.option"), format!("{option} is there already"));
        }
        if !(1..=MAX_DHCP_OPTION).contains(&value.len()) {
            rules.refuse(format_args!("{at}.value"), format!("is not 1 to {MAX_DHCP_OPTION} bytes long"));
        }
    }
    let private: usize = private.iter().map(|option| option.value.len() + 2).sum();
    let named: usize = texts.iter().filter_map(|(_, text)| text.as_ref()).map(|text| text.len() + 2).sum();
    if named + private + 4 * options.ntp_servers.len() > MAX_DHCP_OPTIONS {
        rules.refuse(at, format!("more than {MAX_DHCP_OPTIONS} bytes; no answer has room for that"));
    }
}

/// A unicast Ethernet address, its bytes separated by colons or dashes.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut mac = [0; 6];
    let mut parts = text.split(separator);
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}
