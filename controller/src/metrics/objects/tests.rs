//! The page of sample objects, as a whole: `UPDATE=1 cargo test -p vireo-controller metrics` writes it anew.

use std::path::Path;

use kube::runtime::reflector::store;
use kube::runtime::watcher;
use prometheus_client::registry::Registry;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use super::super::tests::{read, value};
use super::*;

fn object<K: DeserializeOwned>(value: Json) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn vm(metadata: &Json, spec: &Json, status: &Json) -> Arc<VirtualMachine> {
    let mut all = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "spec": spec, "status": status});
    all["metadata"] = metadata.clone();
    object(all)
}

fn guests() -> Vec<Arc<VirtualMachine>> {
    let conditions = json!([
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:01:00Z"},
        {"type": "Paused", "status": "False", "lastTransitionTime": "2026-01-01T00:02:00Z"},
        {"type": "AgentConnected", "status": "True", "lastTransitionTime": "2026-01-01T00:03:00Z"},
    ]);
    vec![
        vm(
            &json!({"name": "web", "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"}),
            &json!({
                "runStrategy": "Always",
                "dataVolumeTemplates": [
                    {"metadata": {"name": "root"}, "spec": {"storage": {"resources": {"requests": {"storage": "10Gi"}}}}},
                ],
                "template": {
                    "metadata": {"annotations": {"vm.kubevirt.io/os": "debian", "vm.kubevirt.io/workload": "server"}},
                    "spec": {
                        "domain": {
                            "cpu": {"cores": 2, "sockets": 3},
                            "machine": {"type": "q35"},
                            "memory": {"guest": "1Gi", "hugepages": {"pageSize": "2Mi"}},
                            "resources": {"requests": {"cpu": "1500m", "memory": "2Gi"}, "limits": {"cpu": "2", "memory": "3Gi"}},
                            "devices": {"interfaces": [
                                {"name": "default", "masquerade": {}, "model": "virtio"},
                                {"name": "blue", "bridge": {}},
                                {"name": "lost", "bridge": {}},
                            ]},
                        },
                        "networks": [{"name": "default", "pod": {}}, {"name": "blue", "multus": {"networkName": "shop/blue"}}],
                        "volumes": [
                            {"name": "disk", "dataVolume": {"name": "root"}},
                            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                            {"name": "lost", "persistentVolumeClaim": {"claimName": "lost"}},
                        ],
                    },
                },
            }),
            &json!({"printableStatus": "Running", "conditions": conditions}),
        ),
        vm(
            &json!({"name": "small", "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"}),
            &json!({
                "instancetype": {"kind": "VirtualMachineClusterInstancetype", "name": "u1.small"},
                "preference": {"name": "linux"},
                "template": {"spec": {"domain": {"devices": {}}}},
            }),
            &json!({"printableStatus": "ErrorUnschedulable", "conditions": [
                {"type": "Failure", "status": "True", "lastTransitionTime": "2026-01-01T00:00:30Z"},
            ]}),
        ),
        // Its size isn't known.
        vm(
            &json!({"name": "halted", "namespace": "shop"}),
            &json!({"instancetype": {"name": "u1.large"}, "template": {"spec": {"domain": {"devices": {}}}}}),
            &json!({"printableStatus": "Stopped"}),
        ),
        // Nobody has seen to it yet, and its spec is nothing that admission lets in.
        vm(
            &json!({"name": "odd", "namespace": "other"}),
            &json!({"template": {"spec": {"domain": {"cpu": 7}}}}),
            &Json::Null,
        ),
    ]
}

