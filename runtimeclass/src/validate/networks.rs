//! Rules on interfaces and networks.

use super::Rules;
use crate::kubevirt::v1::{Interface, VirtualMachineInstanceSpec};

pub(super) fn check(spec: &VirtualMachineInstanceSpec, rules: &mut Rules<'_>) {
    let (interfaces, networks) = (spec.interfaces(), spec.networks());
    for (index, interface) in interfaces.iter().enumerate() {
        let at = format!("domain.devices.interfaces[{index}]");
        if !networks.iter().any(|network| network.name == interface.name) {
            rules.refuse(format_args!("{at}.name"), format!("no network is named {:?}", interface.name));
        }
        if interface.masquerade.is_none() {
            rules.refuse(&at, "has no binding; masquerade is supported");
        }
        check_interface(interface, &at, rules);
    }
    for (index, network) in networks.iter().enumerate() {
        if network.pod.is_none() {
            rules.refuse(format_args!("networks[{index}]"), "has no source; pod is supported");
        }
        if !interfaces.iter().any(|interface| interface.name == network.name) {
            rules.refuse(format_args!("networks[{index}].name"), format!("no interface is named {:?}", network.name));
        }
    }
    if interfaces.len() > 1 {
        rules.refuse("domain.devices.interfaces[1]", "not supported by vireo; a pod network gives one interface");
    }
    if networks.len() > 1 {
        rules.refuse("networks[1]", "not supported by vireo; there is one pod network");
    }
}

fn check_interface(interface: &Interface, at: &str, rules: &mut Rules<'_>) {
    if let Some(model) = interface.model.as_deref().filter(|model| *model != "virtio") {
        rules.refuse(format_args!("{at}.model"), format!("{model:?} is not supported by vireo; virtio is"));
    }
    if let Some(state) = interface.state.as_deref().filter(|state| !matches!(*state, "" | "up" | "down" | "absent")) {
        rules.refuse(
            format_args!("{at}.state"),
            format!("{state:?} is not supported by vireo; up, down and absent are"),
        );
    }
    if let Some(text) = &interface.mac_address
        && parse_mac(text).is_none()
    {
        let what = format!("{text:?} is no unicast hardware address, such as 02:00:00:12:34:56");
        rules.refuse(format_args!("{at}.macAddress"), what);
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
