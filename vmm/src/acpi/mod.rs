//! The ACPI tables (ACPI 6.5 §5.2) of machine type `vireo-1`, written once into the BIOS area before the boot.
//!
//! Classic fixed hardware, not "hardware-reduced": PM1a with a fixed power button, the PM timer and S5. What is on the
//! board stands in the [`dsdt`].

mod dsdt;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::memory::GuestRam;
use crate::memory::layout::{ECAM_START, IOAPIC_START, LAPIC_START, gsi, low, port};

const OEM: [u8; 6] = *b"VIREO ";
const OEM_TABLE: [u8; 8] = *b"VIREO-1 ";
const OEM_REVISION: u32 = 1;
/// What goes to the reset port: a hard reset of the CPU (bits 1 and 2).
const RESET_VALUE: u8 = 6;
/// FADT boot architecture flags: devices on an ISA bus; no VGA. The i8042 isn't told of: Linux would look for a keyboard.
const BOOT_ARCH: u16 = 1 | 1 << 2;
/// CMOS index of the century.
const CENTURY: u8 = 0x32;

/// Writes all tables for a machine with `vcpus` processors and a 64-bit PCI window at `mmio64`; returns the RSDP's GPA.
pub fn write(ram: &GuestRam, vcpus: u8, mmio64: u64) -> Result<u64, GuestMemoryError> {
    let mut tables = Tables { bytes: Vec::new() };
    // The RSDP comes first, and last of all is known what it points to.
    tables.bytes.resize(Rsdp::len(), 0);
    let dsdt = tables.add(&dsdt::build(mmio64));
    let facs = tables.add(&FACS::new());
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(ECAM_START, 0, 0, 0);
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    // ACPICA wants the FADT first.
    xsdt.add_entry(tables.add(&fadt(dsdt, facs)));
    xsdt.add_entry(tables.add(&madt(vcpus)));
    xsdt.add_entry(tables.add(&mcfg));
    let xsdt = tables.add(&xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    tables.bytes[..rsdp.len()].copy_from_slice(&rsdp);
    ram.write_slice(&tables.bytes, GuestAddress(low::ACPI))?;
    Ok(low::ACPI)
}

/// The tables one after the other, as they will lie at [`low::ACPI`].
struct Tables {
    bytes: Vec<u8>,
}

impl Tables {
    /// Appends a table, aligned as the FACS needs it; returns its GPA.
    fn add(&mut self, table: &dyn Aml) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let address = low::ACPI + self.bytes.len() as u64;
        table.to_aml_bytes(&mut self.bytes);
        address
    }
}

fn fadt(dsdt: u64, facs: u64) -> FADT {
    let io = |bits, size, port: u16| GAS::new(AddressSpace::SystemIo, bits, 0, size, u64::from(port));
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .firmware_ctrl_64(facs)
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
fn madt(vcpus: u8) -> Sdt {
    /// 8259s are there too.
    const PCAT_COMPAT: u32 = 1;
    /// Polarity and trigger: active high, level.
    const HIGH_LEVEL: u16 = 0x0D;
    let mut body = Vec::new();
    body.extend(u32::try_from(LAPIC_START).unwrap_or(0).to_le_bytes());
    body.extend(PCAT_COMPAT.to_le_bytes());
    for cpu in 0..vcpus {
        // Processor local APIC, enabled.
        body.extend([0, 8, cpu, cpu, 1, 0, 0, 0]);
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
mod tests {
    use super::*;
    use crate::memory::guest_ram;

    fn read(ram: &GuestRam, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_is_reached_and_sums_to_zero() {
        let ram = guest_ram::create(16 << 20, None).unwrap();
        let rsdp = write(&ram, 254, 4 << 30).unwrap();
        let root = read(&ram, rsdp, 36);
        assert_eq!((&root[..8], sum(&root[..20]), sum(&root)), (b"RSD PTR ".as_slice(), 0, 0));
        let table = |at: u64| {
            let len = ram.read_obj::<u32>(GuestAddress(at + 4)).unwrap() as usize;
            assert!(at + len as u64 <= low::HIGH);
            let bytes = read(&ram, at, len);
            assert_eq!(sum(&bytes), 0, "{:?}", &bytes[..4]);
            bytes
        };
        let xsdt = table(u64::from_le_bytes(root[24..32].try_into().unwrap()));
        let entries = xsdt[36..].chunks(8).map(|at| table(u64::from_le_bytes(at.try_into().unwrap())));
        let entries: Vec<_> = entries.collect();
        let names: Vec<_> = entries.iter().map(|t| String::from_utf8_lossy(&t[..4]).into_owned()).collect();
        assert_eq!(names, ["FACP", "APIC", "MCFG"]);
        let dsdt = table(u64::from_le_bytes(entries[0][140..148].try_into().unwrap()));
        assert_eq!(&dsdt[..4], b"DSDT");
        let facs = u64::from_le_bytes(entries[0][132..140].try_into().unwrap());
        assert_eq!((read(&ram, facs, 4).as_slice(), facs % 64), (b"FACS".as_slice(), 0));
    }
}
