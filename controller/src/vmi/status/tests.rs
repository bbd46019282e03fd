//! Instances, what is seen of them, and what is said.

use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{Condition, ConditionStatus};

use super::super::reasons;
use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn vmi(status: &InstanceStatus, is_deleted: bool) -> VirtualMachineInstance {
    let spec = json!({
        "domain": {"devices": {"disks": [{"name": "root"}], "interfaces": [
            {"name": "blue", "bridge": {}}, {"name": "default", "masquerade": {}},
        ]}, "memory": {"guest": "1Gi"}, "cpu": {"cores": 2}},
        "networks": [{"name": "blue", "multus": {"networkName": "vlan7"}}, {"name": "default", "pod": {}}],
        "volumes": [
            {"name": "seed", "cloudInitNoCloud": {"userData": "a"}},
            {"name": "root", "persistentVolumeClaim": {"claimName": "root"}},
        ],
    });
    let deleted = is_deleted.then_some("2026-01-01T00:00:00Z");
    let metadata = json!({"name": "web", "namespace": "shop", "uid": "a", "deletionTimestamp": deleted});
    serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": metadata, "spec": spec,
        "status": serde_json::to_value(status).unwrap(),
    }))
    .unwrap()
}

/// A pod with `changes`.
fn pod(changes: &Value) -> Pod {
    let mut pod = json!({"metadata": {"name": "virt-launcher-web-x", "uid": "p"}, "spec": {"containers": []}});
    json_patch::merge(&mut pod, changes);
    serde_json::from_value(pod).unwrap()
}

fn running() -> Value {
    json!({"spec": {"nodeName": "n1", "overhead": {"memory": "64Mi"}}, "status": {
        "phase": "Running", "qosClass": "Burstable", "podIP": "10.1.0.7", "podIPs": [{"ip": "10.1.0.7"}, {"ip": "fd00::7"}],
        "containerStatuses": [{"name": "compute", "state": {"running": {}}}],
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:00:07Z"}],
    }})
}

fn ended(phase: &str, started: &str, reason: &str) -> Value {
    let state = json!({"terminated": {"startedAt": started, "exitCode": 1, "reason": reason}});
    json!({"status": {"phase": phase, "containerStatuses": [{"name": "compute", "state": state}]}})
}

/// The status of an instance of which `before` was said.
fn said(before: &InstanceStatus, pod: Option<&Value>, change: impl FnOnce(&mut Seen<'_>)) -> InstanceStatus {
    let vmi = vmi(before, false);
    let spec = vmi.spec().unwrap();
    let pod = pod.map(self::pod);
    let claims = BTreeMap::new();
    let mut seen = Seen {
        vmi: &vmi,
        spec: Some(&spec),
        pod: pod.as_ref(),
        claims: &claims,
        mounts: None,
        trouble: None,
        report: None,
        launcher_image: "launcher:1",
        now: at(50),
    };
    change(&mut seen);
    status(&seen)
}

/// What a change borrows has to outlive it.
fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn in_phase(phase: InstancePhase) -> InstanceStatus {
    InstanceStatus { phase: Some(phase), ..InstanceStatus::default() }
}

fn condition<'a>(status: &'a InstanceStatus, kind: &str) -> Option<(ConditionStatus, &'a str)> {
    let found: Vec<&Condition> = status.conditions.iter().filter(|condition| condition.kind == kind).collect();
    assert!(found.len() < 2, "{found:?}");
    found.first().map(|condition| (condition.status, condition.reason.as_deref().unwrap_or_default()))
}

