//! Instances and the pods that they are.

use serde_json::{Value, json};

use super::restricted::forbidden;
use super::*;
use crate::admission::table::{Case, cases};

const UID: &str = "3d5fb6d4-2f1c-4f3e-9a35-6f5a1d9be7c1";

/// The pod of an instance `web` with `spec`, or why there is none; `changes` are merged into the instance.
fn made_of(spec: &Value, changes: &Value, configuration: &Value) -> Result<Value, PodError> {
    let mut document = json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": "web", "namespace": "shop", "uid": UID, "labels": {"app": "web"}},
        "spec": spec,
    });
    json_patch::merge(&mut document, changes);
    let vmi = VirtualMachineInstance::parse(document).unwrap();
    let claims = [
        ("root", "Filesystem", "10Gi", "false"),
        ("raw", "Block", "1Gi", "false"),
        ("full", "Filesystem", "2Gi", "true"),
        // The admission table's.
        ("golden", "Filesystem", "1Gi", "false"),
        ("iso", "Filesystem", "1Gi", "false"),
    ];
    let claims = claims.map(|(name, mode, size, preallocation)| {
        let claim = json!({
            "metadata": {"name": name, "annotations": {"cdi.kubevirt.io/storage.preallocation": preallocation}},
            "spec": {"volumeMode": mode, "resources": {"requests": {"storage": size}}},
        });
        (name.to_owned(), serde_json::from_value(claim).unwrap())
    });
    let source = Source {
        vmi: &vmi,
        spec: &vmi.spec().unwrap(),
        configuration: &serde_json::from_value(configuration.clone()).unwrap(),
        claims: &BTreeMap::from(claims),
        controller_key: "key",
        launcher_image: "launcher:1",
    };
    let pod = pod(&source)?;
    let is_hosts = |volume: &Value| volume.get("hostPath").is_some();
    let value = serde_json::to_value(&pod).unwrap();
    if !value["spec"]["volumes"].as_array().into_iter().flatten().any(is_hosts) {
        assert_eq!(forbidden(&pod), Vec::<String>::new());
    }
    Ok(value)
}

fn pod_of(spec: &Value) -> Value {
    made_of(spec, &json!({}), &json!({})).unwrap()
}

fn refused(spec: &Value) -> String {
    made_of(spec, &json!({}), &json!({})).unwrap_err().to_string()
}

/// A spec with a containerDisk, `domain` merged into its domain.
fn domain(domain: &Value) -> Value {
    let mut spec = json!({
        "domain": {"devices": {"disks": [{"name": "disk"}]}},
        "volumes": [{"name": "disk", "containerDisk": {"image": "debian:12"}}],
    });
    json_patch::merge(&mut spec["domain"], domain);
    spec
}

/// A spec with these volumes.
fn volumes_of(volumes: &Value) -> Value {
    json!({"domain": {"devices": {}, "memory": {"guest": "1Gi"}}, "volumes": volumes})
}

fn container(pod: &Value) -> &Value {
    &pod["spec"]["containers"][0]
}

