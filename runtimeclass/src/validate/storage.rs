//! Rules on disks and volumes.

use std::collections::HashSet;

use super::Rules;
use crate::kubevirt::v1::VirtualMachineInstanceSpec;

/// As many disks as a machine's PCI bus has room for beside its other devices.
const MAX_DISKS: usize = 24;
/// Length of a virtio-blk serial, bytes (virtio 1.3 §5.2.6).
const MAX_SERIAL: usize = 20;

pub(super) fn check(spec: &VirtualMachineInstanceSpec, rules: &mut Rules<'_>) {
    volumes(spec, rules);
    disks(spec, rules);
}

fn volumes(spec: &VirtualMachineInstanceSpec, rules: &mut Rules<'_>) {
    let mut names = HashSet::new();
    for (index, volume) in spec.volumes.iter().enumerate() {
        let at = format!("volumes[{index}]");
        name(&volume.name, &at, &mut names, rules);
        match (&volume.container_disk, &volume.host_disk) {
            (Some(_), Some(_)) => rules.refuse(&at, "has more than one source"),
            (None, None) => rules.refuse(&at, "has no source; containerDisk and hostDisk are supported"),
            (Some(disk), None) => {
                if disk.path.as_deref().is_some_and(|path| !path.starts_with('/')) {
                    rules.refuse(format_args!("{at}.containerDisk.path"), "must be absolute");
                }
            }
            (None, Some(disk)) => {
                if disk.kind != "Disk" {
                    let what = format!("{:?} is not supported by vireo; Disk is", disk.kind);
                    rules.refuse(format_args!("{at}.hostDisk.type"), what);
                }
            }
        }
    }
    if spec.volumes.len() > MAX_DISKS {
        rules.refuse("volumes", format!("{} volumes; a machine has room for {MAX_DISKS}", spec.volumes.len()));
    }
}

fn disks(spec: &VirtualMachineInstanceSpec, rules: &mut Rules<'_>) {
    let mut names = HashSet::new();
    for (index, disk) in spec.domain.devices.disks.iter().enumerate() {
        let at = format!("domain.devices.disks[{index}]");
        name(&disk.name, &at, &mut names, rules);
        if !spec.volumes.iter().any(|volume| volume.name == disk.name) {
            rules.refuse(format_args!("{at}.name"), format!("no volume is named {:?}", disk.name));
        }
        if let Some(bus) = disk.disk.as_ref().and_then(|target| target.bus.as_deref()).filter(|bus| *bus != "virtio") {
            rules.refuse(format_args!("{at}.disk.bus"), format!("{bus:?} is not supported by vireo; virtio is"));
        }
        if let Some(serial) = &disk.serial {
            if serial.len() > MAX_SERIAL {
                let what = format!("{} bytes; a virtio disk's serial has at most {MAX_SERIAL}", serial.len());
                rules.refuse(format_args!("{at}.serial"), what);
            }
            if !serial.bytes().all(|byte| byte.is_ascii_graphic()) {
                rules.refuse(format_args!("{at}.serial"), "must be printable ASCII without spaces");
            }
        }
    }
}

/// A name is there, and not twice.
fn name<'a>(name: &'a str, at: &str, names: &mut HashSet<&'a str>, rules: &mut Rules<'_>) {
    if name.is_empty() {
        rules.refuse(format_args!("{at}.name"), "empty");
    } else if !names.insert(name) {
        rules.refuse(format_args!("{at}.name"), format!("{name:?} is already taken"));
    }
}
