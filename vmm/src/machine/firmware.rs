//! What a machine has for its firmware, beside what every machine has: the flash, fw_cfg and what it says, the debug port.

use std::fmt::Write as _;
use std::sync::Arc;

use kvm_ioctls::VmFd;

use super::devices::Devices;
use crate::acpi::{Board, loader};
use crate::boot::{self, firmware};
use crate::bus::Overlap;
use crate::config::{BootDevice, FirmwarePlan, FlashPlan, MachinePlan};
use crate::ending::Ending;
use crate::memory::GuestRam;
use crate::memory::layout::{
    ECAM_START, GENERATION_ID, GENERATION_ID_SIZE, KVM_IDENTITY_MAP, KVM_PAGES_SIZE, MapKind, port, ram_regions,
};
use crate::memory::rom::RomSlot;
use crate::pci::isa_bridge::{self, IsaBridge};
use crate::platform::debug_port::DebugPort;
use crate::platform::fw_cfg::{FileError, FwCfg, Items};
use crate::platform::pflash::Pflash;
use crate::platform::smi::SmiEnable;
use crate::smbios;

/// Why firmware has no place.
#[derive(Debug, thiserror::Error)]
pub enum FirmwareError {
    /// Its files.
    #[error(transparent)]
    Boot(#[from] boot::Error),
    /// The machine type contradicts itself.
    #[error(transparent)]
    Bus(#[from] Overlap),
    /// The bridge to the board.
    #[error(transparent)]
    Pci(#[from] crate::pci::Error),
    /// What it is told.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Puts everything in place; what is returned holds the code, and must outlive the vCPUs.
pub(super) fn install(
    plan: &MachinePlan,
    firmware: &FirmwarePlan,
    board: Board,
    (vm, ram): (&Arc<VmFd>, &GuestRam),
    devices: &Devices,
    ending: &Arc<Ending>,
) -> Result<RomSlot, FirmwareError> {
    let loaded = firmware::load(&firmware.flash, vm, ram)?;
    if let Some((content, address, size)) = loaded.variables {
        devices.mmio.insert(address, size, Arc::new(Pflash::new(content, Arc::clone(ending))))?;
    }
    devices.pci.add_board(isa_bridge::SLOT, Arc::new(IsaBridge::default()))?;
    devices.ports.insert(port::SMI_ENABLE.into(), SmiEnable::PORTS, Arc::new(SmiEnable))?;
    if firmware.log {
        devices.ports.insert(port::DEBUG.into(), 1, Arc::new(DebugPort::new(|line| eprintln!("firmware: {line}"))))?;
    }
    let fw_cfg = FwCfg::new(items(plan, firmware, board, devices)?, ram.clone());
    devices.ports.insert(port::FW_CFG.into(), FwCfg::PORTS, Arc::new(fw_cfg))?;
    Ok(loaded.code)
}

fn items(plan: &MachinePlan, firmware: &FirmwarePlan, board: Board, devices: &Devices) -> Result<Items, FileError> {
    let mut items = Items::new(plan.cpu.topology, plan.memory.size);
    items.add_file("etc/e820", e820(plan.memory.size))?;
    let order = boot_order(&firmware.order, &devices.disk_slots, &devices.nic_slots);
    if !order.is_empty() {
        items.add_file("bootorder", order)?;
    }
    if let FlashPlan::Bios { serial: true, .. } = firmware.flash {
        items.add_file("etc/sercon-port", port::SERIAL.to_le_bytes().into())?;
    }
    let uefi = matches!(firmware.flash, FlashPlan::Efi { .. });
    let facts = smbios::Facts { identity: &plan.identity, topology: plan.cpu.topology, memory: plan.memory.size, uefi };
    let smbios::Tables { anchor, tables } = smbios::build(facts, 0);
    items.add_file("etc/smbios/smbios-anchor", anchor.into())?;
    items.add_file("etc/smbios/smbios-tables", tables)?;
    let (commands, rsdp) = loader::commands(&board);
    items.add_file(loader::COMMANDS, commands)?;
    items.add_file(loader::RSDP, rsdp)?;
    // Made when firmware takes them: by then it has moved the ECAM to where it wants it.
    let pci = Arc::downgrade(&devices.pci);
    items.add_made_file(loader::TABLES, move || {
        let ecam = pci.upgrade().and_then(|pci| pci.ecam()).unwrap_or(ECAM_START);
        loader::tables(&Board { ecam, ..board.clone() })
    })?;
    Ok(items)
}

/// RAM, and what firmware must keep free: { start, size, type } each. RAM below 1 MiB is one range with the rest: what lies there
/// is firmware's own affair.
fn e820(ram: u64) -> Vec<u8> {
    let ram = ram_regions(ram).into_iter().map(|(start, size)| (start, size, MapKind::Ram));
    let reserved =
        [(GENERATION_ID, GENERATION_ID_SIZE, MapKind::Reserved), (KVM_IDENTITY_MAP, KVM_PAGES_SIZE, MapKind::Reserved)];
    let mut map = Vec::new();
    for (start, size, kind) in ram.chain(reserved) {
        map.extend(start.to_le_bytes());
        map.extend(size.to_le_bytes());
        map.extend((kind as u32).to_le_bytes());
    }
    map
}

/// The devices' Open Firmware paths, as QEMU writes them: a line each, the last one ending in NUL.
fn boot_order(order: &[BootDevice], disks: &[u8], nics: &[u8]) -> Vec<u8> {
    let mut text = String::new();
    for device in order {
        let line = match device {
            BootDevice::Disk(index) => disks.get(usize::from(*index)).map(|slot| ("scsi", slot, "disk@0,0")),
            BootDevice::Nic(index) => nics.get(usize::from(*index)).map(|slot| ("ethernet", slot, "ethernet-phy@0")),
        };
        if let Some((kind, slot, unit)) = line {
            let newline = if text.is_empty() { "" } else { "\n" };
            // Writing into a string can't fail.
            let _ = write!(text, "{newline}/pci@i0cf8/{kind}@{slot:x}/{unit}");
        }
    }
    let mut bytes = text.into_bytes();
    if !bytes.is_empty() {
        bytes.push(0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_by_their_slots() {
        let order = [BootDevice::Disk(1), BootDevice::Nic(0), BootDevice::Disk(0)];
        let text = boot_order(&order, &[1, 2], &[10]);
        let lines =
            ["/pci@i0cf8/scsi@2/disk@0,0", "/pci@i0cf8/ethernet@a/ethernet-phy@0", "/pci@i0cf8/scsi@1/disk@0,0"];
        assert_eq!(String::from_utf8(text).unwrap(), lines.join("\n") + "\0");
        assert!(boot_order(&[], &[1], &[]).is_empty());
    }

    #[test]
    fn the_map_has_ram_first_and_in_one_piece() {
        let map = e820(3 << 30);
        assert_eq!(map.len(), 4 * 20);
        let entry = |at: usize| {
            let part = |from: usize, len: usize| {
                map[at * 20 + from..][..len].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte))
            };
            (part(0, 8), part(8, 8), part(16, 4))
        };
        assert_eq!([entry(0), entry(1)], [(0, 2 << 30, 1), (4 << 30, 1 << 30, 1)]);
        assert_eq!([entry(2), entry(3)], [(0xFEFF_B000, 0x1000, 2), (0xFEFF_C000, 0x4000, 2)]);
    }
}