#[test]
fn every_phase_follows_from_what_is_seen_of_the_pod() {
    use InstancePhase::{Failed, Pending, Running, Scheduled, Scheduling, Succeeded};
    let (made, runs) = (json!({}), running());
    let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let mut going_runs = running();
    json_patch::merge(&mut going_runs, &going);
    let well = ended("Succeeded", "2026-01-01T00:00:00Z", "Completed");
    let badly = ended("Failed", "2026-01-01T00:00:00Z", "Error");
    let never = ended("Failed", "1970-01-01T00:00:00Z", "StartError");
    let evicted = json!({"status": {"phase": "Failed", "reason": "Evicted"}});
    for (phase, deleted, pod, expected) in [
        (None, false, None, vec![Pending]),
        (None, true, None, vec![Failed]),
        (None, false, Some(&made), vec![Pending, Scheduling]),
        (None, false, Some(&runs), vec![Pending, Scheduling, Scheduled, Running]),
        (Some(Pending), false, None, vec![]),
        (Some(Pending), true, None, vec![Failed]),
        (Some(Pending), false, Some(&made), vec![Scheduling]),
        (Some(Scheduling), false, None, vec![Failed]),
        (Some(Scheduling), false, Some(&made), vec![]),
        (Some(Scheduling), false, Some(&going), vec![Failed]),
        (Some(Scheduling), false, Some(&runs), vec![Scheduled, Running]),
        (Some(Scheduling), false, Some(&well), vec![Scheduled, Running, Succeeded]),
        (Some(Scheduling), false, Some(&badly), vec![Scheduled, Running, Failed]),
        (Some(Scheduling), false, Some(&never), vec![Failed]),
        (Some(Scheduling), false, Some(&evicted), vec![Failed]),
        (Some(Scheduled), false, Some(&runs), vec![Running]),
        (Some(Running), false, Some(&runs), vec![]),
        (Some(Running), false, Some(&going_runs), vec![]),
        (Some(Running), false, Some(&well), vec![Succeeded]),
        (Some(Running), false, Some(&badly), vec![Failed]),
        (Some(Running), false, Some(&evicted), vec![Failed]),
        (Some(Running), true, Some(&badly), vec![Succeeded]),
        (Some(Running), false, None, vec![Failed]),
        (Some(Running), true, None, vec![Succeeded]),
        (Some(Succeeded), false, None, vec![]),
        (Some(Failed), false, Some(&runs), vec![]),
    ] {
        let passed = phase::passed(phase, deleted, pod.map(self::pod).as_ref());
        assert_eq!(passed, expected, "{phase:?} {deleted} {pod:?}");
    }
}

#[test]
fn each_phase_has_its_time() {
    use InstancePhase::{Pending, Running, Scheduled, Scheduling};
    let status = said(&InstanceStatus::default(), Some(&json!({})), |_| {});
    let later = said(&status, Some(&running()), |seen| seen.now = at(60));
    let times: Vec<_> = later
        .phase_transition_timestamps
        .iter()
        .map(|transition| (transition.phase.unwrap(), transition.phase_transition_timestamp.as_ref().unwrap().0))
        .collect();
    assert_eq!(times, [(Pending, at(50)), (Scheduling, at(50)), (Scheduled, at(60)), (Running, at(60))]);
}

#[test]
fn ready_is_the_pods_word_once_the_guest_runs() {
    let ready = |before: &InstanceStatus, pod: Option<&Value>| {
        let status = said(before, pod, |_| {});
        let (status, reason) = condition(&status, "Ready").unwrap();
        (status == ConditionStatus::True, reason.to_owned())
    };
    let runs = in_phase(InstancePhase::Running);
    let none = InstanceStatus::default();
    assert_eq!(ready(&none, None), (false, "PodNotExists".to_owned()));
    assert_eq!(ready(&none, Some(&json!({}))), (false, "GuestNotRunning".to_owned()));
    assert_eq!(ready(&runs, Some(&running())), (true, String::new()));
    let mut pod = running();
    pod["status"]["conditions"] = json!([]);
    assert_eq!(ready(&runs, Some(&pod)), (false, "PodConditionMissing".to_owned()));
    pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False", "reason": "ReadinessGatesNotReady"}]);
    assert_eq!(ready(&runs, Some(&pod)), (false, "ReadinessGatesNotReady".to_owned()));
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert_eq!(ready(&runs, Some(&pod)), (false, "PodTerminating".to_owned()));
    assert_eq!(ready(&runs, Some(&ended("Failed", "2026-01-01T00:00:00Z", ""))), (false, "PodTerminating".to_owned()));
}

#[test]
fn a_condition_keeps_its_time_as_long_as_it_holds() {
    let first = said(&in_phase(InstancePhase::Running), Some(&running()), |_| {});
    let since = |status: &InstanceStatus| status.conditions[0].last_transition_time.as_ref().unwrap().0;
    assert_eq!(since(&first), at(7), "the pod's own");
    let again = said(&first, Some(&running()), |seen| seen.now = at(99));
    assert_eq!(again, first, "there is nothing to write");
}

