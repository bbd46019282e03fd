//! The DSDT: the PCI root with its windows, the board's ports, the first serial port, the clock, pvpanic, and S5.

use std::ops::Range;

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path,
    ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::memory::layout::{ECAM_RESERVED, GENERATION_ID, PCI_MMIO32_SIZE, PCI_MMIO32_START, gsi, port};
use crate::platform::acpi_pm::S5_SLEEP_TYPE;

/// Its length is the same wherever the ECAM and the window lie.
pub(super) fn build(ecam: u64, mmio64: &Range<u64>) -> Sdt {
    let mut devices = Vec::new();
    pci_root(&mut devices, ecam, mmio64);
    board(&mut devices, ecam);
    device(&mut devices, "COM1", &EISAName::new("PNP0501"), &[&fixed_io(port::SERIAL, 8), &line(gsi::SERIAL)]);
    device(&mut devices, "RTC_", &EISAName::new("PNP0B00"), &[&fixed_io(port::RTC, 2), &line(gsi::RTC)]);
    device(&mut devices, "PEVT", &"QEMU0001", &[&fixed_io(port::PVPANIC, 1)]);
    generation_id(&mut devices);

    let mut aml = Scope::raw(Path::new("_SB_"), devices);
    let sleep = Package::new(vec![&S5_SLEEP_TYPE, &S5_SLEEP_TYPE, &0u8, &0u8]);
    Name::new("_S5_".into(), &sleep).to_aml_bytes(&mut aml);
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM, OEM_TABLE, OEM_REVISION);
    dsdt.append_slice(&aml);
    dsdt
}

/// Bus 0 behind ECAM. There is no `_PRT`: devices have MSI-X and no interrupt pins.
fn pci_root(aml: &mut Vec<u8>, ecam: u64, mmio64: &Range<u64>) {
    let memory32 = |start: u64, end: u64| {
        AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, low32(start), low32(end - 1), None)
    };
    let under_ecam = memory32(PCI_MMIO32_START, ecam);
    let over_ecam = memory32(ecam + ECAM_RESERVED, PCI_MMIO32_START + PCI_MMIO32_SIZE);
    let memory64 =
        AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, mmio64.start, mmio64.end - 1, None);
    let bus = AddressSpace::new_bus_number(0u16, 0);
    let config = fixed_io(port::PCI_CONFIG, 8);
    let below = AddressSpace::new_io(0u16, port::PCI_CONFIG - 1, None);
    let above = AddressSpace::new_io(port::PCI_CONFIG + 8, u16::MAX, None);
    let windows = ResourceTemplate::new(vec![&bus, &config, &below, &above, &under_ecam, &over_ecam, &memory64]);
    Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &0u8),
            &Name::new("_SEG".into(), &0u8),
            &Name::new("_BBN".into(), &0u8),
            &Name::new("_CRS".into(), &windows),
        ],
    )
    .to_aml_bytes(aml);
}

/// What the board decodes itself, so that no driver is given it.
fn board(aml: &mut Vec<u8>, ecam: u64) {
    let ecam = Memory32Fixed::new(true, low32(ecam), low32(ECAM_RESERVED));
    device(aml, "BRD_", &EISAName::new("PNP0C02"), &[&ecam, &fixed_io(port::ACPI_PM, 12)]);
}

/// Where the generation id is. Linux knows the device by its `_HID`, Windows and BSD by its `_CID`.
fn generation_id(aml: &mut Vec<u8>) {
    let id = "VM_Gen_Counter";
    let address = Package::new(vec![&GENERATION_ID, &0u8]);
    Device::new(
        "VGEN".into(),
        vec![
            &Name::new("_HID".into(), &"VMGENCTR"),
            &Name::new("_CID".into(), &id),
            &Name::new("_DDN".into(), &id),
            &Name::new("_STA".into(), &0x0Fu8),
            &Name::new("ADDR".into(), &address),
        ],
    )
    .to_aml_bytes(aml);
}

fn device(aml: &mut Vec<u8>, name: &str, hid: &dyn Aml, resources: &[&dyn Aml]) {
    let resources = ResourceTemplate::new(resources.to_vec());
    let present = Name::new("_STA".into(), &0x0Fu8);
    let names = [Name::new("_HID".into(), hid), present, Name::new("_CRS".into(), &resources)];
    Device::new(name.into(), names.iter().map(|n| n as &dyn Aml).collect()).to_aml_bytes(aml);
}

fn fixed_io(port: u16, len: u8) -> IO {
    IO::new(port, port, 1, len)
}

fn line(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

/// The windows below 4 GiB are constants of the memory map.
fn low32(address: u64) -> u32 {
    u32::try_from(address).unwrap_or(u32::MAX)
}
