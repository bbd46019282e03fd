//! Firmware: the node's own, as its distribution packages it. EFI's variables are a copy of the empty ones: in a claim of the
//! pod's if they are to be persistent, else in memory, and then they last over the machine's resets, not over a restart of its pod.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vireo_runtimeclass::kubevirt::v1::Bootloader;
use vireo_vmm::config::{BootConfig, BootDevice, DiskConfig, FirmwareConfig, JailConfig};

use super::{Fds, Place, Source, TranslateError, pod_identity};
use crate::node_config::{BIOS, EFI_CODE, EFI_VARIABLES};
use crate::volume::{MAX_VARIABLES, Purpose, claim_variables, open_local};

/// A file of firmware: where it is by default, and what to do where it isn't.
struct Kind {
    what: &'static str,
    default: &'static str,
    package: &'static str,
    key: &'static str,
}

const KINDS: [Kind; 3] = [
    Kind { what: "BIOS", default: BIOS, package: "seabios", key: "bios" },
    Kind { what: "EFI code", default: EFI_CODE, package: "ovmf", key: "efiCode" },
    Kind { what: "EFI variables", default: EFI_VARIABLES, package: "ovmf", key: "efiVariables" },
];

impl Kind {
    fn open(&self, configured: Option<&PathBuf>) -> Result<File, TranslateError> {
        let path = configured.map_or(Path::new(self.default), PathBuf::as_path);
        open_local(path, Purpose::Boot).map_err(|source| self.failed(source.into()))
    }

    fn failed(&self, source: Box<dyn std::error::Error + Send + Sync>) -> TranslateError {
        TranslateError::Firmware { what: self.what, package: self.package, key: self.key, source }
    }
}

/// Firmware for `disks`, BIOS unless the spec names EFI.
pub(super) fn firmware(
    source: &Source<'_>,
    bootloader: Option<&Bootloader>,
    disks: &[DiskConfig],
    fds: &mut Fds,
) -> Result<BootConfig, TranslateError> {
    let [bios, code, variables] = &KINDS;
    let node = source.node;
    let firmware = if let Some(efi) = bootloader.and_then(|bootloader| bootloader.efi.as_ref()) {
        let code = code.open(node.efi_code.as_ref())?;
        let template = variables.open(node.efi_variables.as_ref())?;
        let own = match (&source.place, efi.persistent) {
            (Place::Pod { oci, .. }, Some(true)) => {
                let JailConfig { uid, gid } = pod_identity(oci);
                let what = || "spec.domain.firmware.bootloader.efi.persistent".to_owned();
                claim_variables(oci, (uid, gid), &template)
                    .map_err(|source| TranslateError::Boot { what: what(), source })?
            }
            (Place::Local { .. }, Some(true)) => {
                let path = "spec.template.spec.domain.firmware.bootloader.efi.persistent".to_owned();
                return Err(TranslateError::Field {
                    path,
                    what: "vireo run has no place for the variables; leave it out",
                });
            }
            _ => copy(&template).map_err(|error| variables.failed(error.into()))?,
        };
        FirmwareConfig::Efi { code: fds.add(code)?, variables: fds.add(own)? }
    } else {
        let serial = bootloader.and_then(|bootloader| bootloader.bios.as_ref()?.use_serial).unwrap_or(false);
        FirmwareConfig::Bios { image: fds.add(bios.open(node.bios.as_ref())?)?, serial }
    };
    Ok(BootConfig::Firmware { firmware, order: boot_order(source, disks), log: node.firmware_log })
}

/// The devices that have a place, by it; where none has one, the disks as they are listed.
fn boot_order(source: &Source<'_>, disks: &[DiskConfig]) -> Vec<BootDevice> {
    let disk = |name: &str| disks.iter().position(|disk| disk.name == name).and_then(index).map(BootDevice::Disk);
    let nic = |name: &str| source.nics.iter().position(|nic| nic.name == name).and_then(index).map(BootDevice::Nic);
    let mut placed: Vec<(u32, BootDevice)> = Vec::new();
    if let Some(spec) = source.spec {
        let devices = &spec.domain.devices;
        placed.extend(devices.disks.iter().filter_map(|d| Some((d.boot_order?, disk(&d.name)?))));
        placed.extend(devices.interfaces.iter().filter_map(|i| Some((i.boot_order?, nic(&i.name)?))));
    }
    if placed.is_empty() {
        return (0..disks.len()).filter_map(index).map(BootDevice::Disk).collect();
    }
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, device)| device).collect()
}

fn index(position: usize) -> Option<u16> {
    u16::try_from(position).ok()
}

/// A copy of a template that only its machine has.
fn copy(template: &File) -> io::Result<File> {
    let size = template.metadata()?.len();
    if size > MAX_VARIABLES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{size} bytes are more than any flash has")));
    }
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut own = File::from(memfd_create(c"vireo-efi-variables", flags)?);
    io::copy(&mut &*template, &mut own)?;
    // Whoever maps it relies on its size.
    fcntl(&own, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL))?;
    Ok(own)
}
