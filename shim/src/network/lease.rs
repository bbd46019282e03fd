//! What the guest is told that asks its network who it is: pure.
//!
//! The jailed VMM answers; which options there are is settled here, in the words of DHCPv4 (RFC 2132, 3397, 3442, 4702) and
//! DHCPv6 (RFC 3646).

use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use oci_spec::runtime::Spec;
use vireo_runtimeclass::kubevirt::v1::DhcpOptions;
use vireo_runtimeclass::validate::GATEWAY_MAC;
use vireo_vmm::config::{AutoconfAnswers, Ipv4Answers, Ipv6Answers, MAX_OPTIONS};

use super::LINK_LOCAL;
use super::link::PodRoute;
use super::plan::{NicPlan, Side};

/// Where the answers of a bridged interface come from, as in KubeVirt: this, and the interface's number.
const BRIDGE_SERVER: Ipv4Addr = Ipv4Addr::new(169, 254, 75, 10);

/// Names and servers of the pod's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The guest's name.
    pub hostname: Option<String>,
    /// Name servers, the first one first.
    pub servers: Vec<IpAddr>,
    /// Domains in which names are looked for.
    pub search: Vec<String>,
}

/// The longest file of a pod's `/etc` that is read, bytes.
const MAX_ETC: u64 = 64 << 10;

impl Names {
    /// What stands in a pod's `/etc`, as containerd or the pod's own volumes mount it by the first spec that does. Without it there are no names.
    pub fn of(specs: &[&Spec]) -> Self {
        let read = |path: &str| {
            let mut mounts = specs.iter().flat_map(|spec| spec.mounts().iter().flatten());
            read_small(mounts.find(|mount| mount.destination() == Path::new(path))?.source().as_ref()?)
        };
        Self::read(&read("/etc/resolv.conf").unwrap_or_default(), read("/etc/hostname").as_deref())
    }

    /// Reads a pod's `/etc/resolv.conf` (resolv.conf(5)). Servers on the pod's loopback are none to the guest.
    pub fn read(resolv_conf: &str, hostname: Option<&str>) -> Self {
        let mut names = Self { hostname: hostname.and_then(label).map(str::to_owned), ..Self::default() };
        for line in resolv_conf.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(|word| word.parse().ok());
                    names.servers.extend(server.filter(|server: &IpAddr| !server.is_loopback()));
                }
                Some("search" | "domain") => {
                    names.search = words.filter(|word| encoded(word).is_some()).map(str::to_owned).collect();
                }
                _ => {}
            }
        }
        names
    }
}

/// A regular file of few bytes: a pod may mount anything there, also what would never end.
fn read_small(path: &Path) -> Option<String> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW;
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(MAX_ETC).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// The first label of a name, if it is one (RFC 1123).
fn label(name: &str) -> Option<&str> {
    let label = name.trim().split('.').next()?;
    let fits = (1..=63).contains(&label.len());
    (fits && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')).then_some(label)
}

/// A domain as DNS writes it (RFC 1035 §3.1).
fn encoded(domain: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for label in domain.trim_end_matches('.').split('.') {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..=63).contains(len))?;
        bytes.push(len);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    (bytes.len() <= 255).then_some(bytes)
}

/// The answers of the interface `index`, if there is an address to tell.
pub(super) fn answers(nic: &NicPlan, index: usize, names: &Names) -> Option<AutoconfAnswers> {
    let (ipv4, ipv6) = match &nic.side {
        Side::Masquerade { ipv4, ipv6, .. } => {
            let ipv4 = ipv4.map(|cidr| {
                let lease =
                    Lease { address: cidr.nth(2), prefix_len: cidr.prefix_len, router: Some(cidr.nth(1)), routes: &[] };
                Ipv4Answers { address: lease.address, server: cidr.nth(1), options: options(nic, &lease, names) }
            });
            let ipv6 = ipv6.map(|cidr| Ipv6Answers {
                address: cidr.nth(2),
                prefix_len: cidr.prefix_len,
                router: LINK_LOCAL,
                mtu: nic.uplink.mtu,
                options: options_ipv6(names),
            });
            (ipv4, ipv6)
        }
        // Who answers by IPv6 on the pod's network answers the guest.
        Side::Bridge => (bridged(nic, index, names), None),
    };
    (ipv4.is_some() || ipv6.is_some()).then_some(AutoconfAnswers { server_mac: GATEWAY_MAC, ipv4, ipv6 })
}

/// The pod's own address and routes.
fn bridged(nic: &NicPlan, index: usize, names: &Names) -> Option<Ipv4Answers> {
    let (address, prefix_len) = nic.uplink.addresses.iter().find_map(|(address, len)| match address {
        IpAddr::V4(address) => Some((*address, *len)),
        IpAddr::V6(_) => None,
    })?;
    let default = nic.uplink.routes.iter().find(|route| route.to.prefix_len == 0);
    let router = default.and_then(|route| route.via);
    let lease = Lease { address, prefix_len, router, routes: &nic.uplink.routes };
    let server = Ipv4Addr::from_bits(BRIDGE_SERVER.to_bits() + u32::try_from(index).unwrap_or_default());
    Some(Ipv4Answers { address, server, options: options(nic, &lease, names) })
}

