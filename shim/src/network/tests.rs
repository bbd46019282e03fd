use serde_json::json;
use vireo_runtimeclass::parse_vmi;

use super::*;

#[test]
fn plans() {
    let binding = plan(None, "a").unwrap();
    assert_eq!((binding.name.as_str(), binding.ports.len()), ("default", 0));
    assert_eq!(binding.mac[0], 2);
    assert_eq!(plan(None, "a").unwrap(), binding);
    assert_ne!(plan(None, "b").unwrap().mac, binding.mac);

    let spec = |interface: serde_json::Value| {
        let spec = json!({
            "domain": {"devices": {"interfaces": [interface]}},
            "networks": [{"name": "n", "pod": {}}],
        });
        parse_vmi(&spec.to_string()).unwrap()
    };
    let ports = json!([{"port": 80}, {"port": 53, "protocol": "UDP"}]);
    let spec = spec(json!({"name": "n", "masquerade": {}, "macAddress": "02:11:22:33:44:55", "ports": ports}));
    let expected = [Port { protocol: Protocol::Tcp, number: 80 }, Port { protocol: Protocol::Udp, number: 53 }];
    let binding = plan(Some(&spec), "a").unwrap();
    assert_eq!(binding, Binding { name: "n".into(), mac: [2, 0x11, 0x22, 0x33, 0x44, 0x55], ports: expected.into() });

    let none = parse_vmi(r#"{"domain": {"devices": {"autoattachPodInterface": false}}}"#).unwrap();
    assert_eq!(plan(Some(&none), "a"), None);
}

#[test]
fn a_namespace_that_is_none_is_said_so() {
    let binding = plan(None, "a").unwrap();
    let error = attach(Path::new("/none"), &binding).unwrap_err();
    assert_eq!(error.to_string(), "network namespace /none can't be entered");
    assert!(matches!(attach(Path::new("/dev/null"), &binding), Err(NetworkError::Namespace(..))));
}