#[test]
fn the_whole_pod_of_a_small_machine() {
    let mut pod = pod_of(&domain(&json!({"memory": {"guest": "1Gi"}, "cpu": {"cores": 2}})));
    let machine: Value =
        serde_json::from_str(pod["metadata"]["annotations"]["vireo.dev/vmi"].take().as_str().unwrap()).unwrap();
    assert_eq!(machine["domain"]["cpu"], json!({"cores": 2}));
    assert_eq!(machine["domain"]["firmware"], json!({"uuid": UID}));
    vireo_runtimeclass::parse_vmi(&machine.to_string()).unwrap();
    let expected = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "virt-launcher-web-wwjsc",
            "generateName": "virt-launcher-web-",
            "namespace": "shop",
            "labels": {
                "app": "web",
                "kubevirt.io": "virt-launcher",
                "kubevirt.io/created-by": UID,
                "vm.kubevirt.io/name": "web",
                "vmi.kubevirt.io/id": "web",
            },
            "annotations": {
                "descheduler.alpha.kubernetes.io/request-evict-only": "",
                "kubectl.kubernetes.io/default-container": "compute",
                "kubevirt.io/domain": "web",
                "kubevirt.io/migrationTransportUnix": "true",
                "vireo.dev/controller-key": "key",
                "vireo.dev/vmi": null,
            },
            "ownerReferences": [{
                "apiVersion": "kubevirt.io/v1",
                "kind": "VirtualMachineInstance",
                "name": "web",
                "uid": UID,
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "runtimeClassName": "vireo",
            "containers": [{
                "name": "compute",
                "image": "debian:12",
                "command": ["/.vireo/machine"],
                "env": [{"name": "VIREO_VMI", "value": "annotation"}],
                "resources": {"requests": {"cpu": "200m", "memory": "1024Mi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                    "runAsNonRoot": true,
                    "runAsUser": 107,
                },
            }],
            "restartPolicy": "Never",
            "securityContext": {
                "fsGroup": 107,
                "runAsGroup": 107,
                "runAsNonRoot": true,
                "runAsUser": 107,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "readinessGates": [{"conditionType": "kubevirt.io/virtual-machine-unpaused"}],
            "terminationGracePeriodSeconds": 45,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "hostname": "web",
            "nodeSelector": {"kubevirt.io/schedulable": "true"},
        },
    });
    assert_eq!(pod, expected);
}

#[test]
fn names_are_one_instances_own_and_not_too_long() {
    let named = |name: &str, uid: &str| {
        let changes = json!({"metadata": {"name": name, "uid": uid}});
        made_of(&domain(&json!({})), &changes, &json!({})).unwrap()
    };
    let pod = named("web", UID);
    assert_eq!(pod["metadata"]["name"], pod_of(&domain(&json!({})))["metadata"]["name"]);
    assert_ne!(pod["metadata"]["name"], named("web", "another")["metadata"]["name"]);
    let long = format!("{}.{}", "a".repeat(62), "b".repeat(30));
    let pod = named(&long, UID);
    assert_eq!(pod["metadata"]["name"].as_str().unwrap().len(), 63);
    assert_eq!(pod["metadata"]["generateName"], format!("virt-launcher-{long}-"));
    let longest = named(&"a".repeat(253), UID);
    assert_eq!(longest["metadata"]["generateName"].as_str().unwrap().len(), 253, "the API server takes no more");
    assert_eq!(pod["spec"]["hostname"], "a".repeat(62));
    let id = pod["metadata"]["labels"]["vmi.kubevirt.io/id"].as_str().unwrap();
    assert_eq!(id, format!("{}-fb62b074", "a".repeat(54)), "KubeVirt's: virtctl looks for it");
}

#[test]
fn what_pods_ask_of_their_nodes() {
    let dedicated = json!({"cores": 2, "dedicatedCpuPlacement": true});
    let isolated = json!({"cores": 2, "dedicatedCpuPlacement": true, "isolateEmulatorThread": true});
    let gib = json!({"guest": "1Gi"});
    let huge = json!({"guest": "1Gi", "hugepages": {"pageSize": "2Mi"}});
    // 16 MiB and a 128th.
    let (with_reserve, reserve) = ("1048Mi", "24Mi");
    for (of, requests, limits) in [
        (json!({}), json!({"cpu": "100m", "memory": "512Mi"}), Value::Null),
        (
            json!({"memory": gib, "cpu": {"sockets": 2, "cores": 5}}),
            json!({"cpu": "1", "memory": "1024Mi"}),
            Value::Null,
        ),
        (json!({"memory": gib, "cpu": {"cores": 3}}), json!({"cpu": "300m", "memory": "1024Mi"}), Value::Null),
        (
            json!({"memory": gib, "resources": {"requests": {"cpu": "1500m", "memory": "700Mi"}}}),
            json!({"cpu": "1500m", "memory": "700Mi"}),
            Value::Null,
        ),
        (
            json!({"resources": {"limits": {"cpu": "2", "memory": "1Gi"}}}),
            json!({"cpu": "200m", "memory": with_reserve}),
            json!({"cpu": "2", "memory": with_reserve}),
        ),
        (
            json!({"memory": gib, "resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi"}}}),
            json!({"cpu": "100m", "memory": with_reserve}),
            json!({"memory": "2072Mi"}),
        ),
        (
            json!({"memory": gib, "cpu": dedicated}),
            json!({"cpu": "2", "memory": with_reserve}),
            json!({"cpu": "2", "memory": with_reserve}),
        ),
        (
            json!({"memory": gib, "cpu": isolated}),
            json!({"cpu": "3", "memory": with_reserve}),
            json!({"cpu": "3", "memory": with_reserve}),
        ),
        (
            json!({"memory": huge}),
            json!({"cpu": "100m", "memory": reserve, "hugepages-2Mi": "1024Mi"}),
            json!({"hugepages-2Mi": "1024Mi"}),
        ),
        (
            json!({"memory": huge, "cpu": dedicated}),
            json!({"cpu": "2", "memory": reserve, "hugepages-2Mi": "1024Mi"}),
            json!({"cpu": "2", "memory": reserve, "hugepages-2Mi": "1024Mi"}),
        ),
    ] {
        let pod = pod_of(&domain(&of));
        let resources = &container(&pod)["resources"];
        assert_eq!((&resources["requests"], &resources["limits"]), (&requests, &limits), "{of}");
    }
    let configuration = json!({"developerConfiguration": {"cpuAllocationRatio": 1, "memoryOvercommit": 200}});
    let of = domain(&json!({"memory": gib, "cpu": {"cores": 3}}));
    let pod = made_of(&of, &json!({}), &configuration).unwrap();
    assert_eq!(container(&pod)["resources"], json!({"requests": {"cpu": "3", "memory": "512Mi"}}));
}

