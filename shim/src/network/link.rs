//! Interfaces of the calling thread's network namespace, over rtnetlink.

use std::net::{IpAddr, Ipv4Addr};
use std::{fs, io};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::{Handle, LinkUnspec, new_connection};

use super::{GATEWAY_ADDRESS, NetworkError, PREFIX_LEN, TAP};

/// An interface's MTU where the kernel names none that fits.
const DEFAULT_MTU: u16 = 1500;

/// The smallest MTU of the pod's own interfaces, bytes. The pod's addresses are checked against the guest's network.
pub(super) fn uplink_mtu() -> Result<u16, NetworkError> {
    block_on(async |handle| {
        let failed = |error| NetworkError::Link("the pod's interfaces can't be listed", error);
        let links: Vec<_> = handle.link().get().execute().try_collect().await.map_err(failed)?;
        let mut uplinks = Vec::new();
        let mut mtu = None;
        for link in links {
            let is_tap = link.attributes.iter().any(|a| matches!(a, LinkAttribute::IfName(name) if name == TAP));
            // Tunnels that the kernel makes by itself are down.
            if is_tap || link.header.flags.contains(LinkFlags::Loopback) || !link.header.flags.contains(LinkFlags::Up) {
                continue;
            }
            uplinks.push(link.header.index);
            let own = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Mtu(mtu) => u16::try_from(*mtu).ok(),
                _ => None,
            });
            mtu = Some(mtu.unwrap_or(u16::MAX).min(own.unwrap_or(DEFAULT_MTU)));
        }
        let mtu = mtu.ok_or(NetworkError::NoUplink)?;
        let addresses: Vec<_> = handle.address().get().execute().try_collect().await.map_err(failed)?;
        for address in addresses.iter().filter(|address| uplinks.contains(&address.header.index)) {
            for attribute in &address.attributes {
                if let AddressAttribute::Address(IpAddr::V4(own)) = attribute
                    && network_of(*own) == network_of(GATEWAY_ADDRESS)
                {
                    return Err(NetworkError::Collision(*own));
                }
            }
        }
        Ok(mtu)
    })
}

fn network_of(address: Ipv4Addr) -> u32 {
    address.to_bits() >> (32 - PREFIX_LEN)
}

/// Gives `name` an address and brings it up, forwards between it and the pod's interfaces, and lets what is sent to the
/// pod's loopback address go out on it.
pub(super) fn configure(name: &str, address: Ipv4Addr, prefix_len: u8, mtu: u16) -> Result<(), NetworkError> {
    let sysctl = |key: String, value: &str| match fs::write(format!("/proc/sys/net/{key}"), value) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(NetworkError::Io("the pod's network settings can't be changed", error))
        }
        _ => Ok(()),
    };
    // Before it is up, so that it never speaks IPv6 of itself.
    sysctl(format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
    sysctl(format!("ipv4/conf/{name}/route_localnet"), "1")?;
    sysctl("ipv4/ip_forward".to_owned(), "1")?;
    block_on(async |handle| {
        let failed = |error| NetworkError::Link("the guest's tap can't be configured", error);
        let mut links = handle.link().get().match_name(name).execute();
        let index = links.try_next().await.map_err(failed)?.ok_or(NetworkError::NoUplink)?.header.index;
        handle.address().add(index, IpAddr::V4(address), prefix_len).replace().execute().await.map_err(failed)?;
        let up = LinkUnspec::new_with_index(index).mtu(mtu.into()).up().build();
        handle.link().set(up).execute().await.map_err(failed)
    })
}

/// Runs `work` with a netlink socket of the calling thread's network namespace.
fn block_on<T>(work: impl AsyncFnOnce(Handle) -> Result<T, NetworkError>) -> Result<T, NetworkError> {
    let failed = |error| NetworkError::Io("rtnetlink can't be reached", error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    runtime.block_on(async {
        let (connection, handle, _) = new_connection().map_err(failed)?;
        tokio::spawn(connection);
        work(handle).await
    })
}
