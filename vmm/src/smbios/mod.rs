//! The SMBIOS tables (DMTF DSP0134 3.6) of a machine: what `dmidecode` and cloud agents read of it.
//!
//! A direct boot finds them in the BIOS area ([`write`]); firmware is given the same bytes to place ([`build`]).

mod structures;
#[cfg(test)]
mod tests;

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::config::{IdentityConfig, Topology};
use crate::memory::GuestRam;
use crate::memory::layout::low;
use structures::Structures;

/// Bytes of the 64-bit entry point (§5.2.2).
pub const ANCHOR: usize = 24;
/// The version of the specification that the tables follow.
const MAJOR: u8 = 3;
const MINOR: u8 = 0;

/// What the tables tell.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What the machine calls itself.
    pub identity: &'a IdentityConfig,
    /// The vCPUs' layout.
    pub topology: Topology,
    /// RAM, bytes.
    pub memory: u64,
    /// Whether UEFI firmware runs first.
    pub uefi: bool,
}

/// The entry point and the structures that it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// The entry point, `_SM3_`, which names the place that the tables were built for.
    pub anchor: [u8; ANCHOR],
    /// All structures, the end-of-table one last.
    pub tables: Vec<u8>,
}

/// The tables of a machine, to lie at the GPA `at`; firmware that moves them corrects the anchor itself.
pub fn build(facts: Facts<'_>, at: u64) -> Tables {
    let tables = Structures::of(facts);
    let mut anchor = [0; ANCHOR];
    anchor[..5].copy_from_slice(b"_SM3_");
    // Length; version and revision of the specification's document; revision of the entry point.
    anchor[6..11].copy_from_slice(&[24, MAJOR, MINOR, 0, 1]);
    anchor[12..16].copy_from_slice(&u32::try_from(tables.len()).unwrap_or(u32::MAX).to_le_bytes());
    anchor[16..].copy_from_slice(&at.to_le_bytes());
    anchor[5] = anchor.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte));
    Tables { anchor, tables }
}

/// Writes the tables of a machine where a kernel without firmware looks for them.
pub fn write(ram: &GuestRam, facts: Facts<'_>) -> Result<(), GuestMemoryError> {
    let Tables { anchor, tables } = build(facts, low::SMBIOS + low::SMBIOS_TABLES);
    ram.write_slice(&anchor, GuestAddress(low::SMBIOS))?;
    ram.write_slice(&tables, GuestAddress(low::SMBIOS + low::SMBIOS_TABLES))
}
