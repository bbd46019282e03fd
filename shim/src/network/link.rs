//! Interfaces of the calling thread's network namespace, over rtnetlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{fs, io};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder, new_connection};
use vireo_runtimeclass::Cidr;

use super::NetworkError;

/// An interface's MTU where the kernel names none that fits.
const DEFAULT_MTU: u16 = 1500;

/// The kernel's table of its own addresses (rtnetlink(7), `RT_TABLE_LOCAL`).
const LOCAL_TABLE: u32 = 255;

/// An interface that the pod has, other than its loopback and Vireo's taps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLink {
    /// The kernel's number of it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Bytes.
    pub mtu: u16,
    /// Whether it is up.
    pub up: bool,
    /// Its addresses, each with the length of its prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Its IPv4 routes, without those that its addresses make.
    pub routes: Vec<PodRoute>,
}

/// An IPv4 route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRoute {
    /// Whereto.
    pub to: Cidr<Ipv4Addr>,
    /// By which neighbour; `None` if it is on the link.
    pub via: Option<Ipv4Addr>,
}

/// What the pod has. `is_ours` tells the names of taps that an earlier machine may have left.
pub(super) fn observe(is_ours: impl Fn(&str) -> bool) -> Result<Vec<PodLink>, NetworkError> {
    block_on(async |handle| {
        let failed = |error| NetworkError::Link("the pod's interfaces can't be listed", error);
        let messages: Vec<_> = handle.link().get().execute().try_collect().await.map_err(failed)?;
        let mut links = Vec::new();
        for message in messages {
            let flags = message.header.flags;
            let mut link = PodLink {
                index: message.header.index,
                name: String::new(),
                mac: [0; 6],
                mtu: DEFAULT_MTU,
                up: flags.contains(LinkFlags::Up),
                addresses: Vec::new(),
                routes: Vec::new(),
            };
            for attribute in message.attributes {
                match attribute {
                    LinkAttribute::IfName(name) => link.name = name,
                    LinkAttribute::Mtu(mtu) => link.mtu = u16::try_from(mtu).unwrap_or(DEFAULT_MTU),
                    LinkAttribute::Address(address) => link.mac = address.try_into().unwrap_or_default(),
                    _ => {}
                }
            }
            if !flags.contains(LinkFlags::Loopback) && !is_ours(&link.name) {
                links.push(link);
            }
        }
        let addresses: Vec<_> = handle.address().get().execute().try_collect().await.map_err(failed)?;
        for message in addresses {
            let Some(link) = links.iter_mut().find(|link| link.index == message.header.index) else { continue };
            for attribute in &message.attributes {
                if let AddressAttribute::Address(address) = attribute {
                    link.addresses.push((*address, message.header.prefix_len));
                }
            }
        }
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes: Vec<_> = handle.route().get(all).execute().try_collect().await.map_err(failed)?;
        for message in &routes {
            if let Some((index, route)) = static_route(message)
                && let Some(link) = links.iter_mut().find(|link| link.index == index)
            {
                link.routes.push(route);
            }
        }
        Ok(links)
    })
}

/// A unicast route of the main table that somebody has set, and its interface.
fn static_route(message: &RouteMessage) -> Option<(u32, PodRoute)> {
    let header = &message.header;
    let is_main = header.table == RouteHeader::RT_TABLE_MAIN && header.kind == RouteType::Unicast;
    if !is_main || header.protocol == RouteProtocol::Kernel {
        return None;
    }
    let (mut index, mut to, mut via) = (None, Ipv4Addr::UNSPECIFIED, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = Some(*address),
            _ => {}
        }
    }
    Some((index?, PodRoute { to: Cidr::of(to, header.destination_prefix_length), via }))
}

/// What a tap becomes. It stays down.
#[derive(Debug)]
pub(super) struct TapSetup<'a> {
    pub(super) name: &'a str,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u16,
    pub(super) ipv4: Option<(Ipv4Addr, u8)>,
    pub(super) ipv6: &'a [(Ipv6Addr, u8)],
}

