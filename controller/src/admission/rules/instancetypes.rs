//! Rules on instancetypes and preferences, and on how machines name them.

use vireo_runtimeclass::cluster::{InstancetypeSpec, Matcher, PreferenceSpec, VirtualMachineSpec};
use vireo_runtimeclass::kubevirt::v1::VirtualMachineInstanceSpec;
use vireo_runtimeclass::validate::{MAX_VCPUS, MIN_MEMORY, huge_page_size};

use super::names::{dns_label, dns_name, labels};
use crate::admission::verdict::Found;

/// How a machine names its size and its preference.
pub(crate) fn matchers(spec: &VirtualMachineSpec, found: &mut Found) {
    let named = [
        ("instancetype", &spec.instancetype, ["virtualmachineinstancetype", "virtualmachineclusterinstancetype"]),
        ("preference", &spec.preference, ["virtualmachinepreference", "virtualmachineclusterpreference"]),
    ];
    for (field, matcher, kinds) in named {
        let Some(matcher) = matcher else { continue };
        let path = format!("spec.{field}");
        let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        match (given(&matcher.name), given(&matcher.infer_from_volume)) {
            (false, false) => found.refuse(format_args!("{path}.name"), "missing; name or inferFromVolume is needed"),
            (true, true) => {
                found.refuse(format_args!("{path}.inferFromVolume"), "excludes name; leave one of them out");
            }
            (false, true) if given(&matcher.kind) => {
                found.refuse(
                    format_args!("{path}.kind"),
                    "must be left out with inferFromVolume, whose volume names it",
                );
            }
            _ => {}
        }
        if let Some(volume) = matcher.infer_from_volume.as_deref().filter(|volume| !volume.is_empty())
            && !spec.template.spec.machine.volumes.iter().any(|one| one.name == volume)
        {
            let what = format!("no volume of the template is named {volume:?}");
            found.refuse(format_args!("{path}.inferFromVolume"), what);
        }
        // KubeVirt takes the plural as well, in any case.
        if let Some(kind) = matcher.kind.as_deref().filter(|kind| !kind.is_empty()) {
            let lower = kind.to_lowercase();
            if !kinds.contains(&lower.strip_suffix('s').unwrap_or(&lower)) {
                let what = format!("{kind:?} is not known; {} and {} are", kinds[0], kinds[1]);
                found.refuse(format_args!("{path}.kind"), what);
            }
        }
    }
    if spec.instancetype.is_some() {
        conflicts(&spec.template.spec.machine, found);
    }
}

/// Whoever names another instancetype or preference names its revision anew as well, or none.
pub(crate) fn matcher_update(old: Option<&Matcher>, new: Option<&Matcher>, field: &str, found: &mut Found) {
    let (Some(old), Some(new)) = (old, new) else { return };
    let revision = old.revision_name.as_deref().filter(|revision| !revision.is_empty());
    if revision.is_some() && old.name != new.name && old.revision_name == new.revision_name {
        let what = format!("is that of another {field}; leave it out where the name changes");
        found.refuse(format_args!("spec.{field}.revisionName"), what);
    }
}

/// What every instancetype says, so that a machine which names one doesn't.
fn conflicts(machine: &VirtualMachineInstanceSpec, found: &mut Found) {
    let domain = &machine.domain;
    let cpu = domain.cpu.clone().unwrap_or_default();
    let resources = &domain.resources;
    let memory = domain.memory.as_ref().and_then(|memory| memory.guest.as_ref());
    for (field, there) in [
        ("cpu.cores", cpu.cores.is_some()),
        ("cpu.sockets", cpu.sockets.is_some()),
        ("cpu.threads", cpu.threads.is_some()),
        ("memory.guest", memory.is_some()),
        ("resources.requests.cpu", resources.requests.contains_key("cpu")),
        ("resources.requests.memory", resources.requests.contains_key("memory")),
        ("resources.limits.cpu", resources.limits.contains_key("cpu")),
        ("resources.limits.memory", resources.limits.contains_key("memory")),
    ] {
        if there {
            let what = "conflicts with spec.instancetype, which says it; leave it out";
            found.refuse(format_args!("spec.template.spec.domain.{field}"), what);
        }
    }
}

