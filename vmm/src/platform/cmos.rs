//! What the 128 bytes of a PC's CMOS hold beside the clock: memory that firmware keeps its notes in, and what a machine says there
//! of itself to firmware that doesn't look at fw_cfg (SeaBIOS' `src/hw/rtc.h`, OVMF's `PlatformInitLib`).

use crate::memory::layout::{LOW_RAM_END, low};

/// Bytes.
pub const SIZE: usize = 128;

/// Where the machine's own facts are.
mod index {
    pub const BASE_KIB: usize = 0x15;
    /// KiB above 1 MiB, twice.
    pub const EXTENDED_KIB: [usize; 2] = [0x17, 0x30];
    /// Units of 64 KiB above 16 MiB.
    pub const ABOVE_16_MIB: usize = 0x34;
    /// Units of 64 KiB above 4 GiB, three bytes.
    pub const ABOVE_4_GIB: usize = 0x5B;
    /// Kinds of devices to boot from, a nibble each, the first one low.
    pub const BOOT_ORDER: usize = 0x3D;
    /// Processors, less one.
    pub const CPUS: usize = 0x5F;
}
/// Hard disk, then CD-ROM: for what no boot order names.
const DISK_THEN_CD: u8 = 0x32;

/// The memory of a machine with `vcpus` processors and `ram` bytes of RAM.
pub fn content(vcpus: u8, ram: u64) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    let mut put = |at: usize, value: u64, len: usize| {
        // What doesn't fit reads as the most there can be.
        let value = value.min((1 << (8 * len)) - 1);
        bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
    };
    let low_ram = ram.min(LOW_RAM_END);
    put(index::BASE_KIB, 640, 2);
    for at in index::EXTENDED_KIB {
        put(at, low_ram.saturating_sub(low::HIGH) >> 10, 2);
    }
    put(index::ABOVE_16_MIB, low_ram.saturating_sub(16 << 20) >> 16, 2);
    put(index::ABOVE_4_GIB, (ram - low_ram) >> 16, 3);
    put(index::BOOT_ORDER, DISK_THEN_CD.into(), 1);
    put(index::CPUS, u64::from(vcpus) - 1, 1);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_parts() {
        let small = content(1, 512 << 20);
        assert_eq!((small[0x15], small[0x16]), (0x80, 0x02));
        assert_eq!((small[0x30], small[0x31]), (0xFF, 0xFF), "more than 64 MiB");
        assert_eq!(u16::from_le_bytes([small[0x34], small[0x35]]), 496 * 16);
        assert_eq!((small[0x5B], small[0x5F]), (0, 0));
        let large = content(254, 5 << 30);
        assert_eq!(u16::from_le_bytes([large[0x34], large[0x35]]), (2048 - 16) * 16);
        assert_eq!(u32::from_le_bytes([large[0x5B], large[0x5C], large[0x5D], 0]), 3 * 1024 * 16);
        assert_eq!(large[0x5F], 253);
        assert_eq!(content(1, 2 << 20)[0x34], 0);
    }
}
