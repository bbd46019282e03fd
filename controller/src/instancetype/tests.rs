//! What templates become, as JSON: rows of what is written, and of what comes out of it.

use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{InstanceTemplate, InstancetypeSpec, PreferenceSpec};

use super::expand;

/// The spec that comes out, or the paths of what is wrong.
#[allow(clippy::needless_pass_by_value, reason = "rows are written where they are used")]
fn expanded(spec: Value, size: Option<Value>, preference: Option<Value>) -> Result<Value, Vec<String>> {
    let mut template: InstanceTemplate = serde_json::from_value(json!({"spec": spec})).unwrap();
    let size: Option<InstancetypeSpec> = size.map(|size| serde_json::from_value(size).unwrap());
    let preference: Option<PreferenceSpec> = preference.map(|preference| serde_json::from_value(preference).unwrap());
    match expand(&mut template, size.as_ref(), preference.as_ref(), "spec.template.spec") {
        Ok(()) => Ok(serde_json::to_value(&template).unwrap()),
        Err(problems) => Err(problems.into_iter().map(|problem| problem.path).collect()),
    }
}

/// A machine that says `domain`, beside that it has devices.
fn machine(mut domain: Value) -> Value {
    domain.as_object_mut().unwrap().entry("devices").or_insert_with(|| json!({}));
    json!({"domain": domain})
}

fn size(vcpus: u32) -> Value {
    json!({"cpu": {"guest": vcpus}, "memory": {"guest": "2Gi"}})
}

#[test]
fn an_instancetype_sizes_a_machine() {
    let plain = |preference| {
        let spec = expanded(machine(json!({})), Some(size(8)), preference).unwrap();
        spec["spec"]["domain"].clone()
    };
    assert_eq!(plain(None)["memory"], json!({"guest": "2Gi"}));
    let layout = |preference: Value| {
        let cpu = plain(Some(json!({ "cpu": preference })))["cpu"].clone();
        ["sockets", "cores", "threads"].map(|count| cpu[count].as_u64().unwrap())
    };
    let rows = [
        (json!({}), [8, 1, 1]),
        (json!({"preferredCPUTopology": "sockets"}), [8, 1, 1]),
        (json!({"preferredCPUTopology": "preferSockets"}), [8, 1, 1]),
        (json!({"preferredCPUTopology": "any"}), [8, 1, 1]),
        (json!({"preferredCPUTopology": "preferAny"}), [8, 1, 1]),
        (json!({"preferredCPUTopology": "cores"}), [1, 8, 1]),
        (json!({"preferredCPUTopology": "preferCores"}), [1, 8, 1]),
        (json!({"preferredCPUTopology": "threads"}), [1, 1, 8]),
        (json!({"preferredCPUTopology": "preferThreads"}), [1, 1, 8]),
        (json!({"preferredCPUTopology": "spread"}), [4, 2, 1]),
        (json!({"preferredCPUTopology": "preferSpread", "spreadOptions": {"ratio": 4}}), [2, 4, 1]),
        (json!({"preferredCPUTopology": "spread", "spreadOptions": {"ratio": 0}}), [4, 2, 1]),
        (json!({"preferredCPUTopology": "spread", "spreadOptions": {"across": "CoresThreads"}}), [1, 4, 2]),
        (json!({"preferredCPUTopology": "spread", "spreadOptions": {"across": "SocketsCoresThreads"}}), [2, 2, 2]),
    ];
    for (preference, counts) in rows {
        assert_eq!(layout(preference.clone()), counts, "{preference}");
    }
    let one = expanded(machine(json!({})), Some(size(1)), Some(json!({"cpu": {"preferredCPUTopology": "spread"}})));
    assert_eq!(one.unwrap()["spec"]["domain"]["cpu"], json!({"sockets": 1, "cores": 1, "threads": 1}));
}

#[test]
fn everything_of_an_instancetype_arrives() {
    let whole = json!({
        "cpu": {"guest": 2, "model": "host-passthrough", "dedicatedCPUPlacement": true, "isolateEmulatorThread": true},
        "memory": {"guest": "4Gi", "hugepages": {"pageSize": "2Mi"}, "overcommitPercent": 25},
        "annotations": {"example.org/a": "b"}, "nodeSelector": {"disk": "fast"}, "schedulerName": "own",
    });
    let template = expanded(machine(json!({})), Some(whole), None).unwrap();
    assert_eq!(template["metadata"]["annotations"], json!({"example.org/a": "b"}));
    assert_eq!(template["spec"]["nodeSelector"], json!({"disk": "fast"}));
    assert_eq!(template["spec"]["schedulerName"], "own");
    let domain = &template["spec"]["domain"];
    let cpu = json!({
        "sockets": 2, "cores": 1, "threads": 1, "model": "host-passthrough", "dedicatedCpuPlacement": true,
        "isolateEmulatorThread": true,
    });
    assert_eq!(domain["cpu"], cpu);
    assert_eq!(domain["memory"], json!({"guest": "4Gi", "hugepages": {"pageSize": "2Mi"}}));
    assert_eq!(domain["resources"]["requests"]["memory"], (3u64 << 30).to_string());
}

