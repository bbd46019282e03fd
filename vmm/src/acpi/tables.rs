//! Tables one after the other, with pointers between them that hold only once it is known where they lie.

use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;

use super::{OEM, OEM_REVISION, OEM_TABLE};

/// Where the checksum is in every table but the FACS, and in the RSDP.
pub(super) const CHECKSUM: usize = 9;
/// The RSDP's pointer to the XSDT, and its two checksums with the bytes that each is of (ACPI 6.5 §5.2.5.3).
pub(super) const RSDP_XSDT: usize = 24;
pub(super) const RSDP_SUMS: [(usize, usize); 2] = [(8, 20), (32, 36)];

/// All tables but the RSDP.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// Pointers hold the offset of what they point to, checksums of tables with pointers are wrong.
    pub(super) bytes: Vec<u8>,
    pub(super) pointers: Vec<Pointer>,
    xsdt: usize,
}

/// A pointer in a table to another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pointer {
    /// Its offset.
    pub(super) at: usize,
    /// Bytes: 4 or 8.
    pub(super) size: u8,
}

impl Tables {
    /// Appends a table, aligned as the FACS needs it; returns its offset.
    pub(super) fn add(&mut self, table: &dyn Aml) -> usize {
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let at = self.bytes.len();
        table.to_aml_bytes(&mut self.bytes);
        at
    }

    /// Lets the `size` bytes at `at` point to `target`.
    pub(super) fn point(&mut self, at: usize, size: u8, target: usize) {
        let len = usize::from(size);
        self.bytes[at..at + len].copy_from_slice(&target.to_le_bytes()[..len]);
        self.pointers.push(Pointer { at, size });
    }

    /// Appends the XSDT.
    pub(super) fn add_root(&mut self, tables: &[usize]) {
        let mut root = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
        for _ in tables {
            root.add_entry(0);
        }
        self.xsdt = self.add(&root);
        for (at, table) in (self.xsdt + 36..).step_by(8).zip(tables) {
            self.point(at, 8, *table);
        }
    }

    /// Offset and length of the tables that hold pointers.
    pub(super) fn linked(&self) -> Vec<(usize, usize)> {
        let mut linked = Vec::new();
        let mut at = 0;
        while let Some(length) = self.bytes.get(at + 4..at + 8) {
            let length = length.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte));
            if self.pointers.iter().any(|p| (at..at + length).contains(&p.at)) {
                linked.push((at, length));
            }
            at = (at + length).next_multiple_of(64);
        }
        linked
    }

    /// The bytes as they have to lie at `base`.
    pub(super) fn at(&self, base: u64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for pointer in &self.pointers {
            let place = &mut bytes[pointer.at..pointer.at + usize::from(pointer.size)];
            let target = base + offset(place);
            place.copy_from_slice(&target.to_le_bytes()[..place.len()]);
        }
        for (at, length) in self.linked() {
            set_checksum(&mut bytes[at..at + length], CHECKSUM);
        }
        bytes
    }

    /// The RSDP for tables that lie at `base`.
    pub(super) fn rsdp_at(&self, base: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        Rsdp::new(OEM, base + self.xsdt as u64).to_aml_bytes(&mut bytes);
        bytes
    }
}

fn offset(place: &[u8]) -> u64 {
    place.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn set_checksum(table: &mut [u8], at: usize) {
    table[at] = 0;
    table[at] = table.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
}
