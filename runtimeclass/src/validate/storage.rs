//! Rules on disks.

use std::collections::HashSet;

use super::Rules;
use crate::kubevirt::v1::{CustomBlockSize, Disk, VirtualMachineInstanceSpec};

/// As many disks as a machine's PCI bus has room for beside its other devices.
pub(super) const MAX_DISKS: usize = 24;
/// Length of a virtio-blk serial, bytes (virtio 1.3 §5.2.6).
const MAX_SERIAL: usize = 20;

/// Logical blocks that guests can use, bytes: up to a page.
const LOGICAL_BLOCK: std::ops::RangeInclusive<u32> = 512..=4096;
/// The largest physical block, bytes (KubeVirt's bound).
const MAX_PHYSICAL_BLOCK: u32 = 2 << 20;

pub(super) fn check(spec: &VirtualMachineInstanceSpec, rules: &mut Rules<'_>) {
    let mut names = HashSet::new();
    for (index, disk) in spec.domain.devices.disks.iter().enumerate() {
        let at = format!("domain.devices.disks[{index}]");
        name(&disk.name, &at, &mut names, rules);
        match spec.volumes.iter().find(|volume| volume.name == disk.name) {
            None => rules.refuse(format_args!("{at}.name"), format!("no volume is named {:?}", disk.name)),
            Some(volume) if volume.empty_disk.is_some() && disk.is_readonly() => {
                rules.refuse(&at, "is read-only and shows an emptyDisk, which nobody else fills");
            }
            Some(_) => {}
        }
        target(disk, &at, rules);
        traits(disk, &at, rules);
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

/// What the disk is shown as.
fn target(disk: &Disk, at: &str, rules: &mut Rules<'_>) {
    let buses = [
        ("disk", disk.disk.as_ref().and_then(|target| target.bus.as_deref())),
        ("cdrom", disk.cdrom.as_ref().and_then(|target| target.bus.as_deref())),
    ];
    for (kind, bus) in buses {
        if let Some(bus) = bus.filter(|bus| *bus != "virtio") {
            rules.refuse(format_args!("{at}.{kind}.bus"), format!("{bus:?} is not supported by vireo; virtio is"));
        }
    }
    if let Some(cdrom) = &disk.cdrom {
        if disk.disk.is_some() {
            rules.refuse(at, "is disk and cdrom at once; name one of them");
        }
        if cdrom.readonly == Some(false) {
            rules.refuse(format_args!("{at}.cdrom.readonly"), "false is not supported by vireo; a cdrom is read-only");
        }
    }
}

/// How it behaves.
fn traits(disk: &Disk, at: &str, rules: &mut Rules<'_>) {
    for (field, value, supported) in [
        ("cache", &disk.cache, &["none", "writethrough", "writeback"][..]),
        ("io", &disk.io, &["native", "threads"]),
        ("errorPolicy", &disk.error_policy, &["stop", "ignore", "report", "enospace"]),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !supported.contains(value)) {
            let what = format!("{value:?} is not supported by vireo; {} are", supported.join(", "));
            rules.refuse(format_args!("{at}.{field}"), what);
        }
    }
    // QEMU has no other way either, and who asks for it means to go around the page cache.
    if disk.io.as_deref() == Some("native") && disk.cache.as_deref().is_some_and(|cache| cache != "none") {
        rules.refuse(format_args!("{at}.io"), "native needs cache none");
    }
    // What one writer's page cache holds, the others wouldn't see.
    if disk.shareable == Some(true) && disk.cache.as_deref().is_some_and(|cache| cache != "none") {
        rules.refuse(format_args!("{at}.cache"), "a shareable disk's cache is none");
    }
    if let Some(size) = &disk.block_size {
        match (&size.custom, &size.match_volume) {
            (Some(_), Some(state)) if state.is_enabled() => {
                rules.refuse(format_args!("{at}.blockSize"), "is custom and matchVolume at once; name one of them");
            }
            (Some(custom), _) => custom_block_size(*custom, at, rules),
            (None, _) => {}
        }
    }
}

fn custom_block_size(size: CustomBlockSize, at: &str, rules: &mut Rules<'_>) {
    let CustomBlockSize { logical, physical } = size;
    if !logical.is_power_of_two() || !LOGICAL_BLOCK.contains(&logical) {
        let what = format!("{logical} is not supported by vireo; a power of two from 512 to 4096 is");
        rules.refuse(format_args!("{at}.blockSize.custom.logical"), what);
    }
    if !physical.is_power_of_two() || physical < logical || physical > MAX_PHYSICAL_BLOCK {
        let what = format!("{physical} is not supported by vireo; a power of two from logical up to 2097152 is");
        rules.refuse(format_args!("{at}.blockSize.custom.physical"), what);
    }
}

/// A name is there, and not twice.
pub(super) fn name<'a>(name: &'a str, at: &str, names: &mut HashSet<&'a str>, rules: &mut Rules<'_>) {
    if name.is_empty() {
        rules.refuse(format_args!("{at}.name"), "empty");
    } else if !names.insert(name) {
        rules.refuse(format_args!("{at}.name"), format!("{name:?} is already taken"));
    }
}
