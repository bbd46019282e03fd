//! vhost-net: the host's kernel moves a guest's packets, where the node has it. The VMM opens nothing; it is handed a descriptor for each
//! queue pair, and moves the packets itself without.
//!
//! A descriptor holds the memory of the process that uses it: none may stay here.

use std::fs::{File, OpenOptions};
use std::io;

use vireo_runtimeclass::RateLimits;

use super::PlannedNic;
use crate::node_config::NodeConfig;

const DEVICE: &str = "/dev/vhost-net";

/// Gives each interface that may have them its descriptors. Why one has none is logged.
pub fn accelerate(nics: &mut [PlannedNic], limits: &RateLimits, node: &NodeConfig) {
    for nic in nics {
        let opened = match refusal(&nic.name, limits, node) {
            Some(reason) => Err(reason.to_owned()),
            None => open(nic.taps.len()).map_err(|error| format!("{DEVICE}: {}", hint(&error))),
        };
        match opened {
            Ok(vhosts) => nic.vhosts = vhosts,
            Err(reason) => log::info!("interface {}: no vhost-net: {reason}; the VMM moves its packets", nic.name),
        }
    }
}

/// Why an interface isn't to have it, whether or not the node does.
fn refusal(name: &str, limits: &RateLimits, node: &NodeConfig) -> Option<&'static str> {
    if node.vhost_net == Some(false) {
        return Some("the node's configuration says vhostNet: false");
    }
    limits.interfaces.contains_key(name).then_some("the interface has a rate limit, which the kernel doesn't know")
}

/// The kernel loads the module when the device is opened, if it finds one.
fn open(pairs: usize) -> io::Result<Vec<File>> {
    (0..pairs).map(|_| OpenOptions::new().read(true).write(true).open(DEVICE)).collect()
}

fn hint(error: &io::Error) -> String {
    let why = match error.raw_os_error() {
        Some(libc::ENOENT) => "isn't there",
        Some(libc::ENODEV | libc::ENXIO) => "nothing is behind it",
        _ => return error.to_string(),
    };
    format!("{why}; the module vhost_net isn't loaded")
}

#[cfg(test)]
mod tests {
    use vireo_runtimeclass::parse_rate_limits;

    use super::*;

    #[test]
    fn an_interface_with_a_limit_has_none_nor_has_any_where_the_node_says_so() {
        let limits = parse_rate_limits(r#"{"interfaces": {"default": {}}}"#).unwrap();
        let node = |vhost_net| NodeConfig { vhost_net, ..NodeConfig::default() };
        assert_eq!(refusal("other", &limits, &node(None)), None);
        assert_eq!(refusal("other", &limits, &node(Some(true))), None);
        assert!(refusal("default", &limits, &node(None)).unwrap().contains("rate limit"));
        assert!(refusal("other", &limits, &node(Some(false))).unwrap().contains("vhostNet: false"));
    }

    #[test]
    fn a_device_that_is_not_there_is_told_from_one_that_does_not_open() {
        let told = |errno| hint(&io::Error::from_raw_os_error(errno));
        assert_eq!(told(libc::ENOENT), "isn't there; the module vhost_net isn't loaded");
        assert_eq!(told(libc::ENODEV), "nothing is behind it; the module vhost_net isn't loaded");
        assert!(told(libc::EACCES).starts_with("Permission denied"));
    }
}