#[test]
fn a_template_that_says_what_its_instancetype_does_is_in_conflict() {
    let whole = json!({
        "cpu": {"guest": 2, "model": "a", "dedicatedCPUPlacement": false, "isolateEmulatorThread": false},
        "memory": {"guest": "4Gi", "hugepages": {"pageSize": "2Mi"}},
        "nodeSelector": {"a": "b"}, "schedulerName": "own",
    });
    let rows = [
        (json!({"cpu": {"sockets": 1}}), "cpu.sockets"),
        (json!({"cpu": {"cores": 1}}), "cpu.cores"),
        (json!({"cpu": {"threads": 1}}), "cpu.threads"),
        (json!({"cpu": {"model": "b"}}), "cpu.model"),
        (json!({"cpu": {"dedicatedCpuPlacement": true}}), "cpu.dedicatedCPUPlacement"),
        (json!({"cpu": {"isolateEmulatorThread": true}}), "cpu.isolateEmulatorThread"),
        (json!({"memory": {"guest": "1Gi"}}), "memory.guest"),
        (json!({"memory": {"hugepages": {"pageSize": "2Mi"}}}), "memory.hugepages"),
        (json!({"resources": {"requests": {"cpu": "1"}}}), "resources.requests.cpu"),
        (json!({"resources": {"limits": {"cpu": "1"}}}), "resources.limits.cpu"),
        (json!({"resources": {"requests": {"memory": "1Gi"}}}), "resources.requests.memory"),
        (json!({"resources": {"limits": {"memory": "1Gi"}}}), "resources.limits.memory"),
    ];
    for (domain, field) in rows {
        let problems = expanded(machine(domain), Some(whole.clone()), None).unwrap_err();
        assert_eq!(problems, [format!("spec.template.spec.domain.{field}")]);
    }
    for pod in [json!({"nodeSelector": {"c": "d"}}), json!({"schedulerName": "other"})] {
        let mut spec = machine(json!({}));
        let (field, value) = pod.as_object().unwrap().iter().next().unwrap();
        spec[field] = value.clone();
        assert_eq!(expanded(spec, Some(whole.clone()), None).unwrap_err(), [format!("spec.template.spec.{field}")]);
    }
    // What an instancetype doesn't say, a template may.
    let free = machine(json!({"cpu": {"model": "b", "dedicatedCpuPlacement": true, "sockets": 0},
                              "memory": {"hugepages": {"pageSize": "1Gi"}}}));
    let domain = expanded(free, Some(size(1)), None).unwrap()["spec"]["domain"].clone();
    assert_eq!((&domain["cpu"]["model"], &domain["memory"]["hugepages"]["pageSize"]), (&json!("b"), &json!("1Gi")));
}

#[test]
fn annotations_that_differ_are_in_conflict() {
    let said = |value: &str| {
        let template = json!({"metadata": {"annotations": {"a": value}}, "spec": {"domain": {"devices": {}}}});
        let mut template: InstanceTemplate = serde_json::from_value(template).unwrap();
        let mut whole = size(1);
        whole["annotations"] = json!({"a": "b"});
        let whole = serde_json::from_value(whole).unwrap();
        expand(&mut template, Some(&whole), None, "spec.template.spec")
    };
    assert!(said("b").is_ok());
    assert_eq!(said("c").unwrap_err()[0].path, "spec.template.metadata.annotations[a]");
}

#[test]
fn vcpus_that_cannot_be_spread_are_refused() {
    for (vcpus, options) in [
        (3, json!({})),
        (6, json!({"ratio": 4})),
        (3, json!({"across": "CoresThreads"})),
        (6, json!({"across": "SocketsCoresThreads"})),
    ] {
        let preference = json!({"cpu": {"preferredCPUTopology": "spread", "spreadOptions": options}});
        let problems = expanded(machine(json!({})), Some(size(vcpus)), Some(preference)).unwrap_err();
        assert_eq!(problems, ["instancetype.spec.cpu.guest"], "{vcpus} {options}");
    }
}