#[test]
fn what_keeps_an_instance_from_starting() {
    let trouble = leak(Trouble { reason: reasons::NO_CLAIM, message: "didn't find PVC root".to_owned() });
    let status = said(&InstanceStatus::default(), None, |seen| seen.trouble = Some(trouble));
    assert_eq!(condition(&status, "Synchronized"), Some((ConditionStatus::False, "FailedPvcNotFound")));
    assert_eq!(condition(&status, "PodScheduled"), Some((ConditionStatus::False, "Unschedulable")));
    let healed = said(&status, Some(&json!({})), |_| {});
    assert_eq!((condition(&healed, "Synchronized"), condition(&healed, "PodScheduled")), (None, None));

    let no_node = json!({"status": {"conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"},
    ]}});
    let status = said(&healed, Some(&no_node), |_| {});
    assert_eq!(condition(&status, "PodScheduled"), Some((ConditionStatus::False, "Unschedulable")));

    let waits = |reason: &str| {
        let state = json!({"waiting": {"reason": reason, "message": "why"}});
        json!({"status": {"phase": "Pending", "containerStatuses": [{"name": "compute", "state": state}]}})
    };
    for reason in ["ErrImagePull", "ImagePullBackOff", "CreateContainerError"] {
        let status = said(&healed, Some(&waits(reason)), |_| {});
        assert_eq!(condition(&status, "Synchronized"), Some((ConditionStatus::False, reason)));
        assert_eq!(condition(&said(&status, Some(&running()), |_| {}), "Synchronized"), None);
    }
    assert_eq!(condition(&said(&healed, Some(&waits("ContainerCreating")), |_| {}), "Synchronized"), None);
    let unmounted = |pod: &Value| said(&healed, Some(pod), |seen| seen.mounts = Some("secret \"a\" not found"));
    let lacking = unmounted(&waits("ContainerCreating"));
    assert_eq!(condition(&lacking, "Synchronized"), Some((ConditionStatus::False, reasons::FAILED_MOUNT)));
    // It is old news.
    assert_eq!(condition(&unmounted(&running()), "Synchronized"), None);
    let refused = unmounted(&waits("CreateContainerError"));
    assert_eq!(condition(&refused, "Synchronized"), Some((ConditionStatus::False, "CreateContainerError")));
    let failed = said(&healed, Some(&json!({"status": {"phase": "Failed", "reason": "Evicted"}})), |_| {});
    assert_eq!(failed.reason.as_deref(), Some("Evicted"));
}

#[test]
fn what_a_machine_says_of_itself() {
    let runs = said(&in_phase(InstancePhase::Running), Some(&running()), |_| {});
    assert_eq!(condition(&runs, "LiveMigratable"), Some((ConditionStatus::False, "NotSupported")));
    assert_eq!((condition(&runs, PAUSED), condition(&runs, "AgentConnected")), (None, None));
    let guest = GuestOsInfo { id: Some("debian".to_owned()), ..GuestOsInfo::default() };
    let report = leak(Report { paused: Some(String::new()), agent: true, guest: Some(guest.clone()) });
    let told = said(&runs, Some(&running()), |seen| seen.report = Some(report));
    assert_eq!(condition(&told, PAUSED), Some((ConditionStatus::True, "PausedByUser")));
    assert!(is_paused(&told));
    assert_eq!(condition(&told, "AgentConnected"), Some((ConditionStatus::True, "")));
    assert_eq!(told.guest_os_info, Some(guest));
    assert_eq!(said(&told, Some(&running()), |_| {}), told, "it holds until something else is told");
    let broken = leak(Report { paused: Some("disk root: I/O error".to_owned()), ..Report::default() });
    let told = said(&told, Some(&running()), |seen| seen.report = Some(broken));
    assert_eq!(condition(&told, PAUSED), Some((ConditionStatus::True, "PausedIOError")));
    assert_eq!((condition(&told, "AgentConnected"), &told.guest_os_info), (None, &None));
    let over = said(&told, Some(&ended("Succeeded", "2026-01-01T00:00:00Z", "")), |_| {});
    assert_eq!(condition(&over, PAUSED), None);
}

#[test]
fn a_machine_that_starts_paused_is_until_somebody_says_otherwise() {
    let scheduling = in_phase(InstancePhase::Scheduling);
    let vmi = vmi(&scheduling, false);
    let mut spec = vmi.spec().unwrap();
    spec.machine.start_strategy = Some("Paused".to_owned());
    let spec = leak(spec);
    let starts = said(&scheduling, Some(&running()), |seen| seen.spec = Some(spec));
    assert!(is_paused(&starts));
    let report = leak(Report::default());
    let resumed = said(&starts, Some(&running()), |seen| (seen.spec, seen.report) = (Some(spec), Some(report)));
    assert!(!is_paused(&resumed));
    assert!(!is_paused(&said(&resumed, Some(&running()), |seen| seen.spec = Some(spec))));
}