struct Lease<'a> {
    address: Ipv4Addr,
    prefix_len: u8,
    router: Option<Ipv4Addr>,
    routes: &'a [PodRoute],
}

/// The most important ones first: what has no room any more is left out.
fn options(nic: &NicPlan, lease: &Lease<'_>, names: &Names) -> Vec<(u8, Vec<u8>)> {
    let mask = u32::MAX.checked_shl(32 - u32::from(lease.prefix_len)).unwrap_or(0);
    let mut options = vec![(1, mask.to_be_bytes().to_vec()), (26, nic.uplink.mtu.to_be_bytes().to_vec())];
    options.extend(lease.router.map(|router| (3, router.octets().to_vec())));
    // Who understands these leaves the router aside, so that the default route is among them.
    if lease.routes.iter().any(|route| route.to.prefix_len > 0) {
        let route = |route: &PodRoute| {
            let bytes = usize::from(route.to.prefix_len.div_ceil(8));
            let via = route.via.unwrap_or(Ipv4Addr::UNSPECIFIED);
            [&[route.to.prefix_len][..], &route.to.network.octets()[..bytes], &via.octets()].concat()
        };
        options.push((121, lease.routes.iter().flat_map(route).collect()));
    }
    let servers: Vec<u8> = names.servers.iter().filter_map(ipv4).flat_map(|server| server.octets()).collect();
    options.push((6, servers));
    options.extend(names.hostname.iter().map(|name| (12, name.clone().into_bytes())));
    options.extend(names.search.first().map(|domain| (15, domain.clone().into_bytes())));
    options.extend(nic.dhcp.iter().flat_map(asked_for));
    options.push((119, names.search.iter().filter_map(|domain| encoded(domain)).flatten().collect()));
    let mut room = MAX_OPTIONS;
    options.retain(|(_, value)| {
        let fits = !value.is_empty() && value.len() + 2 <= room;
        room -= if fits { value.len() + 2 } else { 0 };
        fits
    });
    options
}

fn ipv4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
}

/// The spec's own.
fn asked_for(options: &DhcpOptions) -> Vec<(u8, Vec<u8>)> {
    let text = |code, text: &Option<String>| text.clone().map(|text| (code, text.into_bytes()));
    let mut list: Vec<_> =
        [text(66, &options.tftp_server_name), text(67, &options.boot_file_name)].into_iter().flatten().collect();
    let servers = options.ntp_servers.iter().filter_map(|server| server.parse::<Ipv4Addr>().ok());
    list.push((42, servers.flat_map(|server| server.octets()).collect()));
    let private = options.private_options.iter();
    list.extend(private.filter_map(|own| Some((u8::try_from(own.option).ok()?, own.value.clone().into_bytes()))));
    list
}

