use serde_json::{Value, json};

use super::*;
use crate::{ParseError, parse_virtual_machine, parse_vmi};

/// What is said of a document.
fn refusals(spec: &Value) -> Vec<String> {
    match parse_vmi(&spec.to_string()) {
        Ok(_) => Vec::new(),
        Err(ParseError::Refused(problems)) => problems.0.iter().map(ToString::to_string).collect(),
        Err(error) => panic!("{error}"),
    }
}

/// A spec that boots a kernel from its image, changed by `change`.
fn vmi(change: impl FnOnce(&mut Value)) -> Value {
    let mut spec = json!({
        "domain": {
            "cpu": {
                "cores": 2, "sockets": 1, "threads": 1, "model": "EPYC", "dedicatedCpuPlacement": true,
                "isolateEmulatorThread": true,
                "features": [{"name": "avx", "policy": "disable"}, {"name": "svm"}],
            },
            "features": {"kvm": {"hidden": true}, "acpi": {}, "apic": {"enabled": true}},
            "machine": {"type": "q35"},
            "memory": {"guest": "512Mi"},
            "resources": {"limits": {"memory": "1Gi", "cpu": 2}},
            "firmware": {"kernelBoot": {
                "kernelArgs": "console=hvc0",
                "container": {"image": "kernels", "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd",
                    "imagePullPolicy": "Always", "imagePullSecret": "registry"},
            }},
            "devices": {
                "disks": [{"name": "root", "disk": {"bus": "virtio", "readonly": true}, "serial": "abc"}],
                "interfaces": [{"name": "default", "masquerade": {}, "model": "virtio", "state": "down", "ports": [{"port": 80}]}],
                "networkInterfaceMultiqueue": true,
                "rng": {},
                "autoattachSerialConsole": true,
                "autoattachGraphicsDevice": false,
            },
        },
        "networks": [{"name": "default", "pod": {}}],
        "volumes": [{"name": "root", "containerDisk": {
            "image": "debian", "path": "/disk/a.img", "imagePullPolicy": "IfNotPresent", "imagePullSecret": "registry",
        }}],
        "startStrategy": "Paused",
        "terminationGracePeriodSeconds": 30,
    });
    change(&mut spec);
    spec
}

#[test]
fn a_full_spec_passes() {
    assert_eq!(refusals(&vmi(|_| ())), [""; 0]);
    assert_eq!(refusals(&json!({"domain": {"devices": {}}})), [""; 0]);
    let firmware = vmi(|spec| {
        spec["domain"]["firmware"] = json!({"bootloader": {"efi": {"secureBoot": false, "persistent": false}}});
        spec["domain"]["devices"]["disks"][0]["bootOrder"] = json!(2);
        spec["domain"]["devices"]["interfaces"][0]["bootOrder"] = json!(1);
    });
    assert_eq!(refusals(&firmware), [""; 0]);
    let bios = vmi(|spec| spec["domain"]["firmware"] = json!({"bootloader": {"bios": {"useSerial": true}}}));
    assert_eq!(refusals(&bios), [""; 0]);
    // Null is what Kubernetes writes for "left out".
    assert_eq!(refusals(&json!({"domain": {"devices": {"disks": null}}, "hostname": null})), [""; 0]);
}

