//! What an instance gets, as KubeVirt's does, but for two things: a disk without a bus is virtio's (KubeVirt's is SATA's), and
//! an instance that names no interface is behind the pod's address (KubeVirt's is bridged).

use vireo_runtimeclass::Quantity;
use vireo_runtimeclass::cluster::{DefaultInterface, InstanceSpec, KubeVirtConfiguration, Probe};
use vireo_runtimeclass::kubevirt::v1::{
    Devices, Disk, DiskTarget, DomainSpec, Interface, InterfaceBridge, ResourceRequirements, VirtualMachineInstanceSpec,
};
use vireo_runtimeclass::validate::huge_page_size;

/// What a guest has to end, seconds.
const GRACE_PERIOD: u32 = 30;
/// As much of the node's processor as it offers.
const CPU_MODEL: &str = "host-model";

/// What an instance gets: what is named stays as it is.
pub(crate) fn instance(spec: &mut InstanceSpec, configuration: &KubeVirtConfiguration, uuid: impl FnOnce() -> String) {
    let InstanceSpec { machine, pod } = spec;
    machine.architecture.get_or_insert_with(|| "amd64".to_owned());
    machine.termination_grace_period_seconds.get_or_insert(GRACE_PERIOD);
    size(&mut machine.domain, configuration);
    let firmware = machine.domain.firmware.get_or_insert_default();
    if firmware.uuid.as_deref().is_none_or(str::is_empty) {
        firmware.uuid = Some(uuid());
    }
    networks(machine, configuration);
    disks(machine);
    pod.eviction_strategy = pod.eviction_strategy.or(configuration.eviction_strategy);
    for probe in [&mut pod.liveness_probe, &mut pod.readiness_probe].into_iter().flatten() {
        self::probe(probe);
    }
}

fn size(domain: &mut DomainSpec, configuration: &KubeVirtConfiguration) {
    let is_dedicated = domain.cpu.as_ref().is_some_and(|cpu| cpu.dedicated_cpu_placement == Some(true));
    let ResourceRequirements { requests, limits } = &mut domain.resources;
    let limit = limits.get("cpu").filter(|limit| !limit.is_zero());
    let request = limit.or_else(|| configuration.cpu_request.as_ref().filter(|_| !is_dedicated));
    if let Some(request) = request.filter(|_| requests.get("cpu").is_none_or(Quantity::is_zero)) {
        requests.insert("cpu".to_owned(), request.clone());
    }
    let sockets = limit.or_else(|| requests.get("cpu")).map_or(1, |amount| amount.value().max(1));
    let cpu = domain.cpu.get_or_insert_default();
    if cpu.layout().is_none() {
        cpu.sockets = Some(u32::try_from(sockets).unwrap_or(u32::MAX));
        (cpu.cores, cpu.threads) = (Some(1), Some(1));
    }
    if cpu.model.as_deref().is_none_or(str::is_empty) {
        let model = configuration.cpu_model.clone().filter(|model| !model.is_empty());
        cpu.model = Some(model.unwrap_or_else(|| CPU_MODEL.to_owned()));
    }
    let named = [&*requests, &*limits].into_iter().filter_map(|amounts| amounts.get("memory"));
    let amount = named.into_iter().find(|amount| !amount.is_zero()).cloned();
    let page = domain.memory.as_ref().and_then(|memory| memory.hugepages.as_ref()).map(|pages| &pages.page_size);
    let page = page.filter(|size| huge_page_size(size).is_some()).and_then(|size| size.parse().ok());
    if let Some(amount) = amount.or(page) {
        domain.memory.get_or_insert_default().guest.get_or_insert(amount);
    }
}

fn networks(machine: &mut VirtualMachineInstanceSpec, configuration: &KubeVirtConfiguration) {
    if machine.networks.is_empty() && machine.domain.devices.interfaces.is_empty() {
        let network = configuration.network.as_ref();
        let mut interfaces = machine.interfaces();
        if network.and_then(|network| network.default_network_interface) == Some(DefaultInterface::Bridge) {
            for interface in &mut interfaces {
                *interface =
                    Interface { bridge: Some(InterfaceBridge {}), masquerade: None, ..std::mem::take(interface) };
            }
        }
        (machine.networks, machine.domain.devices.interfaces) = (machine.networks(), interfaces);
    }
}

/// Each volume has its disk.
fn disks(machine: &mut VirtualMachineInstanceSpec) {
    let Devices { disks, .. } = &mut machine.domain.devices;
    for volume in &machine.volumes {
        if !disks.iter().any(|disk| disk.name == volume.name) {
            disks.push(Disk { name: volume.name.clone(), ..Disk::default() });
        }
    }
    for disk in disks {
        match &mut disk.cdrom {
            Some(target) => {
                target.bus.get_or_insert_with(bus);
                target.readonly.get_or_insert(true);
            }
            None => {
                disk.disk.get_or_insert_with(DiskTarget::default).bus.get_or_insert_with(bus);
            }
        }
    }
}

/// The one that there is.
fn bus() -> String {
    "virtio".to_owned()
}

fn probe(probe: &mut Probe) {
    for (number, default) in [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ] {
        if number.is_none_or(|number| number == 0) {
            *number = Some(default);
        }
    }
}