fn options_ipv6(names: &Names) -> Vec<(u16, Vec<u8>)> {
    let servers = names.servers.iter().filter_map(|server| match server {
        IpAddr::V6(server) => Some(server.octets()),
        IpAddr::V4(_) => None,
    });
    let mut options = vec![(23, servers.flatten().collect::<Vec<_>>())];
    options.push((24, names.search.iter().filter_map(|domain| encoded(domain)).flatten().collect()));
    let mut room = MAX_OPTIONS;
    options.retain(|(_, value)| {
        let fits = !value.is_empty() && value.len() + 4 <= room;
        room -= if fits { value.len() + 4 } else { 0 };
        fits
    });
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::PodLink;

    const RESOLV_CONF: &str = "# the cluster's\nnameserver 10.96.0.10\nnameserver 127.0.0.53\nnameserver fd00::a\n\
        search ns.svc.cluster.local svc.cluster.local ..\noptions ndots:5\n";

    fn nic(side: Side) -> NicPlan {
        let route = |to: &str, via: Option<&str>| PodRoute {
            to: to.parse().unwrap(),
            via: via.map(|via| via.parse().unwrap()),
        };
        let uplink = PodLink {
            index: 2,
            name: "eth0".into(),
            mac: [2; 6],
            mtu: 1450,
            up: true,
            addresses: vec![("fd00::5".parse().unwrap(), 64), ("10.1.2.3".parse().unwrap(), 32)],
            routes: vec![route("169.254.1.1/32", None), route("0.0.0.0/0", Some("169.254.1.1"))],
        };
        let dhcp = DhcpOptions {
            ntp_servers: vec!["10.0.0.7".into()],
            boot_file_name: Some("x".into()),
            ..DhcpOptions::default()
        };
        let (name, tap, mac) = ("n".into(), "tap0".into(), [2, 0, 0, 0, 0, 9]);
        NicPlan { name, tap, uplink, mac, queues: 1, link_up: true, side, dhcp: Some(dhcp) }
    }

    fn value<C: PartialEq + Copy>(options: &[(C, Vec<u8>)], code: C) -> Option<&[u8]> {
        options.iter().find(|option| option.0 == code).map(|option| &option.1[..])
    }

    #[test]
    fn a_masqueraded_guest_hears_of_its_own_network() {
        let (ipv4, ipv6) = (Some("10.0.2.0/24".parse().unwrap()), Some("fd10:0:2::/120".parse().unwrap()));
        let names = Names::read(RESOLV_CONF, Some("vm-1.ns\n"));
        let answers = answers(&nic(Side::Masquerade { ipv4, ipv6, ports: vec![] }), 0, &names).unwrap();
        let (ipv4, ipv6) = (answers.ipv4.unwrap(), answers.ipv6.unwrap());
        assert_eq!((ipv4.address.to_string(), ipv4.server.to_string()), ("10.0.2.2".into(), "10.0.2.1".into()));
        for (code, expected) in [
            (1, &[255, 255, 255, 0][..]),
            (3, &[10, 0, 2, 1]),
            (6, &[10, 96, 0, 10]),
            (12, b"vm-1"),
            (15, b"ns.svc.cluster.local"),
            (26, &[5, 170]),
            (42, &[10, 0, 0, 7]),
            (67, b"x"),
            (119, b"\x02ns\x03svc\x07cluster\x05local\0\x03svc\x07cluster\x05local\0"),
        ] {
            assert_eq!(value(&ipv4.options, code), Some(expected), "{code}");
        }
        assert_eq!((value(&ipv4.options, 121), value(&ipv4.options, 66)), (None, None));
        assert_eq!((ipv6.address.to_string(), ipv6.router, ipv6.mtu), ("fd10:0:2::2".into(), LINK_LOCAL, 1450));
        assert_eq!(value(&ipv6.options, 23).unwrap().len(), 16);
        assert_eq!(value(&ipv6.options, 24), value(&ipv4.options, 119));
    }

    #[test]
    fn a_bridged_guest_hears_of_the_pods() {
        let answers = answers(&nic(Side::Bridge), 1, &Names::default()).unwrap();
        let ipv4 = answers.ipv4.unwrap();
        assert_eq!((ipv4.address.to_string(), ipv4.server.to_string()), ("10.1.2.3".into(), "169.254.75.11".into()));
        assert_eq!(value(&ipv4.options, 1), Some(&[255; 4][..]));
        let routes = [32, 169, 254, 1, 1, 0, 0, 0, 0, 0, 169, 254, 1, 1];
        assert_eq!(
            (value(&ipv4.options, 121), value(&ipv4.options, 3)),
            (Some(&routes[..]), Some(&[169, 254, 1, 1][..]))
        );
        assert_eq!((answers.ipv6, value(&ipv4.options, 6)), (None, None));
        let mut cable = nic(Side::Bridge);
        cable.uplink.addresses.truncate(1);
        assert_eq!(super::answers(&cable, 0, &Names::default()), None);
    }

    #[test]
    fn only_small_files_name_anything() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("hostname"), "vm\n").unwrap();
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink(path("hostname"), path("link")).unwrap();
        let hostname = |name: &str| {
            let mounts = serde_json::json!([{"destination": "/etc/hostname", "source": path(name)}]);
            let oci = serde_json::json!({"ociVersion": "1.0.2", "mounts": mounts});
            Names::of(&[&serde_json::from_value(oci).unwrap()]).hostname
        };
        assert_eq!(hostname("hostname").as_deref(), Some("vm"));
        for other in ["fifo", "link", "none", "."] {
            assert_eq!(hostname(other), None, "{other}");
        }
    }

    #[test]
    fn hostile_names_have_bounds() {
        let long = format!("search {}\n", "a.very.long.domain.that.somebody.made.up ".repeat(200));
        let names = Names::read(&long, Some("no_label"));
        assert_eq!((names.hostname.clone(), names.search.len()), (None, 200));
        let (ipv4, ipv6) = (Some("10.0.2.0/24".parse().unwrap()), Some("fd10:0:2::/120".parse().unwrap()));
        let answers = answers(&nic(Side::Masquerade { ipv4, ipv6, ports: vec![] }), 0, &names).unwrap();
        let options = answers.ipv4.unwrap().options;
        assert!(options.iter().map(|(_, value)| value.len() + 2).sum::<usize>() <= MAX_OPTIONS);
        assert_eq!(value(&options, 119), None);
        for name in ["", ".", &"x".repeat(64), "tab\there"] {
            assert_eq!(label(name), None, "{name:?}");
        }
    }
}