/// Everything that a preference can say.
fn whole_preference() -> Value {
    json!({
        "annotations": {"a": "preferred"},
        "cpu": {"preferredCPUFeatures": [{"name": "ssbd", "policy": "require"}, {"name": "x2apic"}]},
        "devices": {
            "preferredAutoattachGraphicsDevice": false, "preferredAutoattachMemBalloon": false,
            "preferredAutoattachPodInterface": false, "preferredAutoattachSerialConsole": true,
            "preferredBlockMultiQueue": true, "preferredNetworkInterfaceMultiQueue": true, "preferredRng": {},
            "preferredDiskBus": "virtio", "preferredCdromBus": "virtio", "preferredDiskCache": "none",
            "preferredDiskIO": "native", "preferredDiskBlockSize": {"matchVolume": {}},
            "preferredDiskDedicatedIoThread": true, "preferredInterfaceModel": "virtio",
            "preferredInterfaceMasquerade": {},
        },
        "features": {"preferredKvm": {"hidden": true}},
        "firmware": {"preferredEfi": {"secureBoot": false}},
        "preferredArchitecture": "amd64", "preferredSubdomain": "sub", "preferredTerminationGracePeriodSeconds": 7,
    })
}

#[test]
fn a_preference_fills_in() {
    let spec = json!({
        "domain": {"devices": {"disks": [{"name": "cd", "cdrom": {}}], "interfaces": [{"name": "a"}, {"name": "b"}]}},
        "networks": [{"name": "a", "pod": {}}, {"name": "b", "multus": {"networkName": "n"}}],
        "volumes": [{"name": "cd", "emptyDisk": {"capacity": "1Gi"}}, {"name": "alone", "emptyDisk": {"capacity": "1Gi"}}],
    });
    let template = expanded(spec, None, Some(whole_preference())).unwrap();
    assert_eq!(template["metadata"]["annotations"], json!({"a": "preferred"}));
    let spec = &template["spec"];
    assert_eq!((&spec["architecture"], &spec["subdomain"]), (&json!("amd64"), &json!("sub")));
    assert_eq!(spec["terminationGracePeriodSeconds"], 7);
    let domain = &spec["domain"];
    assert_eq!(domain["cpu"]["features"], json!([{"name": "ssbd", "policy": "require"}, {"name": "x2apic"}]));
    assert_eq!(domain["features"], json!({"kvm": {"hidden": true}}));
    assert_eq!(domain["firmware"], json!({"bootloader": {"efi": {"secureBoot": false}}}));
    let disk = json!({
        "name": "alone", "disk": {"bus": "virtio"}, "cache": "none", "io": "native", "blockSize": {"matchVolume": {}},
        "dedicatedIOThread": true,
    });
    let devices = json!({
        "disks": [{"name": "cd", "cdrom": {"bus": "virtio"}}, disk],
        "interfaces": [{"name": "a", "model": "virtio", "masquerade": {}}, {"name": "b", "model": "virtio"}],
        "autoattachGraphicsDevice": false, "autoattachMemBalloon": false, "autoattachPodInterface": false,
        "autoattachSerialConsole": true, "blockMultiQueue": true, "networkInterfaceMultiqueue": true, "rng": {},
    });
    assert_eq!(domain["devices"], devices);
}

#[test]
fn what_a_template_says_stays() {
    let spec = json!({
        "architecture": "arm64", "subdomain": "own", "terminationGracePeriodSeconds": 0,
        "domain": {
            "cpu": {"features": [{"name": "ssbd", "policy": "disable"}]},
            "features": {"kvm": {"hidden": false}}, "firmware": {"bootloader": {"bios": {"useSerial": true}}},
            "devices": {
                "disks": [{"name": "d", "disk": {"bus": "sata"}, "cache": "writeback", "io": "threads",
                           "blockSize": {"custom": {"logical": 512, "physical": 512}}, "dedicatedIOThread": false}],
                "interfaces": [{"name": "a", "bridge": {}, "model": "e1000"}],
                "autoattachGraphicsDevice": true, "autoattachMemBalloon": true, "autoattachPodInterface": true,
                "autoattachSerialConsole": false, "blockMultiQueue": false, "networkInterfaceMultiqueue": false,
                "rng": {},
            },
        },
        "networks": [{"name": "a", "pod": {}}], "volumes": [{"name": "d", "emptyDisk": {"capacity": "1Gi"}}],
    });
    let mut said = expanded(spec.clone(), None, None).unwrap();
    said["spec"]["domain"]["cpu"]["features"].as_array_mut().unwrap().push(json!({"name": "x2apic"}));
    let mut made = expanded(spec, None, Some(whole_preference())).unwrap();
    made["metadata"] = said["metadata"].clone();
    assert_eq!(made, said);
}