#[test]
fn each_wrong_value_is_refused_by_its_path() {
    let cases: &[(&str, Value, &str)] = &[
        ("/domain/devices/sound", json!({"name": "s"}), "spec.domain.devices.sound: not supported by vireo"),
        ("/startStrategy", json!("Later"), "spec.startStrategy: \"Later\" is not supported by vireo; Paused is"),
        ("/domain/devices/sond", json!({}), "spec.domain.devices.sond: unknown field"),
        ("/domain/cpu/cores", json!(0), "spec.domain.cpu.cores: 0; at least 1 is needed"),
        ("/domain/cpu/cores", json!(-1), "spec.domain.cpu.cores: must be a whole number from 0 to 2147483647"),
        ("/domain/cpu/cores", json!("2"), "spec.domain.cpu.cores: must be a whole number from 0 to 2147483647"),
        ("/domain/cpu/cores", json!(2_147_483_647), "spec.domain.cpu: 2147483647 vCPUs; a machine has at most 254"),
        ("/domain/cpu/model", json!(7), "spec.domain.cpu.model: must be a string"),
        (
            "/domain/cpu",
            json!({"cores": 1, "isolateEmulatorThread": true}),
            "spec.domain.cpu.isolateEmulatorThread: only together with dedicatedCpuPlacement",
        ),
        (
            "/domain/cpu/features",
            json!([{"name": "avx", "policy": "perhaps"}]),
            "spec.domain.cpu.features[0].policy: \"perhaps\" is not supported by vireo; force, require, optional, disable, forbid are",
        ),
        (
            "/domain/cpu/features",
            json!([{"name": "avx"}, {"name": "avx", "policy": "disable"}]),
            "spec.domain.cpu.features[1].name: \"avx\" is features[0] already",
        ),
        ("/domain/features/smm", json!({}), "spec.domain.features.smm: not supported by vireo"),
        (
            "/domain/memory/guest",
            json!("0"),
            "spec.domain.memory.guest: 0 is less than any guest needs; 128Mi, for one",
        ),
        (
            "/domain/memory/guest",
            json!("2Gi"),
            "spec.domain.memory.guest: 2Gi is more than domain.resources.limits.memory, 1Gi",
        ),
        (
            "/domain/firmware/uuid",
            json!("5d307ca9"),
            "spec.domain.firmware.uuid: \"5d307ca9\" is no UUID; 5d307ca9-b3ef-428c-8861-06e72d69f223, for one",
        ),
        (
            "/domain/firmware/serial",
            json!("a\tb"),
            "spec.domain.firmware.serial: is not at most 255 bytes without control characters",
        ),
        (
            "/domain/chassis",
            json!({"asset": "x".repeat(256)}),
            "spec.domain.chassis.asset: is not at most 255 bytes without control characters",
        ),
        ("/domain/memory/guest", json!("9Ei"), "spec.domain.memory.guest: \"9Ei\" is too large"),
        (
            "/domain/memory/hugepages",
            json!({"pageSize": "4Ki"}),
            "spec.domain.memory.hugepages.pageSize: \"4Ki\" is not supported by vireo; 2Mi and 1Gi are",
        ),
        (
            "/domain/memory/hugepages",
            json!({"pageSize": "1Gi"}),
            "spec.domain.memory.guest: 536870912 bytes are no multiple of the huge page size, 1Gi",
        ),
        (
            "/domain/machine/type",
            json!("pc"),
            "spec.domain.machine.type: \"pc\" is not supported by vireo; vireo-1 is, and q35 is taken for it",
        ),
        (
            "/domain/features/acpi",
            json!({"enabled": false}),
            "spec.domain.features.acpi.enabled: false is not supported by vireo; every machine has it",
        ),
        (
            "/domain/features/apic",
            json!({"enabled": false}),
            "spec.domain.features.apic.enabled: false is not supported by vireo; every machine has it",
        ),
        ("/domain/memory/hugepages", json!({}), "spec.domain.memory.hugepages.pageSize: missing"),
        (
            "/domain/resources/limits/gpu",
            json!("1"),
            "spec.domain.resources.limits.gpu: not supported by vireo; cpu and memory are",
        ),
        (
            "/domain/devices/autoattachSerialConsole",
            json!(false),
            "spec.domain.devices.autoattachSerialConsole: false is not supported by vireo; a machine's serial console is its pod's stdio",
        ),
        (
            "/domain/devices/autoattachGraphicsDevice",
            json!(true),
            "spec.domain.devices.autoattachGraphicsDevice: true is not supported by vireo; there is no graphics device yet",
        ),
        (
            "/domain",
            json!({
                "memory": {"guest": "512Mi", "hugepages": {"pageSize": "2Mi"}},
                "firmware": {"kernelBoot": {"container": {"kernelPath": "/boot/vmlinuz"}}},
                "devices": {
                    "disks": [{"name": "root"}],
                    "interfaces": [{"name": "default", "masquerade": {}}],
                    "autoattachMemBalloon": true,
                },
            }),
            "spec.domain.devices.autoattachMemBalloon: true is not supported by vireo with memory.hugepages, which no guest gives back one by one",
        ),
        ("/domain/devices/rng", json!({"source": "x"}), "spec.domain.devices.rng.source: unknown field"),
        (
            "/domain/devices/disks/0/disk/bus",
            json!("sata"),
            "spec.domain.devices.disks[0].disk.bus: \"sata\" is not supported by vireo; virtio is",
        ),
        (
            "/domain/devices/disks/0/lun",
            json!({"bus": "sata"}),
            "spec.domain.devices.disks[0].lun: not supported by vireo",
        ),
        (
            "/domain/devices/disks/0/name",
            json!("boot"),
            "spec.domain.devices.disks[0].name: no volume is named \"boot\"",
        ),
        (
            "/domain/devices/disks/0/serial",
            json!("a".repeat(21)),
            "spec.domain.devices.disks[0].serial: 21 bytes; a virtio disk's serial has at most 20",
        ),
        (
            "/domain/devices/interfaces/0/macAddress",
            json!("01:00:5e:00:00:01"),
            "spec.domain.devices.interfaces[0].macAddress: \"01:00:5e:00:00:01\" is no unicast hardware address, such as 02:00:00:12:34:56",
        ),
        (
            "/domain/devices/interfaces/0/ports/0/port",
            json!(70000),
            "spec.domain.devices.interfaces[0].ports[0].port: 70000 is not within 1 to 65535",
        ),
        (
            "/domain/devices/interfaces/0/model",
            json!("e1000"),
            "spec.domain.devices.interfaces[0].model: \"e1000\" is not supported by vireo; virtio is",
        ),
        (
            "/domain/firmware/kernelBoot/kernelArgs",
            json!("a\nb"),
            "spec.domain.firmware.kernelBoot.kernelArgs: contains a control character",
        ),
        (
            "/domain/firmware/kernelBoot/container",
            json!({"image": "x"}),
            "spec.domain.firmware.kernelBoot.container.kernelPath: missing; without firmware a kernel is needed",
        ),
        (
            "/domain/firmware/bootloader",
            json!({"efi": {}}),
            "spec.domain.firmware.bootloader.efi: excludes kernelBoot, which boots without firmware",
        ),
        (
            "/domain/firmware",
            json!({"bootloader": {"bios": {}, "efi": {}}}),
            "spec.domain.firmware.bootloader.efi: excludes bios; name one of them",
        ),
        (
            "/domain/firmware",
            json!({"bootloader": {"efi": {"secureBoot": true}}}),
            "spec.domain.firmware.bootloader.efi.secureBoot: true is not supported by vireo: the builds of OVMF that enforce it \
             need system management mode",
        ),
        (
            "/domain/devices/disks/0/bootOrder",
            json!(0),
            "spec.domain.devices.disks[0].bootOrder: 0; places begin with 1",
        ),
        (
            "/domain/devices/interfaces/0/bootOrder",
            json!(1),
            "spec.domain.devices.interfaces[0].bootOrder: not supported by vireo without domain.firmware.bootloader.efi; \
             BIOS boots disks",
        ),
        (
            "/networks/0",
            json!({"name": "default", "resourceClaim": {}}),
            "spec.networks[0].resourceClaim: not supported by vireo",
        ),
        ("/networks/0", json!({"name": "default", "multus": {}}), "spec.networks[0].multus.networkName: missing"),
        ("/volumes/0/hostDisk", json!({"path": "/x", "type": "Disk"}), "spec.volumes[0]: has more than one source"),
        (
            "/volumes/0/containerDisk",
            json!({"image": "x", "path": "disk/a"}),
            "spec.volumes[0].containerDisk.path: must be absolute",
        ),
        (
            "/volumes/0/containerDisk/imagePullPolicy",
            json!("Sometimes"),
            "spec.volumes[0].containerDisk.imagePullPolicy: \"Sometimes\" is not supported by vireo; Always, IfNotPresent, \
             Never are",
        ),
        (
            "/domain/firmware/kernelBoot/container/imagePullPolicy",
            json!("always"),
            "spec.domain.firmware.kernelBoot.container.imagePullPolicy: \"always\" is not supported by vireo; Always, \
             IfNotPresent, Never are",
        ),
        ("/volumes/0", json!({"name": "root"}), "spec.volumes[0]: has no source; persistentVolumeClaim, for one"),
        (
            "/volumes/0",
            json!({"name": "root", "ephemeral": {}}),
            "spec.volumes[0].ephemeral.persistentVolumeClaim: missing",
        ),
        (
            "/volumes/0",
            json!({"name": "root", "ephemeral": {"persistentVolumeClaim": {"claimName": ""}}}),
            "spec.volumes[0].ephemeral.persistentVolumeClaim.claimName: empty",
        ),
        (
            "/volumes",
            json!([
                {"name": "root", "containerDisk": {"image": "x"}},
                {"name": "empty", "emptyDisk": {"capacity": "1k"}},
            ]),
            "spec.volumes[1].emptyDisk.capacity: 1000 bytes; an empty disk has 1Mi to 64Ti",
        ),
        (
            "/volumes/0",
            json!({"name": "root", "emptyDisk": {"capacity": "1Gi"}}),
            "spec.domain.devices.disks[0]: is read-only and shows an emptyDisk, which nobody else fills",
        ),
        (
            "/volumes/0",
            json!({"name": "root", "hostDisk": {"path": "/x", "type": "DiskOrNot"}}),
            "spec.volumes[0].hostDisk.type: \"DiskOrNot\" is not supported by vireo; Disk and DiskOrCreate are",
        ),
        (
            "/volumes/0",
            json!({"name": "root", "hostDisk": {"path": "/x", "type": "Disk", "capacity": "1Gi"}}),
            "spec.volumes[0].hostDisk.capacity: is for type DiskOrCreate; leave it out",
        ),
        (
            "/volumes/0",
            json!({"name": "root", "hostDisk": {"path": "/x", "type": "DiskOrCreate", "capacity": "1k"}}),
            "spec.volumes[0].hostDisk.capacity: 1000 bytes; a disk has 1Mi to 64Ti",
        ),
        (
            "/volumes/0",
            json!({"name": "root", "hostDisk": {"path": "/x/..", "type": "Disk"}}),
            "spec.volumes[0].hostDisk.path: \"/x/..\" names no file",
        ),
        (
            "/volumes/0",
            json!({"name": "root", "persistentVolumeClaim": {"claimName": ""}}),
            "spec.volumes[0].persistentVolumeClaim.claimName: empty",
        ),
        (
            "/volumes/0",
            json!({"name": "root", "dataVolume": {"name": "a", "hotpluggable": true}}),
            "spec.volumes[0].dataVolume.hotpluggable: not supported by vireo",
        ),
        (
            "/volumes",
            json!([{"name": "root", "containerDisk": {"image": "x"}}, {"name": "../x", "emptyDisk": {"capacity": "1Gi"}}]),
            "spec.volumes[1].name: \"../x\" can't be the name of a volume",
        ),
        (
            "/volumes/0",
            json!({"name": "root", "configMap": {"name": "a", "volumeLabel": "a\nb"}}),
            "spec.volumes[0].configMap.volumeLabel: \"a\\nb\" is not supported by vireo; at most 32 characters of ASCII are",
        ),
        ("/volumes/0", json!({"name": "root", "secret": {}}), "spec.volumes[0].secret.secretName: empty"),
        (
            "/volumes/0",
            json!({"name": "root", "sysprep": {"secret": {"name": "a"}, "configMap": {"name": "a"}}}),
            "spec.volumes[0].sysprep: needs the name of a configMap or of a secret, one of the two",
        ),
        (
            "/volumes",
            json!([
                {"name": "root", "serviceAccount": {"serviceAccountName": "a"}},
                {"name": "two", "serviceAccount": {"serviceAccountName": "a"}},
            ]),
            "spec.volumes: more than one is a serviceAccount; a pod has one",
        ),
        (
            "/accessCredentials",
            json!([{"userPassword": {"source": {}, "propagationMethod": {"qemuGuestAgent": {}}}}]),
            "spec.accessCredentials[0].userPassword.source.secret: missing",
        ),
        (
            "/accessCredentials",
            json!([{"sshPublicKey": {"source": {"secret": {"secretName": "../x"}}, "propagationMethod": {"qemuGuestAgent": {"users": ["a"]}}}}]),
            "spec.accessCredentials[0].sshPublicKey.source.secret.secretName: \"../x\" can't be the name of a secret",
        ),
        (
            "/accessCredentials",
            json!([{"sshPublicKey": {"source": {"secret": {"secretName": "x"}}, "propagationMethod": {"qemuGuestAgent": {}}}}]),
            "spec.accessCredentials[0].sshPublicKey.propagationMethod.qemuGuestAgent.users: names nobody",
        ),
        (
            "/accessCredentials",
            json!([{"sshPublicKey": {"source": {"secret": {"secretName": "x"}}, "propagationMethod": {"noCloud": {}}}}]),
            "spec.accessCredentials[0].sshPublicKey.propagationMethod.noCloud: needs a cloudInitNoCloud volume",
        ),
        (
            "/accessCredentials",
            json!([{}]),
            "spec.accessCredentials[0]: has to be one of sshPublicKey and userPassword",
        ),
        ("/volumes", json!({}), "spec.volumes: must be a list"),
        ("/volumes/0/name", json!(7), "spec.volumes[0].name: must be a string"),
        ("/architecture", json!("arm64"), "spec.architecture: \"arm64\" is not supported by vireo; amd64 is"),
        ("/domain", json!([]), "spec.domain: must be an object"),
    ];
    for (pointer, value, expected) in cases {
        let spec = vmi(|spec| {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            match spec.pointer_mut(parent).unwrap() {
                Value::Object(map) => _ = map.insert(field.to_owned(), value.clone()),
                Value::Array(list) => list[field.parse::<usize>().unwrap()] = value.clone(),
                other => panic!("{pointer}: {other}"),
            }
        });
        assert_eq!(refusals(&spec), [*expected], "{pointer}");
    }
}