fn instances() -> Vec<Arc<VirtualMachineInstance>> {
    let vmi = |metadata: Json, spec: Json, status: Json| {
        object(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": metadata, "spec": spec, "status": status,
        }))
    };
    vec![
        vmi(
            json!({"name": "web", "namespace": "shop", "uid": "u1", "annotations": {"vm.kubevirt.io/os": "debian"}}),
            json!({
                "evictionStrategy": "LiveMigrate",
                "domain": {"devices": {"interfaces": [{"name": "default", "masquerade": {}}]}},
                "networks": [{"name": "default", "pod": {}}],
            }),
            json!({
                "phase": "Running", "nodeName": "n1",
                "conditions": [{"type": "LiveMigratable", "status": "False"}],
                "machine": {"type": "vireo-1"},
                "memory": {"memoryOverhead": "16Mi"},
                "guestOSInfo": {
                    "name": "Debian \"12\"\n", "versionId": "12", "kernelRelease": "6.1.0", "machine": "x86_64",
                },
                "interfaces": [
                    {"name": "default", "ipAddress": "10.1.0.7", "interfaceName": "enp1s0"},
                    {"name": "blue"},
                    {"mac": "02:00:00:00:00:01"},
                ],
            }),
        ),
        vmi(
            json!({
                "name": "small", "namespace": "shop", "uid": "u2",
                "annotations": {"kubevirt.io/cluster-instancetype-name": "u1.small", "kubevirt.io/preference-name": "linux"},
            }),
            json!({"domain": {"cpu": {"sockets": 1}, "memory": {"guest": "2Gi"}}}),
            json!({"phase": "Scheduling"}),
        ),
    ]
}

fn seen() -> Seen {
    let pod = |name: &str, uid: &str, node: &str, phase: &str| {
        object(json!({
            "metadata": {"name": name, "namespace": "shop", "labels": {"kubevirt.io/created-by": uid}},
            "spec": {"nodeName": node, "containers": []}, "status": {"phase": phase},
        }))
    };
    let claim = |name: &str, mode: &str| {
        let requests = json!({"requests": {"storage": "11Gi"}});
        object(json!({
            "metadata": {"name": name, "namespace": "shop"}, "spec": {"volumeMode": mode, "resources": requests},
        }))
    };
    Seen {
        guests: guests(),
        instances: instances(),
        pods: vec![
            pod("virt-launcher-web-a", "u1", "n1", "Running"),
            pod("virt-launcher-web-b", "u1", "n2", "Running"),
            pod("virt-launcher-small-a", "u2", "n1", "Pending"),
        ],
        claims: vec![claim("root", "Filesystem"), claim("data", "Block")],
        configuration: Arc::default(),
    }
}

#[derive(Debug)]
struct Fixed(Seen);

impl Collector for Fixed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.write(&mut encoder)
    }
}

fn page(seen: Seen) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Fixed(seen)));
    let mut page = String::new();
    prometheus_client::encoding::text::encode_registry(&mut page, &registry).unwrap();
    page
}

#[test]
fn the_page_is_as_it_was() {
    let page = page(seen());
    read(&page);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/metrics/objects/page.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        there == page,
        "page.txt is not what the code says: UPDATE=1 cargo test -p vireo-controller metrics\n{page}"
    );
}

/// What an object costs, and that nothing is told without one.
#[test]
fn the_page_is_as_long_as_there_are_objects() {
    assert_eq!(page(Seen::default()), "");
    let one = seen();
    let many = |count: usize| {
        let guests = (0..count).map(|number| {
            let mut vm = one.guests[0].as_ref().clone();
            vm.metadata.name = Some(format!("web-{number:05}"));
            Arc::new(vm)
        });
        page(Seen { guests: guests.collect(), ..Seen::default() }).len()
    };
    let each = (many(200) - many(100)) / 100;
    assert!(each < 4 << 10, "{each} bytes for one guest");
}

/// A client of nobody's: what is watched is what a test says.
fn known(guests: Store<VirtualMachine>) -> Known {
    Known {
        guests,
        instances: store().0,
        pods: store().0,
        claims: store().0,
        settings: Settings::fixed(KubeVirtConfiguration::default()),
    }
}

#[test]
fn objects_are_told_of_while_they_are_watched() {
    let objects = Objects::default();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(objects.clone()));
    let (reader, mut writer) = store();
    for vm in guests() {
        writer.apply_watcher_event(&watcher::Event::Apply(vm.as_ref().clone()));
    }
    let created = r#"kubevirt_vm_create_date_timestamp_seconds{name="web",namespace="shop"}"#;
    assert_eq!(value(&registry, created), None);
    *objects.known() = Some(known(reader));
    let told = Told(objects.clone());
    assert_eq!(value(&registry, created), Some(1_767_225_600.0));
    writer.apply_watcher_event(&watcher::Event::Delete(guests()[0].as_ref().clone()));
    assert_eq!(value(&registry, created), None, "it is gone");
    drop(told);
    assert_eq!(value(&registry, r#"kubevirt_vm_create_date_timestamp_seconds{name="small",namespace="shop"}"#), None);
}