#[test]
fn firmware_is_one_of_the_two() {
    let loader = |said: Value, preferred: Value| {
        let made = expanded(machine(json!({ "firmware": said })), None, Some(json!({ "firmware": preferred })));
        made.unwrap()["spec"]["domain"]["firmware"].clone()
    };
    let rows = [
        (json!({}), json!({"preferredUseBios": true}), json!({"bootloader": {"bios": {}}})),
        (
            json!({}),
            json!({"preferredUseBios": true, "preferredUseBiosSerial": true}),
            json!({"bootloader": {"bios": {"useSerial": true}}}),
        ),
        (json!({}), json!({"preferredUseBios": false}), json!({"bootloader": {}})),
        (json!({}), json!({"preferredUseEfi": true}), json!({"bootloader": {"efi": {}}})),
        (
            json!({}),
            json!({"preferredUseEfi": true, "preferredUseSecureBoot": true}),
            json!({"bootloader": {"efi": {"secureBoot": true}}}),
        ),
        (
            json!({}),
            json!({"preferredEfi": {"secureBoot": false}, "preferredUseSecureBoot": true}),
            json!({"bootloader": {"efi": {"secureBoot": false}}}),
        ),
        (
            json!({"bootloader": {"efi": {}}}),
            json!({"preferredUseBios": true, "preferredUseSecureBoot": false}),
            json!({"bootloader": {"efi": {"secureBoot": false}}}),
        ),
        (json!({"kernelBoot": {}}), json!({"preferredUseEfi": true}), json!({"kernelBoot": {}})),
    ];
    for (said, preferred, made) in rows {
        assert_eq!(loader(said.clone(), preferred.clone()), made, "{said} {preferred}");
    }
}

#[test]
fn what_a_preference_requires_must_be_there() {
    let required = json!({"requirements": {"cpu": {"guest": 4}, "memory": {"guest": "2Gi"}, "architecture": "amd64"}});
    let check = |spec: Value, size: Option<Value>| expanded(spec, size, Some(required.clone()));
    assert!(check(machine(json!({})), Some(size(4))).is_ok());
    assert_eq!(check(machine(json!({})), Some(size(2))).unwrap_err(), ["spec.instancetype"]);
    let small = json!({"cpu": {"guest": 4}, "memory": {"guest": "1Gi"}});
    assert_eq!(check(machine(json!({})), Some(small)).unwrap_err(), ["spec.instancetype"]);
    let own = |cpu: Value, memory: &str| machine(json!({"cpu": cpu, "memory": {"guest": memory}}));
    assert!(check(own(json!({"sockets": 4}), "2Gi"), None).is_ok());
    let (cpu, memory) = ("spec.template.spec.domain.cpu", "spec.template.spec.domain.memory");
    assert_eq!(check(own(json!({"cores": 4}), "2Gi"), None).unwrap_err(), [cpu]);
    assert_eq!(check(own(json!({"sockets": 4}), "1Gi"), None).unwrap_err(), [memory]);
    assert_eq!(check(machine(json!({})), None).unwrap_err(), [cpu, memory]);
    let mut other = own(json!({"sockets": 4}), "2Gi");
    other["architecture"] = json!("arm64");
    assert_eq!(check(other, None).unwrap_err(), ["spec.template.spec.architecture"]);

    let provided = |topology: &str, options: Value, cpu: Value| {
        let preference = json!({
            "cpu": {"preferredCPUTopology": topology, "spreadOptions": options}, "requirements": {"cpu": {"guest": 4}},
        });
        expanded(machine(json!({ "cpu": cpu })), None, Some(preference)).is_ok()
    };
    for (topology, options, cpu, is_enough) in [
        ("cores", json!({}), json!({"cores": 4}), true),
        ("cores", json!({}), json!({"sockets": 4}), false),
        ("threads", json!({}), json!({"threads": 4}), true),
        ("threads", json!({}), json!({"cores": 4}), false),
        ("any", json!({}), json!({"cores": 2, "threads": 2}), true),
        ("any", json!({}), json!({"cores": 2}), false),
        ("spread", json!({}), json!({"sockets": 2, "cores": 2}), true),
        ("spread", json!({}), json!({"sockets": 4}), false),
        ("spread", json!({"across": "CoresThreads"}), json!({"cores": 2, "threads": 2}), true),
        ("spread", json!({"across": "SocketsCoresThreads"}), json!({"sockets": 1, "cores": 2, "threads": 2}), true),
        ("spread", json!({"across": "SocketsCoresThreads"}), json!({"cores": 2, "threads": 2}), false),
    ] {
        assert_eq!(provided(topology, options.clone(), cpu.clone()), is_enough, "{topology} {options} {cpu}");
    }
}