#[test]
fn everything_wrong_is_said_at_once() {
    let spec = json!({
        "domain": {"devices": {"gpus": [], "disks": [{"disk": {"buss": "virtio"}}]}, "cpu": {"cores": true}},
        "hostname": "x",
        "nonsense": 1,
    });
    let mut found = refusals(&spec);
    found.sort();
    assert_eq!(
        found,
        [
            "spec.domain.cpu.cores: must be a whole number from 0 to 2147483647",
            "spec.domain.devices.disks[0].disk.buss: unknown field",
            "spec.domain.devices.disks[0].name: missing",
            "spec.domain.devices.gpus: not supported by vireo",
            "spec.hostname: not supported by vireo",
            "spec.nonsense: unknown field",
        ]
    );
}

#[test]
fn names_join_disks_and_volumes_interfaces_and_networks() {
    let spec = vmi(|spec| {
        spec["volumes"] = json!([
            {"name": "a", "containerDisk": {"image": "x"}},
            {"name": "a", "containerDisk": {"image": "x"}},
        ]);
        spec["domain"]["devices"]["disks"] = json!([{"name": ""}]);
        spec["domain"]["devices"]["interfaces"] = json!([{"name": "left"}, {"name": "default", "masquerade": {}}]);
    });
    assert_eq!(
        refusals(&spec),
        [
            "spec.volumes[1].name: \"a\" is already taken",
            "spec.domain.devices.disks[0].name: empty",
            "spec.domain.devices.disks[0].name: no volume is named \"\"",
            "spec.domain.devices.interfaces[0].name: no network is named \"left\"",
            "spec.domain.devices.interfaces[0]: has no binding; masquerade and bridge are supported",
        ]
    );
}

