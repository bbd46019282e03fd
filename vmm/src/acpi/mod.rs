//! The ACPI tables (ACPI 6.5 §5.2) of machine type `vireo-1`.
//!
//! Classic fixed hardware, not "hardware-reduced": PM1a with a fixed power button, the PM timer and S5. What is on the
//! board stands in the [`dsdt`]. Without firmware the tables are written once into the BIOS area before the boot; with
//! firmware they are handed over by the table [`loader`], and it finds them a place.

mod dsdt;
pub mod loader;
mod tables;

use std::ops::Range;

use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::sdt::Sdt;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::config::Topology;
use crate::memory::GuestRam;
use crate::memory::layout::{IOAPIC_START, LAPIC_START, gsi, low, port};
use tables::Tables;

const OEM: [u8; 6] = *b"VIREO ";
const OEM_TABLE: [u8; 8] = *b"VIREO-1 ";
const OEM_REVISION: u32 = 1;
/// What goes to the reset port: a hard reset of the CPU (bits 1 and 2).
const RESET_VALUE: u8 = 6;
/// FADT boot architecture flags: devices on an ISA bus; no VGA. The i8042 isn't told of: Linux would look for a keyboard.
const BOOT_ARCH: u16 = 1 | 1 << 2;
/// CMOS index of the century.
const CENTURY: u8 = 0x32;
/// Offsets in the FADT of `FIRMWARE_CTRL`, `DSDT` and `X_DSDT`.
const FADT_FACS: usize = 36;
const FADT_DSDT: usize = 40;
const FADT_X_DSDT: usize = 140;

/// What the tables tell of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Board {
    /// Processors.
    pub cpus: Topology,
    /// Base of the enhanced configuration space.
    pub ecam: u64,
    /// The 64-bit PCI window.
    pub mmio64: Range<u64>,
}

/// Writes all tables into the BIOS area; returns the RSDP's GPA.
pub fn write(ram: &GuestRam, board: &Board) -> Result<u64, GuestMemoryError> {
    /// The RSDP comes first; the tables go where the FACS is aligned to 64.
    const TABLES: u64 = low::ACPI + 64;
    let tables = build(board);
    ram.write_slice(&tables.rsdp_at(TABLES), GuestAddress(low::ACPI))?;
    ram.write_slice(&tables.at(TABLES), GuestAddress(TABLES))?;
    Ok(low::ACPI)
}

fn build(board: &Board) -> Tables {
    let mut tables = Tables::default();
    let dsdt = tables.add(&dsdt::build(board.ecam, &board.mmio64));
    let facs = tables.add(&FACS::new());
    // ACPICA wants the FADT first.
    let fadt = tables.add(&fadt());
    tables.point(fadt + FADT_FACS, 4, facs);
    tables.point(fadt + FADT_DSDT, 4, dsdt);
    tables.point(fadt + FADT_X_DSDT, 8, dsdt);
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(board.ecam, 0, 0, 0);
    let entries = [fadt, tables.add(&madt(board.cpus)), tables.add(&mcfg)];
    tables.add_root(&entries);
    tables
}

fn fadt() -> FADT {
    let io = |bits, size, port: u16| GAS::new(AddressSpace::SystemIo, bits, 0, size, u64::from(port));
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    let (event, control, timer) = (port::ACPI_PM, port::ACPI_PM + 4, port::ACPI_PM + 8);
    fadt.sci_int = u16::try_from(gsi::SCI).unwrap_or(0).into();
    fadt.pm1a_evt_blk = u32::from(event).into();
    fadt.pm1a_cnt_blk = u32::from(control).into();
    fadt.pm_tmr_blk = u32::from(timer).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_len = 4;
    fadt.x_pm1a_evt_blk = io(32, AccessSize::WordAccess, event);
    fadt.x_pm1a_cnt_blk = io(16, AccessSize::WordAccess, control);
    fadt.x_pm_tmr_blk = io(32, AccessSize::DwordAccess, timer);
    fadt.reset_reg = io(8, AccessSize::ByteAccess, port::RESET);
    fadt.reset_value = RESET_VALUE;
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.century = CENTURY;
    // No C2 and C3 (ACPI 6.5 §5.2.9: latencies above 100 and 1000 µs).
    fadt.p_lvl2_lat = 101.into();
    fadt.p_lvl3_lat = 1001.into();
    fadt.finalize()
}

/// Interrupt controllers (ACPI 6.5 §5.2.12). `acpi_tables` has no override and NMI entries, so its bytes stand here.
fn madt(cpus: Topology) -> Sdt {
    /// 8259s are there too.
    const PCAT_COMPAT: u32 = 1;
    /// Polarity and trigger: active high, level.
    const HIGH_LEVEL: u16 = 0x0D;
    let mut body = Vec::new();
    body.extend(u32::try_from(LAPIC_START).unwrap_or(0).to_le_bytes());
    body.extend(PCAT_COMPAT.to_le_bytes());
    for cpu in 0..cpus.vcpus() {
        // Processor local APIC, enabled; in the order of the vCPUs.
        body.extend([0, 8, cpu, cpus.apic_id(cpu), 1, 0, 0, 0]);
    }
    // The I/O APIC, id 0, from GSI 0.
    body.extend([1, 12, 0, 0]);
    body.extend(u32::try_from(IOAPIC_START).unwrap_or(0).to_le_bytes());
    body.extend(0u32.to_le_bytes());
    // ISA interrupt 0 (the PIT) is wired to pin 2; the SCI is level triggered.
    for (isa, pin, flags) in [(0, 2, 0), (9, gsi::SCI, HIGH_LEVEL)] {
        body.extend([2, 10, 0, isa]);
        body.extend(pin.to_le_bytes());
        body.extend(flags.to_le_bytes());
    }
    // LINT1 of every local APIC is the NMI.
    body.extend([4, 6, 0xFF, 0, 0, 1]);
    let mut madt = Sdt::new(*b"APIC", 36, 5, OEM, OEM_TABLE, OEM_REVISION);
    madt.append_slice(&body);
    madt
}

#[cfg(test)]
mod tests;
