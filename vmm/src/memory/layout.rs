//! The memory map of machine type `vireo-1`. All addresses are guest physical (GPA), all sizes in bytes.
//!
//! ```text
//! 0x0000_0000 .. 0x8000_0000   low RAM (at most 2 GiB); what boots lies in `low`
//! 0x8000_0000 .. 0xFEC0_0000   32-bit PCI window, except for the ECAM in it
//! 0xE000_0000 .. 0xE010_0000   ECAM of bus 0, where no firmware has moved it
//! 0xFEC0_0000                  I/O APIC
//! 0xFEE0_0000                  local APICs
//! 0xFEFF_B000                  the machine's generation id, in memory of its own
//! 0xFEFF_C000                  KVM's identity map page and TSS (4 pages)
//! .. 0x1_0000_0000             flash: variables and code of EFI, or the BIOS
//! 0x1_0000_0000 ..             the rest of RAM
//! 1 GiB aligned above RAM      64-bit PCI window, to the end of what the CPU addresses
//! ```
//!
//! Low RAM ends where it does because stock firmware puts the ECAM of a Q35 at a place of its own (SeaBIOS and older OVMF at
//! 0xB000_0000, newer OVMF at 0xE000_0000) and takes everything from 2 GiB up for PCI.

use std::ops::Range;

/// What the VMM itself puts below 1 MiB for a direct boot. Reused by the kernel once it has read it.
pub mod low {
    /// Descriptor table of the boot vCPU's first segments.
    pub const GDT: u64 = 0x500;
    /// `hvm_start_info` (Xen's PVH boot ABI), its module list and its memory map.
    pub const PVH_START_INFO: u64 = 0x6000;
    /// Linux's zero page, `boot_params`.
    pub const ZERO_PAGE: u64 = 0x7000;
    /// Page tables: one PML4, one PDPT, then four page directories that map the first 4 GiB one to one.
    pub const PAGE_TABLES: u64 = 0x9000;
    /// The kernel's command line, NUL-terminated.
    pub const CMDLINE: u64 = 0x2_0000;
    /// Bytes kept for the command line and its NUL.
    pub const CMDLINE_SIZE: u64 = 0x1_0000;
    /// End of the RAM below the video hole.
    pub const END: u64 = 0x9_FC00;
    /// ACPI tables, the RSDP first: in the BIOS area, where a search finds it too.
    pub const ACPI: u64 = 0xE_0000;
    /// The SMBIOS entry point: at the start of the area where kernels search for it (DSP0134 §5.2).
    pub const SMBIOS: u64 = 0xF_0000;
    /// Distance from there to the SMBIOS structures.
    pub const SMBIOS_TABLES: u64 = 0x20;
    /// Where RAM goes on above the BIOS area.
    pub const HIGH: u64 = 0x10_0000;
}

/// End of low RAM and start of the hole below 4 GiB.
pub const LOW_RAM_END: u64 = 0x8000_0000;
/// Start of the 32-bit PCI window: anywhere in it a BAR may be moved to.
pub const PCI_MMIO32_START: u64 = LOW_RAM_END;
/// Size of the 32-bit PCI window.
pub const PCI_MMIO32_SIZE: u64 = IOAPIC_START - PCI_MMIO32_START;
/// Where BARs are placed before anything runs.
pub const PCI_FIRST_BAR: u64 = 0xC000_0000;
/// Base of the enhanced configuration space (PCI Express 5.0 §7.2.2) without firmware.
pub const ECAM_START: u64 = 0xE000_0000;
/// What is decoded, bus 0 only: 32 devices × 8 functions × 4 KiB.
pub const ECAM_SIZE: u64 = 0x10_0000;
/// What is kept free of BARs: 256 buses, which is what firmware sets aside.
pub const ECAM_RESERVED: u64 = 0x1000_0000;
/// The page of the machine's generation id. Not part of RAM, so that any firmware leaves it where the DSDT says it is.
pub const GENERATION_ID: u64 = 0xFEFF_B000;
/// Its size.
pub const GENERATION_ID_SIZE: u64 = 0x1000;
/// I/O APIC registers, emulated by KVM.
pub const IOAPIC_START: u64 = 0xFEC0_0000;
/// Local APIC registers, emulated by KVM.
pub const LAPIC_START: u64 = 0xFEE0_0000;
/// One page that KVM wants on Intel hosts for real mode.
pub const KVM_IDENTITY_MAP: u64 = 0xFEFF_C000;
/// Three pages that KVM wants on Intel hosts for real mode.
pub const KVM_TSS: u64 = KVM_IDENTITY_MAP + 0x1000;
/// Bytes of both.
pub const KVM_PAGES_SIZE: u64 = 0x4000;
/// End of the flash, where a CPU starts after a reset (16 bytes below).
pub const FLASH_END: u64 = 0x1_0000_0000;
/// Where RAM goes on above the hole.
pub const HIGH_RAM_START: u64 = 0x1_0000_0000;
/// The least size of the 64-bit PCI window.
pub const PCI_MMIO64_MIN_SIZE: u64 = 16 << 30;
/// Address bits that PCI is given at most: what stock firmware uses, because some kernels can't do more.
const PCI_ADDRESS_BITS: u8 = 46;

