//! What a preference says of a machine: soft, so that whatever the template says itself stays.

use vireo_runtimeclass::cluster::{DevicePreferences, FirmwarePreferences, InstanceTemplate, PreferenceSpec};
use vireo_runtimeclass::kubevirt::v1::{
    Bios, Bootloader, Devices, DiskTarget, DomainSpec, Efi, Features, Interface, Network, VirtualMachineInstanceSpec,
};

/// Fills in for `template` where it says nothing.
pub(super) fn apply(template: &mut InstanceTemplate, preference: &PreferenceSpec) {
    for (key, value) in &preference.annotations {
        template.metadata.annotations.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let InstanceTemplate { spec, .. } = template;
    or(&mut spec.pod.subdomain, preference.preferred_subdomain.as_ref());
    let machine = &mut spec.machine;
    or(&mut machine.termination_grace_period_seconds, preference.preferred_termination_grace_period_seconds.as_ref());
    or(&mut machine.architecture, preference.preferred_architecture.as_ref());
    features(&mut machine.domain, preference);
    if let Some(wanted) = &preference.devices {
        devices(machine, wanted);
    }
    if let Some(wanted) = &preference.firmware {
        firmware(&mut machine.domain, wanted);
    }
}

/// What is said stays.
fn or<T: Clone>(said: &mut Option<T>, preferred: Option<&T>) {
    if said.is_none() {
        *said = preferred.cloned();
    }
}

fn features(domain: &mut DomainSpec, preference: &PreferenceSpec) {
    let wanted = preference.cpu.iter().flat_map(|cpu| &cpu.preferred_cpu_features);
    for feature in wanted {
        let features = &mut domain.cpu.get_or_insert_default().features;
        if features.iter().all(|said| said.name != feature.name) {
            features.push(feature.clone());
        }
    }
    if let Some(kvm) = preference.features.as_ref().and_then(|features| features.preferred_kvm.as_ref()) {
        or(&mut domain.features.get_or_insert_with(Features::default).kvm, Some(kvm));
    }
}

fn devices(machine: &mut VirtualMachineInstanceSpec, wanted: &DevicePreferences) {
    let VirtualMachineInstanceSpec { domain, networks, .. } = machine;
    let devices = &mut domain.devices;
    or(&mut devices.autoattach_graphics_device, wanted.preferred_autoattach_graphics_device.as_ref());
    or(&mut devices.autoattach_mem_balloon, wanted.preferred_autoattach_mem_balloon.as_ref());
    or(&mut devices.autoattach_pod_interface, wanted.preferred_autoattach_pod_interface.as_ref());
    or(&mut devices.autoattach_serial_console, wanted.preferred_autoattach_serial_console.as_ref());
    or(&mut devices.block_multi_queue, wanted.preferred_block_multi_queue.as_ref());
    or(&mut devices.network_interface_multiqueue, wanted.preferred_network_interface_multi_queue.as_ref());
    or(&mut devices.rng, wanted.preferred_rng.as_ref());
    disks(devices, wanted);
    for interface in &mut devices.interfaces {
        or(&mut interface.model, wanted.preferred_interface_model.as_ref());
        if has_no_binding(interface) && is_on_pod_network(interface, networks) {
            interface.masquerade = wanted.preferred_interface_masquerade;
        }
    }
}

fn has_no_binding(interface: &Interface) -> bool {
    interface.masquerade.is_none() && interface.bridge.is_none()
}

fn is_on_pod_network(interface: &Interface, networks: &[Network]) -> bool {
    networks.iter().any(|network| network.name == interface.name && network.pod.is_some())
}

fn disks(devices: &mut Devices, wanted: &DevicePreferences) {
    for disk in &mut devices.disks {
        if let Some(cdrom) = &mut disk.cdrom {
            or(&mut cdrom.bus, wanted.preferred_cdrom_bus.as_ref());
            continue;
        }
        let target = disk.disk.get_or_insert_with(DiskTarget::default);
        or(&mut target.bus, wanted.preferred_disk_bus.as_ref());
        let is_virtio = target.bus.as_deref().is_none_or(|bus| bus == "virtio");
        or(&mut disk.block_size, wanted.preferred_disk_block_size.as_ref());
        or(&mut disk.cache, wanted.preferred_disk_cache.as_ref());
        or(&mut disk.io, wanted.preferred_disk_io.as_ref());
        if is_virtio {
            or(&mut disk.dedicated_io_thread, wanted.preferred_disk_dedicated_io_thread.as_ref());
        }
    }
}

fn firmware(domain: &mut DomainSpec, wanted: &FirmwarePreferences) {
    let firmware = domain.firmware.get_or_insert_default();
    // A kernel that is booted without firmware has none to prefer.
    if firmware.kernel_boot.is_some() {
        return;
    }
    let loader = firmware.bootloader.get_or_insert_with(Bootloader::default);
    if loader.efi.is_none() && wanted.preferred_use_bios == Some(true) {
        loader.bios.get_or_insert_with(Bios::default);
    }
    if let Some(bios) = &mut loader.bios {
        or(&mut bios.use_serial, wanted.preferred_use_bios_serial.as_ref());
        return;
    }
    if loader.efi.is_none() && wanted.preferred_efi.is_some() {
        loader.efi.clone_from(&wanted.preferred_efi);
        return;
    }
    if wanted.preferred_use_efi == Some(true) {
        loader.efi.get_or_insert_with(Efi::default);
    }
    if let Some(efi) = &mut loader.efi {
        or(&mut efi.secure_boot, wanted.preferred_use_secure_boot.as_ref());
    }
}
