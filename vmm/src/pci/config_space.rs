//! The 256 bytes of a function's configuration header and capabilities (PCI 3.0 §6.1), with a mask of what the guest may
//! change. Reading and writing bytes is all it does; its owner looks at the result.

use std::ops::Range;

/// Bytes of a conventional configuration space.
const SIZE: usize = 256;
/// Registers of the type 0 header (PCI 3.0 figure 6-1).
mod register {
    pub const VENDOR: usize = 0x00;
    pub const DEVICE: usize = 0x02;
    pub const COMMAND: usize = 0x04;
    pub const STATUS: usize = 0x06;
    pub const REVISION: usize = 0x08;
    pub const CLASS: usize = 0x09;
    pub const BAR0: usize = 0x10;
    pub const SUBSYSTEM_VENDOR: usize = 0x2C;
    pub const SUBSYSTEM: usize = 0x2E;
    pub const CAPABILITIES: usize = 0x34;
    pub const INTERRUPT_LINE: usize = 0x3C;
}
/// Where the first capability goes: right after the header.
const FIRST_CAPABILITY: u8 = 0x40;
/// Command register: memory space, bus master, interrupt disable. The rest reads as zero.
const COMMAND_WRITABLE: u16 = COMMAND_MEMORY | 1 << 2 | 1 << 10;
const COMMAND_MEMORY: u16 = 1 << 1;
/// Status register: there is a capability list.
const STATUS_CAPABILITIES: u16 = 1 << 4;
/// A memory BAR that is 64 bits wide and not prefetchable (PCI 3.0 §6.2.5.1).
const BAR_MEMORY64: u64 = 0b100;

/// Who a function says it is.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision id.
    pub revision: u8,
    /// Class code: base class, sub-class, programming interface, from the top.
    pub class: u32,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
}

/// The configuration space of one function.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    /// Where the pointer to the next capability goes.
    link: usize,
    next_capability: u8,
}

impl ConfigSpace {
    /// A type 0 header with no BARs and no capabilities.
    pub fn new(id: Identity) -> Self {
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            link: register::CAPABILITIES,
            next_capability: FIRST_CAPABILITY,
        };
        space.put(register::VENDOR, &id.vendor.to_le_bytes());
        space.put(register::DEVICE, &id.device.to_le_bytes());
        space.put(register::REVISION, &[id.revision]);
        space.put(register::CLASS, &id.class.to_le_bytes()[..3]);
        space.put(register::SUBSYSTEM_VENDOR, &id.subsystem_vendor.to_le_bytes());
        space.put(register::SUBSYSTEM, &id.subsystem.to_le_bytes());
        space.allow(register::COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        // A scratch register for firmware; no line is ever wired.
        space.allow(register::INTERRUPT_LINE, &[0xFF]);
        space
    }

    /// Gives a register of the device's own, at `offset`, a value and a mask of what the guest may change.
    pub fn set_register(&mut self, offset: u8, value: &[u8], writable: &[u8]) {
        self.put(offset.into(), value);
        self.allow(offset.into(), writable);
    }

    /// Makes BARs `index` and `index + 1` one 64-bit memory BAR of `size` bytes (a power of two) at `address`.
    pub fn add_memory_bar(&mut self, index: u8, size: u64, address: u64) {
        let at = bar_offset(index);
        self.put(at, &(address | BAR_MEMORY64).to_le_bytes());
        self.allow(at, &(!(size - 1)).to_le_bytes());
    }

    /// Appends a capability and returns where it starts. `body` follows the id and the link; `writable` is its mask and
    /// may be shorter.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> u8 {
        let start = self.next_capability;
        let at = usize::from(start);
        self.put(self.link, &[start]);
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.allow(at + 2, writable);
        self.put(register::STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        self.link = at + 1;
        self.next_capability = u8::try_from((at + 2 + body.len()).next_multiple_of(4)).unwrap_or(0xFC);
        start
    }

    /// Fills `data` from `offset`; bytes past the end read as zero.
    pub fn read(&self, offset: u8, data: &mut [u8]) {
        data.fill(0);
        let bytes = &self.bytes[usize::from(offset)..];
        for (to, from) in data.iter_mut().zip(bytes) {
            *to = *from;
        }
    }