/// I/O ports of the platform.
pub mod port {
    /// First serial port (16550), GSI 4.
    pub const SERIAL: u16 = 0x3F8;
    /// CMOS index and data: clock and memory.
    pub const RTC: u16 = 0x70;
    /// Keyboard controller; only its reset line is used by Linux.
    pub const I8042: u16 = 0x60;
    /// pvpanic, one byte (QEMU's `docs/specs/pvpanic`).
    pub const PVPANIC: u16 = 0x505;
    /// ACPI PM1a event block (4 bytes) and control block (2 bytes), PM timer at +8 (ACPI 6.5 §4.8).
    pub const ACPI_PM: u16 = 0x600;
    /// Reset control register (0xCF9), named in the FADT.
    pub const RESET: u16 = 0xCF9;
    /// `SMI_EN` of the ICH9's power management block, which begins at [`ACPI_PM`] (Intel ICH9 datasheet §13.8.3.7).
    pub const SMI_ENABLE: u16 = ACPI_PM + 0x30;
    /// fw_cfg: selector and data, DMA address at +4 (QEMU's `docs/specs/fw_cfg`).
    pub const FW_CFG: u16 = 0x510;
    /// What firmware writes its messages to.
    pub const DEBUG: u16 = 0x402;
    /// PCI configuration mechanism #1 (PCI 3.0 §3.2.2.3.2): address at 0xCF8, data at 0xCFC.
    pub const PCI_CONFIG: u16 = 0xCF8;
}

/// Interrupt lines (GSI = I/O APIC pin).
pub mod gsi {
    /// First serial port, edge triggered.
    pub const SERIAL: u32 = 4;
    /// The clock, edge triggered.
    pub const RTC: u32 = 8;
    /// ACPI system control interrupt, level triggered.
    pub const SCI: u32 = 9;
    /// First GSI that is only an MSI route; the I/O APIC has pins 0..24.
    pub const FIRST_MSI: u32 = 24;
}

/// KVM's memory slots: RAM takes those from 0 on.
pub mod slot {
    /// The page of the generation id.
    pub const GENERATION_ID: u32 = 8;
    /// BIOS, or the code of EFI.
    pub const FIRMWARE: u32 = 9;
    /// The variables of EFI.
    pub const VARIABLES: u32 = 10;
}

/// One range of the map that the guest is told (e820's type numbers, ACPI 6.5 §15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapEntry {
    /// First GPA.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub kind: MapKind,
}

/// What a range of the map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// Free for the guest.
    Ram = 1,
    /// Not RAM to the guest.
    Reserved = 2,
}

/// The map that the guest is told for RAM of `size` bytes.
pub fn guest_map(size: u64) -> Vec<MapEntry> {
    let entry = |start: u64, end: u64, kind| MapEntry { start, size: end - start, kind };
    let mut map = vec![
        entry(0, low::END, MapKind::Ram),
        entry(low::END, low::HIGH, MapKind::Reserved),
        entry(low::HIGH, size.clamp(low::HIGH, LOW_RAM_END), MapKind::Ram),
        // Linux uses the ECAM only where firmware has reserved it.
        entry(ECAM_START, ECAM_START + ECAM_SIZE, MapKind::Reserved),
        entry(GENERATION_ID, GENERATION_ID + GENERATION_ID_SIZE, MapKind::Reserved),
    ];
    if size > LOW_RAM_END {
        map.push(entry(HIGH_RAM_START, HIGH_RAM_START + size - LOW_RAM_END, MapKind::Ram));
    }
    map
}

/// Splits RAM of `size` bytes into `(GPA, bytes)` around the hole below 4 GiB.
pub fn ram_regions(size: u64) -> Vec<(u64, u64)> {
    if size <= LOW_RAM_END { vec![(0, size)] } else { vec![(0, LOW_RAM_END), (HIGH_RAM_START, size - LOW_RAM_END)] }
}

/// The 64-bit PCI window for RAM of `size` bytes and a CPU with `address_bits` physical address bits: from the first GiB
/// boundary above RAM and 4 GiB on, up to the last address, since firmware puts BARs there.
pub fn pci_mmio64(size: u64, address_bits: u8) -> Range<u64> {
    let start = (HIGH_RAM_START + size.saturating_sub(LOW_RAM_END)).next_multiple_of(1 << 30);
    let end = 1 << address_bits.min(PCI_ADDRESS_BITS);
    start..end.max(start + PCI_MMIO64_MIN_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_flows_around_the_hole() {
        assert_eq!(ram_regions(1 << 30), [(0, 1 << 30)]);
        assert_eq!(ram_regions(4 << 30), [(0, 2 << 30), (4 << 30, 2 << 30)]);
        assert_eq!(pci_mmio64(1 << 30, 48), 4 << 30..1 << 46);
        assert_eq!(pci_mmio64((4 << 30) + 4096, 40), 7 << 30..1 << 40);
        assert_eq!(pci_mmio64(1 << 30, 32), 4 << 30..20 << 30, "a CPU that says nothing of use");
    }
}
