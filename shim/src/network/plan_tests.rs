use serde_json::{Value, json};
use vireo_runtimeclass::parse_vmi;

use super::*;

fn spec(interfaces: &Value, networks: &Value) -> VirtualMachineInstanceSpec {
    let spec = json!({"domain": {"devices": {"interfaces": interfaces}}, "networks": networks});
    parse_vmi(&spec.to_string()).unwrap()
}

fn one(interface: &Value) -> Wish {
    let spec = spec(&json!([interface]), &json!([{"name": "n", "pod": {}}]));
    wishes(Some(&spec), "a").remove(0)
}

fn pod_link(index: u32, name: &str, addresses: &[&str]) -> PodLink {
    let address = |text: &&str| {
        let (address, len) = text.split_once('/').unwrap();
        (address.parse().unwrap(), len.parse().unwrap())
    };
    let addresses = addresses.iter().map(address).collect();
    PodLink {
        index,
        name: name.into(),
        mac: [10, 0, 0, 0, 0, u8::try_from(index).unwrap()],
        mtu: 1450,
        up: true,
        addresses,
        routes: vec![],
    }
}

fn planned(wishes: &[Wish], links: &[PodLink]) -> Result<Vec<NicPlan>, String> {
    plan(wishes, links, &NetworkStatus::default()).map_err(|error| error.to_string())
}