#[test]
fn what_a_machine_is_and_has() {
    let claim = json!({
        "metadata": {"name": "root"}, "spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Block", "resources": {
            "requests": {"storage": "10Gi"}}}, "status": {"capacity": {"storage": "11Gi"}},
    });
    let claims = BTreeMap::from([("root".to_owned(), serde_json::from_value(claim).unwrap())]);
    let claims = leak(claims);
    let mut pod = running();
    pod["metadata"] = json!({"annotations": {"k8s.v1.cni.cncf.io/network-status": json!([
        {"name": "cbr0", "interface": "eth0", "ips": ["10.1.0.7"], "default": true},
        {"name": "shop/vlan7", "interface": "pod16477688c0e", "ips": ["192.168.7.2"], "mac": "02:00:00:00:00:07"},
    ]).to_string()}});
    let status = said(&InstanceStatus::default(), Some(&pod), |seen| seen.claims = claims);
    let value = serde_json::to_value(&status).unwrap();
    let expected = json!({
        "nodeName": "n1",
        "activePods": {"p": "n1"},
        "qosClass": "Burstable",
        "runtimeUser": 107,
        "selinuxContext": "none",
        "migrationTransport": "Unix",
        "launcherContainerImageVersion": "launcher:1",
        "machine": {"type": "vireo-1"},
        "currentCPUTopology": {"sockets": 1, "cores": 2, "threads": 1},
        "memory": {"guestAtBoot": "1Gi", "guestCurrent": "1Gi", "guestRequested": "1Gi", "memoryOverhead": "64Mi"},
        "interfaces": [
            {"name": "default", "ipAddress": "10.1.0.7", "ipAddresses": ["10.1.0.7", "fd00::7"],
             "podInterfaceName": "eth0", "infoSource": "domain", "linkState": "up", "queueCount": 1},
            {"name": "blue", "mac": "02:00:00:00:00:07", "ipAddress": "192.168.7.2", "ipAddresses": ["192.168.7.2"],
             "podInterfaceName": "pod16477688c0e", "infoSource": "domain, multus-status", "linkState": "up", "queueCount": 1},
        ],
        "volumeStatus": [
            {"name": "root", "target": "vda", "persistentVolumeClaimInfo": {
                "claimName": "root", "accessModes": ["ReadWriteOnce"], "volumeMode": "Block",
                "capacity": {"storage": "11Gi"}, "requests": {"storage": "10Gi"}, "filesystemOverhead": "0.055"}},
            {"name": "seed", "target": "vdb"},
        ],
    });
    for (field, expected) in expected.as_object().unwrap() {
        assert_eq!(&value[field], expected, "{field}");
    }
    let over = said(&status, None, |_| {});
    assert_eq!((over.active_pods.len(), over.launcher_container_image_version), (0, None));
}

#[test]
fn data_volumes_are_waited_for() {
    let mut spec = vmi(&InstanceStatus::default(), false).spec().unwrap();
    let volume = json!({"name": "data", "dataVolume": {"name": "dv"}});
    spec.machine.volumes = vec![serde_json::from_value(volume).unwrap()];
    let claims = |phase: &str, bound: &str| {
        let claim = json!({
            "metadata": {"name": "dv", "annotations": {"cdi.kubevirt.io/storage.pod.phase": phase}}, "status": {"phase": bound},
        });
        BTreeMap::from([("dv".to_owned(), serde_json::from_value(claim).unwrap())])
    };
    let vmi = vmi(&InstanceStatus::default(), false);
    let said = |claims: &BTreeMap<_, _>| {
        let seen = Seen {
            vmi: &vmi,
            spec: Some(&spec),
            pod: None,
            claims,
            mounts: None,
            trouble: None,
            report: None,
            launcher_image: "",
            now: at(1),
        };
        let status = status(&seen);
        let holds = |kind: &str| condition(&status, kind).map(|(status, _)| status == ConditionStatus::True);
        (holds("Provisioning"), holds("DataVolumesReady"))
    };
    assert_eq!(said(&BTreeMap::new()), (None, Some(false)));
    assert_eq!(said(&claims("Running", "Bound")), (Some(true), Some(false)));
    assert_eq!(said(&claims("Succeeded", "Pending")), (None, Some(false)));
    assert_eq!(said(&claims("Succeeded", "Bound")), (None, Some(true)));
}