#[test]
fn volumes_are_where_the_shim_looks() {
    let private = |name: &str| format!("/var/run/kubevirt-private/{name}");
    for (volume, source, at, read_only) in [
        (
            json!({"persistentVolumeClaim": {"claimName": "root"}}),
            json!({"persistentVolumeClaim": {"claimName": "root"}}),
            private("vmi-disks/v"),
            false,
        ),
        (
            json!({"persistentVolumeClaim": {"claimName": "root", "readOnly": true}}),
            json!({"persistentVolumeClaim": {"claimName": "root", "readOnly": true}}),
            private("vmi-disks/v"),
            false,
        ),
        (
            json!({"dataVolume": {"name": "full"}}),
            json!({"persistentVolumeClaim": {"claimName": "full"}}),
            private("vmi-disks/v"),
            false,
        ),
        (
            json!({"ephemeral": {"persistentVolumeClaim": {"claimName": "root", "readOnly": true}}}),
            json!({"persistentVolumeClaim": {"claimName": "root", "readOnly": true}}),
            private("vmi-disks/v"),
            false,
        ),
        (
            json!({"hostDisk": {"path": "/data/a.img", "type": "Disk"}}),
            json!({"hostPath": {"path": "/data", "type": "Directory"}}),
            private("vmi-disks/v"),
            false,
        ),
        (
            json!({"hostDisk": {"path": "/a.img", "type": "DiskOrCreate", "capacity": "1Gi"}}),
            json!({"hostPath": {"path": "/", "type": "DirectoryOrCreate"}}),
            private("vmi-disks/v"),
            false,
        ),
        (
            json!({"configMap": {"name": "m", "optional": true}}),
            json!({"configMap": {"name": "m", "optional": true}}),
            private("config-map/v"),
            true,
        ),
        (json!({"secret": {"secretName": "s"}}), json!({"secret": {"secretName": "s"}}), private("secret/v"), true),
        (
            json!({"sysprep": {"secret": {"name": "s"}}}),
            json!({"secret": {"secretName": "s"}}),
            private("sysprep/v"),
            true,
        ),
        (
            json!({"sysprep": {"configMap": {"name": "m"}}}),
            json!({"configMap": {"name": "m"}}),
            private("sysprep/v"),
            true,
        ),
        (
            json!({"downwardAPI": {"fields": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}),
            json!({"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}),
            private("downwardapi/v"),
            true,
        ),
    ] {
        let mut with_name = volume.clone();
        with_name["name"] = "v".into();
        let pod = pod_of(&volumes_of(&json!([with_name])));
        let mut expected = source;
        expected["name"] = "v".into();
        assert_eq!(pod["spec"]["volumes"], json!([expected]), "{volume}");
        let mut mount = json!({"name": "v", "mountPath": at});
        if read_only {
            mount["readOnly"] = true.into();
        }
        assert_eq!(container(&pod)["volumeMounts"], json!([mount]), "{volume}");
        assert_eq!(container(&pod)["image"], "launcher:1");
    }
    let pod = pod_of(&volumes_of(&json!([{"name": "v", "persistentVolumeClaim": {"claimName": "raw"}}])));
    assert_eq!(container(&pod)["volumeDevices"], json!([{"name": "v", "devicePath": "/dev/v"}]));
    assert_eq!(container(&pod)["volumeMounts"], Value::Null);
    for plain in [json!({"emptyDisk": {"capacity": "1Gi"}}), json!({"cloudInitNoCloud": {"userData": "#cloud-config"}})]
    {
        let mut plain = plain;
        plain["name"] = "v".into();
        assert_eq!(pod_of(&volumes_of(&json!([plain])))["spec"]["volumes"], Value::Null);
    }
    assert_eq!(refused(&volumes_of(&json!([{"name": "v", "dataVolume": {"name": "none"}}]))), "didn't find PVC none");
}

#[test]
fn claims_tell_how_large_their_images_become() {
    let pod = pod_of(&volumes_of(&json!([
        {"name": "a", "persistentVolumeClaim": {"claimName": "root"}},
        {"name": "b", "dataVolume": {"name": "full"}},
        {"name": "c", "persistentVolumeClaim": {"claimName": "raw"}},
        {"name": "d", "persistentVolumeClaim": {"claimName": "root", "readOnly": true}},
        {"name": "e", "ephemeral": {"persistentVolumeClaim": {"claimName": "root"}}},
    ])));
    let claims = pod["metadata"]["annotations"]["vireo.dev/claims"].as_str().unwrap();
    assert_eq!(claims, r#"{"a":{"capacity":"10Gi"},"b":{"capacity":"2Gi","preallocation":true}}"#);
    vireo_runtimeclass::parse_claims(claims).unwrap();
}

#[test]
fn secrets_of_seeds_and_credentials() {
    let mut spec = volumes_of(&json!([{"name": "seed", "cloudInitNoCloud": {
        "secretRef": {"name": "user"}, "networkDataSecretRef": {"name": "net"},
    }}]));
    let keys = |secret: &str| json!({"sshPublicKey": {"source": {"secret": {"secretName": secret}}, "propagationMethod": {"noCloud": {}}}});
    spec["accessCredentials"] = json!([keys("me"), keys("me"), keys("a.b")]);
    let pod = pod_of(&spec);
    let volumes = json!([
        {"name": "seed-udata", "secret": {"secretName": "user"}},
        {"name": "seed-ndata", "secret": {"secretName": "net"}},
        {"name": "volume-2-access-cred", "secret": {"secretName": "a.b"}},
        {"name": "me-access-cred", "secret": {"secretName": "me"}},
    ]);
    assert_eq!(pod["spec"]["volumes"], volumes);
    let file = |volume: &str, key: &str| {
        let path = format!("/var/run/kubevirt-private/secret/seed/{key}");
        json!({"name": volume, "mountPath": path, "subPath": key, "readOnly": true})
    };
    let folder = |volume: &str, name: &str| json!({"name": volume, "mountPath": format!("/var/run/kubevirt-private/secret/{name}"), "readOnly": true});
    let mounts = json!([
        file("seed-udata", "userdata"),
        file("seed-udata", "userData"),
        file("seed-ndata", "networkdata"),
        file("seed-ndata", "networkData"),
        folder("volume-2-access-cred", "a.b-access-cred"),
        folder("me-access-cred", "me-access-cred"),
    ]);
    assert_eq!(container(&pod)["volumeMounts"], mounts);
}

#[test]
fn a_service_account_is_the_pods() {
    let volume = json!([{"name": "v", "serviceAccount": {"serviceAccountName": "robot"}}]);
    let pod = pod_of(&volumes_of(&volume));
    assert_eq!(pod["spec"]["serviceAccountName"], "robot");
    assert_eq!(pod["spec"]["automountServiceAccountToken"], true);
    assert_eq!(pod["spec"]["volumes"], Value::Null);
}

#[test]
fn all_of_a_machines_files_are_of_one_image() {
    let kernel = json!({"kernelBoot": {"container": {"image": "kernel:1", "kernelPath": "/vmlinuz"}}});
    let disk = |name: &str, image: &str| json!({"name": name, "containerDisk": {"image": image, "path": "/disk/a"}});
    let spec = |volumes: &Value, firmware: &Value| {
        let mut spec = volumes_of(volumes);
        spec["domain"]["firmware"] = firmware.clone();
        spec
    };
    let pod = pod_of(&spec(&json!([disk("a", "i:1"), disk("b", "i:1")]), &json!({})));
    assert_eq!(container(&pod)["image"], "i:1");
    let pod = pod_of(&spec(&json!([]), &kernel));
    assert_eq!(container(&pod)["image"], "kernel:1");
    let told = refused(&spec(&json!([disk("a", "i:1"), disk("b", "i:2")]), &json!({})));
    let expected = r#"spec.volumes[1].containerDisk.image: "i:2" is another image than "i:1" (spec.volumes[0].containerDisk.image)"#;
    assert!(told.starts_with(expected), "{told}");
    let told = refused(&spec(&json!([disk("a", "i:1")]), &kernel));
    assert!(told.starts_with(r#"spec.domain.firmware.kernelBoot.container.image: "kernel:1" is another"#), "{told}");
}

#[test]
fn images_are_pulled_as_their_disks_say() {
    let pulled = |volumes: &Value, kernel: &Value, configuration: &Value| {
        let mut spec = volumes_of(volumes);
        spec["domain"]["firmware"] = json!({"kernelBoot": {"container": kernel}});
        let pod = made_of(&spec, &json!({}), configuration).unwrap();
        (container(&pod)["imagePullPolicy"].clone(), pod["spec"]["imagePullSecrets"].clone())
    };
    let disk = |name: &str, policy: Value, secret: Value| {
        let source = json!({"image": "i:1", "path": "/disk/a", "imagePullPolicy": policy, "imagePullSecret": secret});
        json!({"name": name, "containerDisk": source})
    };
    let none = || disk("a", Value::Null, json!(""));
    let kernel = json!({"kernelPath": "/k"});
    let always = json!({"imagePullPolicy": "Always"});
    assert_eq!(pulled(&json!([none()]), &kernel, &json!({})), (Value::Null, Value::Null));
    assert_eq!(pulled(&json!([none()]), &kernel, &always).0, "Always");
    let never = json!([disk("a", json!("Never"), json!("s"))]);
    assert_eq!(pulled(&never, &kernel, &always), (json!("Never"), json!([{"name": "s"}])));
    let two = json!([disk("a", json!("Never"), json!("s")), disk("b", json!("IfNotPresent"), json!("s"))]);
    let kernel = json!({"kernelPath": "/k", "image": "i:1", "imagePullPolicy": "Always", "imagePullSecret": "t"});
    assert_eq!(pulled(&two, &json!({"kernelPath": "/k"}), &json!({})).0, "IfNotPresent", "the most eager");
    assert_eq!(pulled(&two, &kernel, &json!({})), (json!("Always"), json!([{"name": "s"}, {"name": "t"}])));
}

#[test]
fn what_users_say_of_the_pod() {
    let mut spec = domain(&json!({"devices": {"interfaces": [
        {"name": "default", "masquerade": {}, "ports": [{"name": "http", "port": 80}, {"port": 53, "protocol": "UDP"}]},
    ]}}));
    let settings = json!({
        "architecture": "amd64",
        "networks": [{"name": "default", "pod": {}}],
        "nodeSelector": {"zone": "a"},
        "affinity": {"nodeAffinity": {}},
        "tolerations": [{"key": "vm", "operator": "Exists"}],
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
        "schedulerName": "mine",
        "priorityClassName": "high",
        "serviceAccountName": "robot",
        "hostname": "www",
        "subdomain": "shop",
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["10.0.0.10"]},
        "terminationGracePeriodSeconds": 0,
        "readinessProbe": {"httpGet": {"port": 80, "path": "/"}, "periodSeconds": 5},
        "livenessProbe": {"guestAgentPing": {}, "failureThreshold": 9},
    });
    json_patch::merge(&mut spec, &settings);
    let changes = json!({"metadata": {"annotations": {
        "sidecar.istio.io/inject": "true",
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
        "vireo.dev/controller-key": "mine",
        "vireo.dev/rate-limits": "{}",
        "example.com/note": "kept",
    }}});
    let configuration = json!({
        "imagePullPolicy": "Always", "developerConfiguration": {"nodeSelectors": {"zone": "z", "vms": "yes"}},
    });
    let pod = made_of(&spec, &changes, &configuration).unwrap();
    let of = &pod["spec"];
    assert_eq!(
        of["nodeSelector"],
        json!({"kubevirt.io/schedulable": "true", "kubernetes.io/arch": "amd64", "zone": "a", "vms": "yes"})
    );
    for field in ["affinity", "tolerations", "topologySpreadConstraints", "schedulerName", "priorityClassName"]
        .into_iter()
        .chain(["serviceAccountName", "hostname", "subdomain", "dnsPolicy", "dnsConfig"])
    {
        assert_eq!(of[field], settings[field], "{field}");
    }
    assert_eq!(of["terminationGracePeriodSeconds"], 15);
    assert_eq!(of["automountServiceAccountToken"], true, "Istio's proxy has one");
    let container = container(&pod);
    assert_eq!(container["imagePullPolicy"], "Always");
    assert_eq!(container["readinessProbe"], settings["readinessProbe"]);
    assert_eq!(container["livenessProbe"], json!({"exec": {"command": ["/.vireo/ping"]}, "failureThreshold": 9}));
    let ports = json!([
        {"name": "http", "containerPort": 80, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"},
    ]);
    assert_eq!(container["ports"], ports);
    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(annotations["vireo.dev/controller-key"], "key");
    assert_eq!(annotations["vireo.dev/rate-limits"], "{}");
    assert_eq!(annotations["example.com/note"], "kept");
    assert_eq!(annotations["kubectl.kubernetes.io/last-applied-configuration"], Value::Null);
    assert_eq!(pod["metadata"]["labels"]["sidecar.istio.io/inject"], "true");
    assert_eq!(pod["metadata"]["labels"]["vm.kubevirt.io/name"], "www");
    let machine = annotations["vireo.dev/vmi"].as_str().unwrap();
    vireo_runtimeclass::parse_vmi(machine).expect("the shim reads nothing of the pod's own matters");
}

#[test]
fn further_networks_are_multus() {
    let mut spec = domain(&json!({"devices": {"interfaces": [
        {"name": "default", "masquerade": {}},
        {"name": "blue", "bridge": {}, "macAddress": "02:00:00:00:00:01"},
        {"name": "gone", "bridge": {}, "state": "absent"},
        {"name": "red", "bridge": {}},
    ]}}));
    spec["networks"] = json!([
        {"name": "default", "pod": {}},
        {"name": "blue", "multus": {"networkName": "vlan7"}},
        {"name": "gone", "multus": {"networkName": "vlan8"}},
        {"name": "red", "multus": {"networkName": "other/vlan9"}},
    ]);
    let pod = pod_of(&spec);
    let networks: Value =
        serde_json::from_str(pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"].as_str().unwrap()).unwrap();
    let expected = json!([
        {"name": "vlan7", "namespace": "shop", "interface": "pod16477688c0e", "mac": "02:00:00:00:00:01"},
        {"name": "vlan9", "namespace": "other", "interface": "podb1f51a511f1"},
    ]);
    assert_eq!(networks, expected);

    let mut spec = domain(&json!({"devices": {"interfaces": [{"name": "blue", "bridge": {}}]}}));
    spec["networks"] = json!([{"name": "blue", "multus": {"networkName": "vlan7", "default": true}}]);
    let annotations = pod_of(&spec)["metadata"]["annotations"].clone();
    assert_eq!(annotations["v1.multus-cni.io/default-network"], "shop/vlan7");
    assert_eq!(annotations["k8s.v1.cni.cncf.io/networks"], Value::Null);
}

/// Each is looked at where it is made; here are all that admission's own table lets in.
#[test]
fn what_is_let_in_is_a_pod_that_a_restricted_namespace_takes() {
    let is_let_in = |case: &Case| {
        case.plural == "virtualmachineinstances"
            && case.refused.is_empty()
            && case.old.is_none()
            && case.object["metadata"]["deletionTimestamp"].is_null()
    };
    let (mut on_host, mut made) = (0, 0);
    for case in cases().iter().filter(|case| is_let_in(case)) {
        let configuration = if case.configuration.is_null() { json!({}) } else { case.configuration.clone() };
        let changes = json!({"metadata": case.object["metadata"]});
        let pod = made_of(&case.object["spec"], &changes, &configuration);
        let pod = pod.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let forbidden = forbidden(&pod);
        made += 1;
        if case.object["spec"].to_string().contains("hostDisk") {
            on_host += 1;
            assert_eq!(forbidden, ["volume root"], "{}", case.name);
        } else {
            assert_eq!(forbidden, Vec::<String>::new(), "{}", case.name);
        }
    }
    assert!(made >= 20 && on_host == 1, "{made} of which {on_host} have a disk of the host's");
}

#[test]
fn the_standard_is_looked_at() {
    let forbids = |changes: &Value| {
        let mut value = pod_of(&domain(&json!({})));
        json_patch::merge(&mut value, changes);
        forbidden(&serde_json::from_value(value).unwrap())
    };
    assert_eq!(forbids(&json!({"spec": {"hostNetwork": true}})), ["host namespaces"]);
    assert_eq!(forbids(&json!({"spec": {"securityContext": {"seccompProfile": null}}})), ["seccompProfile"]);
    assert_eq!(
        forbids(&json!({"spec": {"containers": [{"name": "a"}]}})),
        ["allowPrivilegeEscalation", "capabilities.drop"]
    );
    let on_host = json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}});
    assert_eq!(forbids(&on_host), ["volume v"]);
    let probe = json!({"httpGet": {"port": 80, "host": "10.0.0.1"}});
    for name in ["readinessProbe", "livenessProbe"] {
        let mut container = pod_of(&domain(&json!({})))["spec"]["containers"][0].clone();
        container[name] = probe.clone();
        assert_eq!(forbids(&json!({"spec": {"containers": [container]}})), ["a probe's host"]);
    }
}