#[test]
fn wishes_are_the_specs() {
    let wish = wishes(None, "a").remove(0);
    assert_eq!((wish.name.as_str(), wish.own_mac[0], wish.mac), ("default", 2, None));
    assert_eq!(wishes(None, "a"), std::slice::from_ref(&wish));
    assert_ne!(wishes(None, "b")[0].own_mac, wish.own_mac);

    let ports = json!([{"port": 80}, {"port": 53, "protocol": "UDP"}]);
    let wish = one(&json!({"name": "n", "masquerade": {}, "macAddress": "02:11:22:33:44:55", "ports": ports}));
    let expected = [Port { protocol: Protocol::Tcp, number: 80 }, Port { protocol: Protocol::Udp, number: 53 }];
    assert_eq!((wish.mac, wish.queues, wish.link_up), (Some([2, 0x11, 0x22, 0x33, 0x44, 0x55]), 1, true));
    let Binding::Masquerade { ipv4, ports, .. } = wish.binding else { panic!() };
    assert_eq!((ipv4.to_string().as_str(), &ports[..]), ("10.0.2.0/24", &expected[..]));

    let none = parse_vmi(r#"{"domain": {"devices": {"autoattachPodInterface": false}}}"#).unwrap();
    assert_eq!(wishes(Some(&none), "a"), []);
}

#[test]
fn queues_and_the_link_are_as_asked() {
    let of = |cpu: Value, state: &str| {
        let spec = json!({
            "domain": {"cpu": cpu, "devices": {
                "networkInterfaceMultiqueue": true,
                "interfaces": [{"name": "n", "masquerade": {}, "state": state}],
            }},
            "networks": [{"name": "n", "pod": {}}],
        });
        let spec = parse_vmi(&spec.to_string()).unwrap();
        wishes(Some(&spec), "a").first().map(|wish| (wish.queues, wish.link_up))
    };
    assert_eq!(of(json!({"cores": 3}), "up"), Some((3, true)));
    assert_eq!(of(json!({"cores": 100}), "down"), Some((MAX_PAIRS, false)));
    assert_eq!(of(json!({"cores": 1}), "absent"), None);
}

#[test]
fn a_family_that_the_pod_lacks_is_the_guests_neither() {
    let families = |addresses: &[&str]| match planned(&wishes(None, "a"), &[pod_link(2, "eth0", addresses)]) {
        Ok(plans) => {
            let Side::Masquerade { ipv4, ipv6, .. } = &plans[0].side else { panic!() };
            (ipv4.is_some(), ipv6.is_some())
        }
        Err(error) => panic!("{error}"),
    };
    assert_eq!(families(&["10.1.2.3/24", "fe80::1/64"]), (true, false));
    assert_eq!(families(&["10.1.2.3/32", "fd00::5/64"]), (true, true));
    assert_eq!(families(&["fd00::5/64"]), (false, true));
}

#[test]
fn a_network_of_the_pods_is_not_the_guests() {
    let refusal = |address| planned(&wishes(None, "a"), &[pod_link(2, "eth0", &[address])]).unwrap_err();
    let four =
        "the pod's network 10.0.2.7/24 and the guest's own, 10.0.2.0/24, overlap; choose another one as vmNetworkCIDR";
    assert_eq!(refusal("10.0.2.7/24"), four);
    // Of that one the guest's would hide a part.
    assert!(refusal("10.0.0.7/16").contains("overlap"));
    assert!(refusal("fd10::9/32").contains("as vmIPv6NetworkCIDR"));
    let elsewhere = json!([{"name": "n", "pod": {"vmNetworkCIDR": "10.9.8.0/29", "vmIPv6NetworkCIDR": "fd77::/64"}}]);
    let spec = spec(&json!([{"name": "n", "masquerade": {}}]), &elsewhere);
    let plans = planned(&wishes(Some(&spec), "a"), &[pod_link(2, "eth0", &["10.0.2.7/24"])]).unwrap();
    let Side::Masquerade { ipv4: Some(cidr), .. } = &plans[0].side else { panic!() };
    assert_eq!(cidr.nth(2).to_string(), "10.9.8.2");
}

#[test]
fn several_networks_find_their_interfaces() {
    let interfaces = json!([
        {"name": "default", "masquerade": {}},
        {"name": "red", "bridge": {}},
        {"name": "blue", "bridge": {}, "macAddress": "02:00:00:00:00:99"},
        {"name": "green", "bridge": {}},
    ]);
    let networks = json!([
        {"name": "default", "pod": {}},
        {"name": "red", "multus": {"networkName": "prod/red"}},
        {"name": "blue", "multus": {"networkName": "blue"}},
        {"name": "green", "multus": {"networkName": "green"}},
    ]);
    let wishes = wishes(Some(&spec(&interfaces, &networks)), "a");
    // SHA-256 of "red", by KubeVirt's rule; by Multus' word; by the old names.
    assert_eq!(hash("red"), "b1f51a511f1");
    let links = [
        pod_link(2, "eth0", &["10.1.2.3/24"]),
        pod_link(3, "podb1f51a511f1", &[]),
        pod_link(4, "odd7", &[]),
        pod_link(5, "net3", &[]),
    ];
    let status: NetworkStatus = serde_json::from_value(json!([
        {"name": "cbr0", "interface": "eth0", "ips": ["10.1.2.3"], "default": true},
        {"name": "ns/blue", "interface": "odd7", "mac": "x"},
    ]))
    .unwrap();
    let plans = plan(&wishes, &links, &status).unwrap();
    let seen: Vec<_> = plans.iter().map(|plan| (plan.uplink.name.as_str(), plan.mac[5])).collect();
    let own = wishes[0].own_mac[5];
    assert_eq!(seen, [("eth0", own), ("podb1f51a511f1", 3), ("odd7", 0x99), ("net3", 5)]);
    assert_eq!((plans[1].tap.as_str(), plans[1].side.clone()), ("tapb1f51a511f1", Side::Bridge));

    let error = plan(&wishes, &links[..3], &status).unwrap_err().to_string();
    assert!(error.starts_with("network \"green\": the pod has no interface pod"), "{error}");
    let error = plan(&wishes, &links, &NetworkStatus::default()).unwrap_err().to_string();
    assert!(error.starts_with("network \"blue\""), "{error}");
    assert_eq!(planned(&wishes, &[]).unwrap_err(), NetworkError::NoUplink.to_string());
}

#[test]
fn no_interface_and_no_address_is_there_twice() {
    let interfaces =
        json!([{"name": "a", "bridge": {}}, {"name": "b", "bridge": {}, "macAddress": "0a:00:00:00:00:02"}]);
    let networks = json!([{"name": "a", "pod": {}}, {"name": "b", "multus": {"networkName": "b"}}]);
    let wishes = wishes(Some(&spec(&interfaces, &networks)), "a");
    let links = [pod_link(2, "eth0", &[]), pod_link(3, "net1", &[])];
    assert_eq!(
        planned(&wishes, &links).unwrap_err(),
        "interfaces \"a\" and \"b\" have the same macAddress; give one of them another"
    );
    let status = serde_json::from_value(json!([{"name": "b", "interface": "eth0"}])).unwrap();
    let error = plan(&wishes, &links, &status).unwrap_err().to_string();
    assert_eq!(error, "networks \"a\" and \"b\" are both the pod's interface eth0; attach one for each");
}
