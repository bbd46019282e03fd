use super::*;
use crate::network::PodLink;

fn nic(side: Side, addresses: &[&str]) -> NicPlan {
    let addresses = addresses.iter().map(|address| (address.parse().unwrap(), 24)).collect();
    let uplink = PodLink { index: 2, name: "eth0".into(), mac: [2; 6], mtu: 1500, up: true, addresses, routes: vec![] };
    NicPlan {
        name: "n".into(),
        tap: "tap0".into(),
        uplink,
        mac: [2, 0, 0, 0, 0, 9],
        queues: 1,
        link_up: true,
        side,
        dhcp: None,
    }
}

fn masqueraded(ports: &[Port], policy: Policy) -> String {
    let (ipv4, ipv6) = (Some("10.0.2.0/24".parse().unwrap()), Some("fd10:0:2::/120".parse().unwrap()));
    rules(&[nic(Side::Masquerade { ipv4, ipv6, ports: ports.into() }, &["10.1.1.1", "fd00::1"])], policy)
}

fn tcp(number: u16) -> Port {
    Port { protocol: Protocol::Tcp, number }
}

#[test]
fn every_port_or_those_listed() {
    let all = masqueraded(&[], Policy::default());
    assert!(all.contains("    iifname \"eth0\" meta nfproto ipv4 dnat ip to 10.0.2.2\n"), "{all}");
    assert!(all.contains("    iifname \"eth0\" meta nfproto ipv6 dnat ip6 to fd10:0:2::2\n"), "{all}");
    assert!(all.contains("nd-router-solicit drop\n") && all.contains("udp dport 547 drop\n"), "{all}");
    let some = masqueraded(&[tcp(80), Port { protocol: Protocol::Udp, number: 53 }, tcp(443)], Policy::default());
    assert!(some.contains("    ip daddr { 127.0.0.1 } tcp dport { 80, 443 } dnat ip to 10.0.2.2\n"), "{some}");
    assert!(some.contains("    ip6 daddr { ::1 } tcp dport { 80, 443 } dnat ip6 to fd10:0:2::2\n"), "{some}");
    assert!(some.contains("    oifname \"tap0\" ip6 saddr ::1 snat ip6 to fd10:0:2::1\n"), "{some}");
    assert!(
        some.contains("    iifname \"eth0\" meta nfproto ipv6 udp dport { 53 } dnat ip6 to fd10:0:2::2\n"),
        "{some}"
    );
    assert!(!some.contains("nfproto ipv4 dnat"), "{some}");
}

#[test]
fn istio_gets_what_is_its() {
    let istio = Policy { istio: true, ..Policy::default() };
    let all = masqueraded(&[], istio);
    assert!(all.contains("nfproto ipv4 tcp dport 22 dnat ip to 10.0.2.2\n"), "{all}");
    assert!(all.contains("nfproto ipv4 meta l4proto != tcp dnat"), "{all}");
    assert!(!all.contains("nfproto ipv4 dnat"), "{all}");
    assert!(all.contains("    ip daddr { 127.0.0.1, 10.1.1.1 } dnat ip to 10.0.2.2\n"), "{all}");
    assert!(all.contains("    tcp dport { 15000, 15001, 15004, 15006, "), "{all}");
    assert!(all.contains("ip saddr { 127.0.0.1, 127.0.0.6 } snat ip to 10.0.2.1\n"), "{all}");
    assert!(all.contains("    ip6 daddr { ::1, fd00::1 } dnat ip6 to fd10:0:2::2\n"), "{all}");
    assert!(all.contains("ip6 saddr { ::1, ::6 } snat ip6 to fd10:0:2::1\n"), "{all}");
    let some = masqueraded(&[tcp(80)], istio);
    assert!(!some.contains("iifname \"eth0\""), "{some}");
    assert!(some.contains("    ip daddr { 127.0.0.1, 10.1.1.1 } tcp dport { 80 } dnat"), "{some}");
}

#[test]
fn a_bridged_guest_has_the_pods_addresses() {
    let bridge = |addresses, policy| rules(&[nic(Side::Bridge, addresses)], policy);
    let text = bridge(&["10.1.1.1", "fd00::1", "fe80::7"], Policy::default());
    assert!(text.contains("    ip saddr != { 10.1.1.1, 0.0.0.0 } drop\n"), "{text}");
    assert!(text.contains("    ip6 saddr != { fd00::1, ::, fe80::/10 } drop\n"), "{text}");
    assert!(text.contains("drop\n    fwd to \"eth0\"\n"), "{text}");
    assert!(text.contains("    ether type != { ip, ip6, arp } drop\n"), "{text}");
    assert!(!text.contains("table inet vireo {"), "{text}");
    // A cable carries what is plugged in, from the guest's card.
    let cable = bridge(&["fe80::7"], Policy::default());
    assert!(cable.contains("ether saddr != 02:00:00:00:00:09 drop\n") && !cable.contains("saddr ip"), "{cable}");
    let free = bridge(&["10.1.1.1"], Policy { allow_spoofing: true, ..Policy::default() });
    assert!(!free.contains("saddr"), "{free}");
    // What is answered here goes no further; on a cable nobody answers.
    assert!(text.contains("    meta protocol ip udp dport 67 drop\n") && !text.contains("547"), "{text}");
    assert!(!cable.contains("udp"), "{cable}");
}
