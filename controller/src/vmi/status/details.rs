//! What an instance's machine is, has, and where.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde::Deserialize;
use vireo_runtimeclass::cluster::{
    ClaimInfo, CpuTopology, InstancePhase, InstanceStatus, InterfaceStatus, MachineStatus, MemoryStatus, VolumeStatus,
};
use vireo_runtimeclass::kubevirt::v1::{Interface, Network, VirtualMachineInstanceSpec};
use vireo_runtimeclass::pod::DEFAULT_ID;
use vireo_runtimeclass::validate::MACHINE_TYPE;
use vireo_runtimeclass::{Quantity, kubevirt::v1::VolumeSource};

use super::super::pod::{claim, interface_name};
use super::Seen;

/// Every guest's context id.
const CONTEXT_ID: i64 = 3;
/// What Multus says of a pod's networks.
pub(crate) const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
/// The part of a claim that its file system takes (KubeVirt's, where there is no CDI to ask).
const FILESYSTEM_OVERHEAD: &str = "0.055";
/// Pairs of queues that an interface has at most.
const MAX_QUEUES: u64 = 8;

pub(super) fn fill(status: &mut InstanceStatus, seen: &Seen<'_>) {
    let is_final = matches!(status.phase, Some(InstancePhase::Succeeded | InstancePhase::Failed));
    status.active_pods = seen.pod.map(active).unwrap_or_default();
    if is_final && seen.pod.is_none() {
        status.launcher_container_image_version = None;
    }
    if let Some(report) = seen.report {
        status.guest_os_info.clone_from(&report.guest);
    }
    let Some(pod) = seen.pod.filter(|_| !is_final) else { return };
    status.node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    status.qos_class = pod.status.as_ref().and_then(|status| status.qos_class.clone());
    status.launcher_container_image_version.get_or_insert_with(|| seen.launcher_image.to_owned());
    status.runtime_user = Some(i64::from(DEFAULT_ID));
    status.selinux_context = Some("none".to_owned());
    status.migration_transport = Some("Unix".to_owned());
    status.machine = Some(MachineStatus { kind: Some(MACHINE_TYPE.to_owned()) });
    let Some(spec) = seen.spec else { return };
    let machine = &spec.machine;
    let layout = machine.domain.cpu.as_ref().and_then(vireo_runtimeclass::kubevirt::v1::Cpu::layout);
    let cores = || u32::try_from(machine.domain.vcpus().unwrap_or(1)).unwrap_or(u32::MAX);
    let [sockets, cores, threads] = layout.unwrap_or_else(|| [1, cores(), 1]);
    status.current_cpu_topology =
        Some(CpuTopology { sockets: Some(sockets), cores: Some(cores), threads: Some(threads) });
    status.memory = Some(memory(machine, pod));
    status.vsock_cid = (machine.domain.devices.autoattach_vsock == Some(true)).then_some(CONTEXT_ID);
    status.volume_status = volumes(machine, seen.claims);
    status.interfaces = interfaces(machine, pod);
}

/// A pod and where it is, once it is somewhere: in a merge patch older API servers (1.20, for one) take an empty text for null.
fn active(pod: &Pod) -> BTreeMap<String, String> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    pod.metadata.uid.clone().zip(node).into_iter().collect()
}

fn memory(machine: &VirtualMachineInstanceSpec, pod: &Pod) -> MemoryStatus {
    let guest = machine.domain.memory.as_ref().and_then(|memory| memory.guest.clone());
    let requested = || machine.domain.guest_memory().and_then(|bytes| bytes.to_string().parse().ok());
    let guest: Option<Quantity> = guest.or_else(requested);
    let overhead = pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref()?.get("memory")?.0.parse().ok());
    MemoryStatus {
        guest_at_boot: guest.clone(),
        guest_current: guest.clone(),
        guest_requested: guest,
        memory_overhead: overhead,
    }
}