    /// Changes what the guest may change.
    pub fn write(&mut self, offset: u8, data: &[u8]) {
        let at = usize::from(offset);
        for ((byte, mask), new) in self.bytes[at..].iter_mut().zip(&self.writable[at..]).zip(data) {
            *byte = *byte & !mask | new & mask;
        }
    }

    /// Where the guest has put a 64-bit BAR, if it has memory decoding on.
    pub fn decoded_bar(&self, index: u8) -> Option<u64> {
        let command = self.u16(register::COMMAND);
        (command & COMMAND_MEMORY != 0).then(|| self.u64(bar_offset(index)) & !0xF)
    }

    /// The 16-bit register at `offset`.
    ///
    /// # Panics
    /// When `offset` is not a constant inside the space.
    pub fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.bytes[offset], self.bytes[offset + 1]])
    }

    /// The 64-bit register at `offset`.
    ///
    /// # Panics
    /// When `offset` is not a constant inside the space.
    pub fn u64(&self, offset: usize) -> u64 {
        let mut value = [0; 8];
        value.copy_from_slice(&self.bytes[offset..offset + 8]);
        u64::from_le_bytes(value)
    }

    fn put(&mut self, offset: usize, value: &[u8]) {
        self.bytes[offset..offset + value.len()].copy_from_slice(value);
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }
}

fn bar_offset(index: u8) -> usize {
    register::BAR0 + 4 * usize::from(index)
}

/// Whether an access of `len` bytes at `offset` touches `range`.
pub fn touches(offset: u8, len: usize, range: &Range<usize>) -> bool {
    let start = usize::from(offset);
    start < range.end && start + len > range.start
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(Identity {
            vendor: 0x1AF4,
            device: 0x1042,
            revision: 1,
            class: 0x01_80_00,
            subsystem_vendor: 0x1AF4,
            subsystem: 0x1100,
        });
        space.add_memory_bar(0, 0x8000, 0xC000_0000);
        space
    }

    fn dword(space: &ConfigSpace, offset: u8) -> u32 {
        let mut data = [0; 4];
        space.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn says_who_it_is() {
        let space = space();
        assert_eq!(dword(&space, 0), 0x1042_1AF4);
        assert_eq!(dword(&space, 8), 0x0180_0001);
        assert_eq!(dword(&space, 0x2C), 0x1100_1AF4);
    }

    #[test]
    fn a_bar_tells_its_size_and_moves() {
        let mut space = space();
        space.write(0x10, &[0xFF; 4]);
        space.write(0x14, &[0xFF; 4]);
        assert_eq!(dword(&space, 0x10), 0xFFFF_8004);
        assert_eq!(dword(&space, 0x14), 0xFFFF_FFFF);
        space.write(0x10, &0xC123_4567_u32.to_le_bytes());
        space.write(0x14, &1_u32.to_le_bytes());
        assert_eq!(space.decoded_bar(0), None, "decoding is off");
        space.write(4, &2_u16.to_le_bytes());
        assert_eq!(space.decoded_bar(0), Some(0x1_C123_0000));
    }

    #[test]
    fn capabilities_form_a_list() {
        let mut space = space();
        let first = space.add_capability(0x11, &[1, 2, 3], &[0xFF]);
        let second = space.add_capability(0x09, &[4], &[]);
        assert_eq!((dword(&space, 0x34) & 0xFF, first, second), (0x40, 0x40, 0x48));
        assert_eq!(dword(&space, first), 0x0201_4811);
        assert_eq!(dword(&space, second), 0x0004_0009);
        space.write(first, &[0xAA; 8]);
        assert_eq!(dword(&space, first), 0x02AA_4811, "only the first byte of the body is writable");
    }

    proptest! {
        #[test]
        fn writes_change_only_what_the_mask_allows(writes in prop::collection::vec((any::<u8>(), any::<[u8; 4]>()), 0..64)) {
            let mut space = space();
            for (offset, data) in writes {
                space.write(offset, &data);
            }
            prop_assert_eq!(dword(&space, 0), 0x1042_1AF4);
            prop_assert_eq!(dword(&space, 0x10) & 0x7FFF, 4);
            prop_assert_eq!(dword(&space, 4) & 0xFFFF & !u32::from(COMMAND_WRITABLE), 0);
        }
    }
}