#[test]
fn several_networks_have_an_interface_and_a_source_each() {
    let spec = |interfaces: Value, networks: Value| {
        refusals(&vmi(|spec| {
            spec["domain"]["devices"]["interfaces"] = interfaces;
            spec["networks"] = networks;
        }))
    };
    let mac = "02:00:00:00:00:01";
    let networks = json!([
        {"name": "a", "pod": {"vmNetworkCIDR": "10.9.0.0/30", "vmIPv6NetworkCIDR": "fd99::/126"}},
        {"name": "b", "multus": {"networkName": "ns/b"}},
        {"name": "c", "multus": {"networkName": "c"}},
    ]);
    let interfaces = json!([{"name": "b", "bridge": {}}, {"name": "a", "masquerade": {}, "macAddress": mac}, {"name": "c", "bridge": {}}]);
    assert_eq!(spec(interfaces, networks.clone()), [""; 0]);
    let instead = json!([{"name": "a", "multus": {"networkName": "x", "default": true}}]);
    assert_eq!(spec(json!([{"name": "a", "masquerade": {}}]), instead), [""; 0]);

    let interfaces = json!([
        {"name": "a", "masquerade": {}, "bridge": {}, "macAddress": mac},
        {"name": "b", "masquerade": {}, "macAddress": "02-00-00-00-00-01"},
        {"name": "c", "bridge": {}, "ports": [{"port": 80}], "macAddress": "02:00:00:00:00:00"},
        {"name": "c", "bridge": {}},
    ]);
    assert_eq!(
        spec(interfaces, networks),
        [
            "spec.domain.devices.interfaces[0]: has two bindings, masquerade and bridge; name one of them",
            "spec.domain.devices.interfaces[2].ports: not supported by vireo with bridge, by which every port reaches the guest; leave it out",
            "spec.domain.devices.interfaces[2].macAddress: is the gateway's own; choose another one",
            "spec.networks[1]: is bound by masquerade, which only the pod's own network is; bridge is supported",
            "spec.networks[2]: has several interfaces; one is supported",
            "spec.domain.devices.interfaces[1].macAddress: is the address of domain.devices.interfaces[0] already",
        ]
    );
    let pod = || json!([{"name": "a", "pod": {}}]);
    let with = |options: Value| spec(json!([{"name": "a", "masquerade": {}, "dhcpOptions": options}]), pod());
    let options = json!({
        "bootFileName": "x", "tftpServerName": "y", "ntpServers": ["10.0.0.1"],
        "privateOptions": [{"option": 224, "value": "a"}, {"option": 254, "value": "b"}],
    });
    assert_eq!(with(options), [""; 0]);
    let long = "x".repeat(256);
    let options = json!({
        "bootFileName": "", "tftpServerName": long, "ntpServers": ["fd00::1"],
        "privateOptions": [{"option": 255, "value": ""}, {"option": 230, "value": long}, {"option": 230, "value": "b"}],
    });
    let at = "spec.domain.devices.interfaces[0].dhcpOptions";
    assert_eq!(
        with(options),
        [
            "bootFileName: is not 1 to 255 bytes long",
            "tftpServerName: is not 1 to 255 bytes long",
            "ntpServers[0]: \"fd00::1\" is no IPv4 address",
            "privateOptions[0].option: 255 is not within 224 to 254",
            "privateOptions[0].value: is not 1 to 255 bytes long",
            "privateOptions[1].value: is not 1 to 255 bytes long",
            "privateOptions[2].option: 230 is there already",
        ]
        .map(|problem| format!("{at}.{problem}"))
        .into_iter()
        .chain([format!("{at}: more than 512 bytes; no answer has room for that")])
        .collect::<Vec<_>>()
    );
    let networks = json!([
        {"name": "a", "pod": {"vmNetworkCIDR": "10.9.0.0/31", "vmIPv6NetworkCIDR": "10.9.0.0/24"}},
        {"name": "b", "multus": {"networkName": "/b"}},
        {"name": "c", "pod": {}},
        {"name": "c"},
    ]);
    let all = json!([{"name": "a", "masquerade": {}}, {"name": "b", "bridge": {}}, {"name": "c", "masquerade": {}}]);
    assert_eq!(
        spec(all, networks),
        [
            "spec.networks[0].pod.vmNetworkCIDR: \"10.9.0.0/31\" is no IPv4 network with room for a guest, such as 10.0.2.0/24",
            "spec.networks[0].pod.vmIPv6NetworkCIDR: \"10.9.0.0/24\" is no IPv6 network with room for a guest, such as fd10:0:2::/120",
            "spec.networks[1].multus.networkName: \"/b\" is neither name nor namespace/name",
            "spec.networks[3]: has no source; pod and multus are supported",
            "spec.networks[3].name: \"c\" is there twice",
            "spec.networks[3]: is bound by masquerade, which only the pod's own network is; bridge is supported",
            "spec.networks[2]: is a second pod network; a pod has one",
        ]
    );
}