fn volumes(
    machine: &VirtualMachineInstanceSpec,
    claims: &BTreeMap<String, PersistentVolumeClaim>,
) -> Vec<VolumeStatus> {
    let listed = machine.domain.devices.disks.iter().map(|disk| disk.name.as_str());
    let listed: Vec<&str> = listed.collect();
    let unlisted = machine.volumes.iter().map(|volume| volume.name.as_str()).filter(|name| !listed.contains(name));
    let order: Vec<&str> = listed.iter().copied().chain(unlisted).collect();
    let mut all: Vec<VolumeStatus> = machine
        .volumes
        .iter()
        .map(|volume| {
            let shown = volume.sources().next();
            let writes_there = shown.as_ref().filter(|shown| !matches!(shown, VolumeSource::Ephemeral(_)));
            let name = writes_there.and_then(claim).map(|(name, _)| name);
            VolumeStatus {
                name: volume.name.clone(),
                target: order.iter().position(|name| *name == volume.name).and_then(target).unwrap_or_default(),
                persistent_volume_claim_info: name.and_then(|name| claims.get(name)).map(claim_info),
                ..VolumeStatus::default()
            }
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// What Linux calls the disk at a position: a machine has fewer than letters.
fn target(position: usize) -> Option<String> {
    let letter = u8::try_from(position).ok().filter(|position| *position < 26)?;
    Some(format!("vd{}", char::from(b'a' + letter)))
}

fn claim_info(claim: &PersistentVolumeClaim) -> ClaimInfo {
    type Amounts = BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;
    let amounts = |amounts: Option<&Amounts>| {
        let read = |(name, amount): (&String, &k8s_openapi::apimachinery::pkg::api::resource::Quantity)| {
            Some((name.clone(), amount.0.parse().ok()?))
        };
        amounts.into_iter().flatten().filter_map(read).collect()
    };
    let (spec, status) = (claim.spec.as_ref(), claim.status.as_ref());
    let requests = spec.and_then(|spec| spec.resources.as_ref()).and_then(|resources| resources.requests.as_ref());
    ClaimInfo {
        claim_name: claim.metadata.name.clone(),
        access_modes: spec.and_then(|spec| spec.access_modes.clone()).unwrap_or_default(),
        volume_mode: spec.and_then(|spec| spec.volume_mode.clone()),
        capacity: amounts(status.and_then(|status| status.capacity.as_ref())),
        requests: amounts(requests),
        preallocated: None,
        filesystem_overhead: Some(FILESYSTEM_OVERHEAD.to_owned()),
    }
}

/// What Multus says of one of a pod's networks.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NetworkStatus {
    interface: String,
    ips: Vec<String>,
    mac: Option<String>,
}

fn interfaces(machine: &VirtualMachineInstanceSpec, pod: &Pod) -> Vec<InterfaceStatus> {
    let annotations = pod.metadata.annotations.as_ref();
    let told = annotations.and_then(|annotations| annotations.get(NETWORK_STATUS));
    let told: Vec<NetworkStatus> = told.and_then(|told| serde_json::from_str(told).ok()).unwrap_or_default();
    let networks = machine.networks();
    let mut all: Vec<_> = machine
        .interfaces()
        .iter()
        .filter(|interface| interface.state.as_deref() != Some("absent"))
        .filter_map(|interface| {
            let network = networks.iter().find(|network| network.name == interface.name)?;
            Some((network.is_pods_own(), self::interface(machine, interface, network, pod, &told)))
        })
        .collect();
    // The one that the pod's address is: clients take the first for that.
    all.sort_by_key(|(is_pods_own, _)| !is_pods_own);
    all.into_iter().map(|(_, interface)| interface).collect()
}

fn interface(
    machine: &VirtualMachineInstanceSpec,
    interface: &Interface,
    network: &Network,
    pod: &Pod,
    told: &[NetworkStatus],
) -> InterfaceStatus {
    let queues = if machine.domain.devices.network_interface_multiqueue == Some(true) {
        machine.domain.vcpus().unwrap_or(1).clamp(1, MAX_QUEUES)
    } else {
        1
    };
    let link = if interface.state.as_deref() == Some("down") { "down" } else { "up" };
    let common = InterfaceStatus {
        name: Some(network.name.clone()),
        mac: interface.mac_address.clone(),
        link_state: Some(link.to_owned()),
        queue_count: i64::try_from(queues).ok(),
        info_source: Some("domain".to_owned()),
        ..InterfaceStatus::default()
    };
    if network.is_pods_own() {
        let status = pod.status.as_ref();
        let first = status.and_then(|status| status.pod_ip.clone());
        let all = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten();
        let mut ip_addresses: Vec<_> = all.map(|address| address.ip.clone()).collect();
        if ip_addresses.is_empty() {
            ip_addresses.extend(first.clone());
        }
        let pod_interface_name = Some("eth0".to_owned());
        return InterfaceStatus { ip_address: first, ip_addresses, pod_interface_name, ..common };
    }
    let name = interface_name(&network.name);
    let Some(status) = told.iter().find(|status| status.interface == name) else {
        return InterfaceStatus { pod_interface_name: Some(name), ..common };
    };
    InterfaceStatus {
        mac: common.mac.clone().or_else(|| status.mac.clone()),
        ip_address: status.ips.first().cloned(),
        ip_addresses: status.ips.clone(),
        pod_interface_name: Some(name),
        info_source: Some("domain, multus-status".to_owned()),
        ..common
    }
}
