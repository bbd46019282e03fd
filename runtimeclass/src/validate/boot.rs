//! Rules on what a machine boots: a kernel, or firmware and the order of its devices.

use super::{MAX_CMDLINE, Rules};
use crate::kubevirt::v1::{Firmware, VirtualMachineInstanceSpec};

/// Why there is no Secure Boot.
const NO_SECURE_BOOT: &str =
    "true is not supported by vireo: the builds of OVMF that enforce it need system management mode";

pub(super) fn check(spec: &VirtualMachineInstanceSpec, rules: &mut Rules<'_>) {
    if let Some(firmware) = &spec.domain.firmware {
        kernel_boot(firmware, rules);
        bootloader(firmware, rules);
    }
    boot_order(spec, rules);
}

fn kernel_boot(firmware: &Firmware, rules: &mut Rules<'_>) {
    let Some(boot) = &firmware.kernel_boot else { return };
    let at = "domain.firmware.kernelBoot";
    if let Some(args) = &boot.kernel_args {
        if args.len() > MAX_CMDLINE {
            rules.refuse(
                format_args!("{at}.kernelArgs"),
                format!("{} bytes; a kernel takes at most {MAX_CMDLINE}", args.len()),
            );
        }
        if args.contains(|c: char| c.is_control()) {
            rules.refuse(format_args!("{at}.kernelArgs"), "contains a control character");
        }
    }
    let container = boot.container.as_ref();
    if container.and_then(|container| container.kernel_path.as_deref()).is_none_or(str::is_empty) {
        rules.refuse(format_args!("{at}.container.kernelPath"), "missing; without firmware a kernel is needed");
    }
}

fn bootloader(firmware: &Firmware, rules: &mut Rules<'_>) {
    let Some(bootloader) = &firmware.bootloader else { return };
    let at = "domain.firmware.bootloader";
    if bootloader.bios.is_some() && bootloader.efi.is_some() {
        rules.refuse(format_args!("{at}.efi"), "excludes bios; name one of them");
    }
    let Some(efi) = &bootloader.efi else { return };
    if firmware.kernel_boot.is_some() {
        rules.refuse(format_args!("{at}.efi"), "excludes kernelBoot, which boots without firmware");
    }
    if efi.secure_boot == Some(true) {
        rules.refuse(format_args!("{at}.efi.secureBoot"), NO_SECURE_BOOT);
    }
}

/// Places are unique among disks and interfaces, and whatever has one must be able to boot.
fn boot_order(spec: &VirtualMachineInstanceSpec, rules: &mut Rules<'_>) {
    let devices = &spec.domain.devices;
    let disks = devices.disks.iter().map(|disk| disk.boot_order);
    let interfaces = devices.interfaces.iter().map(|interface| interface.boot_order);
    let places = disks.enumerate().map(|(i, place)| (format!("disks[{i}]"), place));
    let places = places.chain(interfaces.enumerate().map(|(i, place)| (format!("interfaces[{i}]"), place)));
    let mut taken: Vec<(u32, String)> = Vec::new();
    for (device, place) in places.filter_map(|(device, place)| Some((device, place?))) {
        let field = format!("domain.devices.{device}.bootOrder");
        if place == 0 {
            rules.refuse(&field, "0; places begin with 1");
        } else if let Some((_, other)) = taken.iter().find(|(other, _)| *other == place) {
            rules.refuse(&field, format!("{place} is the place of domain.devices.{other} already"));
        }
        let bootloader = spec.domain.firmware.as_ref().and_then(|firmware| firmware.bootloader.as_ref());
        if device.starts_with("interfaces") && bootloader.is_none_or(|bootloader| bootloader.efi.is_none()) {
            rules.refuse(&field, "not supported by vireo without domain.firmware.bootloader.efi; BIOS boots disks");
        }
        taken.push((place, device));
    }
}