#[test]
fn malformed_json_is_an_error_of_its_own() {
    assert!(matches!(parse_vmi("{"), Err(ParseError::Json(_))));
    assert!(matches!(parse_vmi(&"[".repeat(100_000)), Err(ParseError::Json(_))));
    assert_eq!(parse_vmi("[]").unwrap_err().to_string(), "spec: must be an object");
}

#[test]
fn sizes_come_from_the_spec() {
    let size = |domain: Value| {
        let spec = parse_vmi(&json!({"domain": domain}).to_string()).unwrap();
        (spec.domain.vcpus(), spec.domain.guest_memory())
    };
    let none = json!({"devices": {}});
    assert_eq!(size(none), (None, None));
    let topology = json!({"devices": {}, "cpu": {"cores": 2, "threads": 2}, "memory": {"guest": "128M"}});
    assert_eq!(size(topology), (Some(4), Some(128_000_000)));
    let requests = json!({"devices": {}, "cpu": {}, "resources": {"requests": {"cpu": "1500m", "memory": "1Gi"}}});
    assert_eq!(size(requests), (Some(2), Some(1 << 30)));
}

#[test]
fn virtual_machines() {
    type Change = fn(&mut Value);
    let vm = |change: fn(&mut Value)| {
        let mut vm = json!({
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachine",
            "metadata": {"name": "a", "labels": {"x": "y"}},
            "spec": {"runStrategy": "Always", "template": {"metadata": {"labels": {}}, "spec": {"domain": {"devices": {}}}}},
        });
        change(&mut vm);
        parse_virtual_machine(vm).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(vm(|_| ()), Ok(()));
    let refused: [(Change, &str); 6] = [
        (|vm| vm["kind"] = json!("Pod"), "kind: \"Pod\" is not supported by vireo; VirtualMachine is"),
        (|vm| vm["apiVersion"] = Value::Null, "apiVersion: \"no string\" is not supported by vireo; kubevirt.io/v1 is"),
        (|vm| vm["spec"]["running"] = json!(true), "spec.running: excludes spec.runStrategy; name one of them"),
        (
            |vm| vm["spec"]["runStrategy"] = json!("Sometimes"),
            "spec.runStrategy: \"Sometimes\" is not supported by vireo; Always, Halted, Manual, RerunOnFailure and Once are",
        ),
        (
            |vm| vm["spec"]["template"]["spec"]["domain"]["devices"]["sound"] = json!({}),
            "spec.template.spec.domain.devices.sound: not supported by vireo",
        ),
        (|vm| vm["metadata"]["name"] = json!(1), "metadata.name: must be a string"),
    ];
    for (change, expected) in refused {
        assert_eq!(vm(change), Err(expected.to_owned()));
    }
    assert_eq!(
        parse_virtual_machine(json!("x")).unwrap_err().to_string(),
        "apiVersion: missing; kubevirt.io/v1 is needed"
    );
}

#[test]
fn disks_behave_as_they_are_told() {
    let at = "spec.domain.devices.disks[0]";
    let disk = |disk: Value| {
        refusals(&vmi(|spec| {
            spec["domain"]["devices"]["disks"][0] = disk;
            spec["domain"]["devices"]["disks"][0]["name"] = json!("root");
        }))
    };
    for good in [
        json!({"cdrom": {"bus": "virtio", "readonly": true}}),
        json!({"io": "native"}),
        json!({"io": "native", "cache": "none"}),
        json!({"io": "threads", "cache": "writeback"}),
        json!({"cache": "writethrough", "errorPolicy": "enospace", "dedicatedIOThread": true}),
        json!({"cache": "none", "shareable": true}),
        json!({"blockSize": {"custom": {"logical": 4096, "physical": 16384}, "matchVolume": {"enabled": false}}}),
        json!({"blockSize": {"matchVolume": {}}}),
    ] {
        assert_eq!(disk(good), [""; 0]);
    }
    for (bad, expected) in [
        (json!({"cdrom": {"bus": "sata"}}), ".cdrom.bus: \"sata\" is not supported by vireo; virtio is"),
        (
            json!({"cdrom": {"readonly": false}}),
            ".cdrom.readonly: false is not supported by vireo; a cdrom is read-only",
        ),
        (json!({"cdrom": {"tray": "open"}}), ".cdrom.tray: not supported by vireo"),
        (json!({"cdrom": {}, "disk": {}}), ": is disk and cdrom at once; name one of them"),
        (json!({"cache": "unsafe"}), ".cache: \"unsafe\" is not supported by vireo; none, writethrough, writeback are"),
        (json!({"io": "io_uring"}), ".io: \"io_uring\" is not supported by vireo; native, threads are"),
        (json!({"io": "native", "cache": "writeback"}), ".io: native needs cache none"),
        (
            json!({"errorPolicy": "retry"}),
            ".errorPolicy: \"retry\" is not supported by vireo; stop, ignore, report, enospace are",
        ),
        (json!({"shareable": true, "cache": "writeback"}), ".cache: a shareable disk's cache is none"),
        (
            json!({"blockSize": {"custom": {"logical": 512, "physical": 512}, "matchVolume": {}}}),
            ".blockSize: is custom and matchVolume at once; name one of them",
        ),
        (
            json!({"blockSize": {"custom": {"logical": 8192, "physical": 8192}}}),
            ".blockSize.custom.logical: 8192 is not supported by vireo; a power of two from 512 to 4096 is",
        ),
        (
            json!({"blockSize": {"custom": {"logical": 4096, "physical": 512}}}),
            ".blockSize.custom.physical: 512 is not supported by vireo; a power of two from logical up to 2097152 is",
        ),
        (json!({"blockSize": {"custom": {"logical": 512}}}), ".blockSize.custom.physical: missing"),
    ] {
        assert_eq!(disk(bad), [format!("{at}{expected}")]);
    }
}

#[test]
fn hardware_addresses() {
    assert_eq!(parse_mac("02:00:00:Aa:bB:01"), Some([2, 0, 0, 0xaa, 0xbb, 1]));
    assert_eq!(parse_mac("02-00-00-aa-bb-01"), Some([2, 0, 0, 0xaa, 0xbb, 1]));
    for text in [
        "",
        "02:00:00:aa:bb",
        "02:00:00:aa:bb:01:02",
        "02:00:00:aa:bb:1",
        "2:00:00:aa:bb:001",
        "00:00:00:00:00:00",
        "+2:00:00:aa:bb:01",
    ] {
        assert_eq!(parse_mac(text), None, "{text}");
    }
}

#[test]
fn places_in_the_boot_order_are_unique() {
    let spec = vmi(|spec| {
        spec["domain"]["firmware"] = json!({"bootloader": {"efi": {}}});
        spec["domain"]["devices"]["disks"][0]["bootOrder"] = json!(1);
        spec["domain"]["devices"]["interfaces"][0]["bootOrder"] = json!(1);
    });
    let expected = "spec.domain.devices.interfaces[0].bootOrder: 1 is the place of domain.devices.disks[0] already";
    assert_eq!(refusals(&spec), [expected]);
}

#[test]
fn what_cloud_init_is_told_is_short_and_said_once() {
    let told =
        |seed: Value| refusals(&vmi(|spec| spec["volumes"][0] = json!({"name": "root", "cloudInitNoCloud": seed})));
    let at = "spec.volumes[0].cloudInitNoCloud";
    for fine in [
        json!({"userData": "x".repeat(2048)}),
        json!({"networkData": "version: 2"}),
        json!({"secretRef": {"name": "a"}, "networkDataSecretRef": {"name": "b"}}),
        json!({"userDataBase64": "YQ==", "networkData": "x", "userData": ""}),
        // 2048 bytes.
        json!({"networkDataBase64": format!("{}YWE=", "YWFh".repeat(682))}),
    ] {
        assert_eq!(told(fine.clone()), [""; 0], "{fine}");
    }
    for (seed, field, what) in [
        (json!({}), "", "has neither userData nor networkData"),
        (json!({"userData": "", "networkDataBase64": ""}), "", "has neither userData nor networkData"),
        (
            json!({"userData": "x".repeat(2049)}),
            ".userData",
            "2049 bytes; at most 2048 are supported by vireo, and secretRef takes more",
        ),
        (
            json!({"networkDataBase64": "YWFh".repeat(683)}),
            ".networkDataBase64",
            "2049 bytes; at most 2048 are supported by vireo, and networkDataSecretRef takes more",
        ),
        (json!({"userDataBase64": "#cloud-config"}), ".userDataBase64", "is no base64"),
        (json!({"userData": "a", "userDataBase64": "YQ=="}), ".userDataBase64", "excludes userData; name one of them"),
        (json!({"secretRef": {"name": ""}}), "", "has neither userData nor networkData"),
        (json!({"userData": "a", "secretRef": {"name": "a"}}), ".secretRef", "excludes userData; name one of them"),
    ] {
        assert_eq!(told(seed.clone()), [format!("{at}{field}: {what}")], "{seed}");
    }
}