/// Gives a tap its addresses. Returns the kernel's number of it.
pub(super) fn configure(setup: &TapSetup<'_>) -> Result<u32, NetworkError> {
    let name = setup.name;
    // Of itself it says nothing, and believes nobody.
    sysctl(&format!("ipv6/conf/{name}/addr_gen_mode"), "1")?;
    sysctl(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
    sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), if setup.ipv6.is_empty() { "1" } else { "0" })?;
    block_on(async |handle| {
        let failed = |error| NetworkError::Link("the guest's tap can't be configured", error);
        let index = index_of(&handle, name).await?;
        let change = LinkUnspec::new_with_index(index).mtu(setup.mtu.into()).address(setup.mac.to_vec()).build();
        handle.link().set(change).execute().await.map_err(failed)?;
        let ipv4 = setup.ipv4.iter().map(|(address, len)| (IpAddr::V4(*address), *len));
        let ipv6 = setup.ipv6.iter().map(|(address, len)| (IpAddr::V6(*address), *len));
        for (address, len) in ipv4.chain(ipv6) {
            let mut request = handle.address().add(index, address, len).replace();
            if address.is_ipv6() {
                // Nobody else can have it, and it is needed at once.
                request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
            request.execute().await.map_err(failed)?;
        }
        Ok(index)
    })
}

/// Lets the pod's namespace forward between `uplink` and the tap, and lets what is sent to the pod's loopback address go out on
/// the tap.
pub(super) fn forward(tap: &str, uplink: &str, ipv6: bool) -> Result<(), NetworkError> {
    sysctl(&format!("ipv4/conf/{tap}/route_localnet"), "1")?;
    sysctl("ipv4/ip_forward", "1")?;
    if ipv6 {
        // A router forgets what it was advertised, unless told otherwise.
        let key = format!("ipv6/conf/{uplink}/accept_ra");
        if fs::read_to_string(format!("/proc/sys/net/{key}")).is_ok_and(|text| text.trim() == "1") {
            sysctl(&key, "2")?;
        }
        sysctl("ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

/// Brings an interface up.
pub(super) fn bring_up(index: u32) -> Result<(), NetworkError> {
    block_on(async |handle| {
        let up = LinkUnspec::new_with_index(index).up().build();
        let failed = |error| NetworkError::Link("the guest's tap can't be brought up", error);
        handle.link().set(up).execute().await.map_err(failed)
    })
}

/// Lets what answers the pod's IPv6 loopback address come in on a tap that is up. Linux takes what is
/// sent to this address only from an interface that has a route to it, and has no `route_localnet` for IPv6; what comes off the wire
/// with this address is dropped all the same. The route goes with the tap.
pub(super) fn answer_loopback(index: u32) -> Result<(), NetworkError> {
    block_on(async |handle| {
        let route = RouteMessageBuilder::<Ipv6Addr>::new().kind(RouteType::Local).table_id(LOCAL_TABLE);
        let route = route.destination_prefix(Ipv6Addr::LOCALHOST, 128).output_interface(index).build();
        let failed = |error| NetworkError::Link("the pod's loopback address can't be led to the guest", error);
        handle.route().add(route).execute().await.map_err(failed)
    })
}

/// Sets a key below `/proc/sys/net`; one that isn't there is of no matter.
fn sysctl(key: &str, value: &str) -> Result<(), NetworkError> {
    match fs::write(format!("/proc/sys/net/{key}"), value) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(NetworkError::Io("the pod's network settings can't be changed", error))
        }
        _ => Ok(()),
    }
}

async fn index_of(handle: &Handle, name: &str) -> Result<u32, NetworkError> {
    let failed = |error| NetworkError::Link("the guest's tap can't be found", error);
    let mut links = handle.link().get().match_name(name).execute();
    Ok(links.try_next().await.map_err(failed)?.ok_or(NetworkError::NoUplink)?.header.index)
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