pub(crate) fn instancetype(spec: &InstancetypeSpec, found: &mut Found) {
    let vcpus = u64::from(spec.cpu.guest);
    if !(1..=MAX_VCPUS).contains(&vcpus) {
        found.refuse("spec.cpu.guest", format!("{vcpus} vCPUs; a machine has 1 to {MAX_VCPUS}"));
    }
    if spec.cpu.isolate_emulator_thread == Some(true) && spec.cpu.dedicated_cpu_placement != Some(true) {
        found.refuse("spec.cpu.isolateEmulatorThread", "only together with dedicatedCPUPlacement");
    }
    let memory = &spec.memory;
    if memory.guest.value() < MIN_MEMORY {
        found.refuse("spec.memory.guest", format!("{} is less than any guest needs; 128Mi, for one", memory.guest));
    }
    if let Some(percent) = memory.overcommit_percent.filter(|percent| *percent > 0) {
        if percent > 100 {
            found.refuse("spec.memory.overcommitPercent", format!("{percent} is not within 0 to 100"));
        }
        if memory.hugepages.is_some() {
            found.refuse("spec.memory.overcommitPercent", "excludes hugepages, which are all there or not at all");
        }
    }
    if let Some(hugepages) = &memory.hugepages {
        match huge_page_size(&hugepages.page_size) {
            None => {
                let what = format!("{:?} is not supported by vireo; 2Mi and 1Gi are", hugepages.page_size);
                found.refuse("spec.memory.hugepages.pageSize", what);
            }
            Some(size) if !memory.guest.value().is_multiple_of(size) => {
                let what = format!("{} is no multiple of the huge page size, {}", memory.guest, hugepages.page_size);
                found.refuse("spec.memory.guest", what);
            }
            Some(_) => {}
        }
    }
    labels(&spec.node_selector, "spec.nodeSelector", found);
    found.refuse_if("spec.schedulerName", spec.scheduler_name.as_deref().and_then(dns_name));
}

/// A preference for what no machine can have would only fail later, in every machine that names it.
pub(crate) fn preference(spec: &PreferenceSpec, found: &mut Found) {
    let devices = spec.devices.clone().unwrap_or_default();
    for (field, value, supported) in [
        ("preferredDiskBus", &devices.preferred_disk_bus, &["virtio"][..]),
        ("preferredCdromBus", &devices.preferred_cdrom_bus, &["virtio"]),
        ("preferredInterfaceModel", &devices.preferred_interface_model, &["virtio"]),
        ("preferredDiskCache", &devices.preferred_disk_cache, &["none", "writethrough", "writeback"]),
        ("preferredDiskIO", &devices.preferred_disk_io, &["native", "threads"]),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !supported.contains(value)) {
            let what = format!("{value:?} is not supported by vireo; {} can be had", supported.join(", "));
            found.refuse(format_args!("spec.devices.{field}"), what);
        }
    }
    if devices.preferred_autoattach_graphics_device == Some(true) {
        let what = "true is not supported by vireo; there is no graphics device yet";
        found.refuse("spec.devices.preferredAutoattachGraphicsDevice", what);
    }
    if devices.preferred_autoattach_serial_console == Some(false) {
        let what = "false is not supported by vireo; a machine's serial console is its pod's stdio";
        found.refuse("spec.devices.preferredAutoattachSerialConsole", what);
    }
    let firmware = spec.firmware.clone().unwrap_or_default();
    let secure = firmware.preferred_efi.as_ref().and_then(|efi| efi.secure_boot);
    for (field, value) in
        [("preferredEfi.secureBoot", secure), ("preferredUseSecureBoot", firmware.preferred_use_secure_boot)]
    {
        if value == Some(true) {
            found.refuse(
                format_args!("spec.firmware.{field}"),
                "true is not supported by vireo; there is no Secure Boot",
            );
        }
    }
    let efi = firmware.preferred_efi.is_some() || firmware.preferred_use_efi == Some(true);
    if efi && firmware.preferred_use_bios == Some(true) {
        found.refuse("spec.firmware.preferredUseBios", "excludes EFI; name one of them");
    }
    let required = spec.requirements.clone().unwrap_or_default();
    for (field, value) in
        [("preferredArchitecture", &spec.preferred_architecture), ("requirements.architecture", &required.architecture)]
    {
        if let Some(value) = value.as_deref().filter(|value| *value != "amd64") {
            found.refuse(format_args!("spec.{field}"), format!("{value:?} is not supported by vireo; amd64 is"));
        }
    }
    if let Some(vcpus) = required.cpu.map(|cpu| u64::from(cpu.guest)).filter(|vcpus| *vcpus > MAX_VCPUS) {
        let what = format!("{vcpus} vCPUs; a machine has at most {MAX_VCPUS}");
        found.refuse("spec.requirements.cpu.guest", what);
    }
    let spread = spec.cpu.as_ref().and_then(|cpu| cpu.spread_options.as_ref()).and_then(|options| options.ratio);
    if spread == Some(0) {
        found.refuse("spec.cpu.spreadOptions.ratio", "0; at least 1 is needed");
    }
    found.refuse_if("spec.preferredSubdomain", spec.preferred_subdomain.as_deref().and_then(dns_label));
    let class = spec.volumes.as_ref().and_then(|volumes| volumes.preferred_storage_class_name.as_deref());
    found.refuse_if("spec.volumes.preferredStorageClassName", class.and_then(dns_name));
}
