//! The structures (DSP0134 §7), one after the other, with handles as QEMU gives them: the type above, a number below.

use super::Facts;
use crate::config::{ChassisIdentity, IdentityConfig, SystemIdentity, Topology};
use crate::memory::layout::ram_regions;

/// Structure types.
mod kind {
    pub const FIRMWARE: u8 = 0;
    pub const SYSTEM: u8 = 1;
    pub const CHASSIS: u8 = 3;
    pub const PROCESSOR: u8 = 4;
    pub const MEMORY_ARRAY: u8 = 16;
    pub const MEMORY_DEVICE: u8 = 17;
    pub const MAPPED_ADDRESS: u8 = 19;
    pub const BOOT_STATUS: u8 = 32;
    pub const END: u8 = 127;
}

const VENDOR: &str = "Vireo";
/// The firmware is older than the machine, whenever that is.
const RELEASE_DATE: &str = "01/01/2026";
/// In a 16-bit size or address: look at the wider field. In a handle: none.
const EXTENDED32: u32 = u32::MAX;
const NO_HANDLE: u16 = 0xFFFE;
const MIB: u64 = 1 << 20;

/// All structures so far.
#[derive(Debug, Default)]
pub(super) struct Structures(Vec<u8>);

/// One structure being made: its formatted area and its strings, which the area names by number.
struct Structure {
    area: Vec<u8>,
    strings: Vec<u8>,
    count: u8,
}

impl Structure {
    fn new(kind: u8, number: u8) -> Self {
        // The length follows once it is known.
        Self { area: vec![kind, 0, number, kind], strings: Vec::new(), count: 0 }
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.area.extend(bytes);
        self
    }

    fn byte(self, byte: u8) -> Self {
        self.bytes(&[byte])
    }

    fn word(self, word: u16) -> Self {
        self.bytes(&word.to_le_bytes())
    }

    fn dword(self, dword: u32) -> Self {
        self.bytes(&dword.to_le_bytes())
    }

    fn qword(self, qword: u64) -> Self {
        self.bytes(&qword.to_le_bytes())
    }

    /// A string's number; 0 stands for none (§6.1.3).
    fn text(mut self, text: Option<&str>) -> Self {
        let number = match text {
            Some(text) => {
                self.strings.extend(text.as_bytes());
                self.strings.push(0);
                self.count += 1;
                self.count
            }
            None => 0,
        };
        self.byte(number)
    }
}

impl Structures {
    /// Those of a machine.
    pub(super) fn of(facts: Facts<'_>) -> Vec<u8> {
        let IdentityConfig { uuid, system, chassis } = facts.identity;
        let mut all = Self::default();
        all.push(firmware(facts.uefi));
        all.push(self::system(uuid, system));
        all.push(self::chassis(chassis, system));
        let per_socket = facts.topology.per_socket();
        for socket in 0..u32::from(facts.topology.vcpus()) / per_socket {
            all.push(processor(socket, facts.topology));
        }
        all.push(memory_array(facts.memory));
        all.push(memory_device(facts.memory));
        for (number, (start, size)) in (0..).zip(ram_regions(facts.memory)) {
            all.push(mapped_address(number, start, size));
        }
        // No error was detected at boot.
        all.push(Structure::new(kind::BOOT_STATUS, 0).bytes(&[0; 6]).byte(0));
        all.push(Structure::new(kind::END, 0));
        all.0
    }

    fn push(&mut self, structure: Structure) {
        let Structure { mut area, mut strings, .. } = structure;
        area[1] = u8::try_from(area.len()).unwrap_or(u8::MAX);
        self.0.append(&mut area);
        // The set of strings ends with an empty one; without any it's two NULs.
        if strings.is_empty() {
            strings.push(0);
        }
        self.0.append(&mut strings);
        self.0.push(0);
    }
}

/// §7.1. SeaBIOS and OVMF put their own in its place.
fn firmware(uefi: bool) -> Structure {
    /// Characteristics aren't told.
    const UNKNOWN: u64 = 1 << 3;
    /// The second extension byte: UEFI; a virtual machine.
    const UEFI: u8 = 1 << 3;
    const VIRTUAL: u8 = 1 << 4;
    Structure::new(kind::FIRMWARE, 0)
        .text(Some(VENDOR))
        .text(Some(env!("CARGO_PKG_VERSION")))
        .word(0xE800)
        .text(Some(RELEASE_DATE))
        .byte(0)
        .qword(UNKNOWN)
        .bytes(&[0, VIRTUAL | if uefi { UEFI } else { 0 }])
        // No releases of firmware and embedded controller.
        .bytes(&[0xFF; 4])
}

/// §7.2.
fn system(uuid: &[u8; 16], system: &SystemIdentity) -> Structure {
    /// Powered on by its switch.
    const POWER_SWITCH: u8 = 6;
    Structure::new(kind::SYSTEM, 0)
        .text(system.manufacturer.as_deref())
        .text(system.product.as_deref())
        .text(system.version.as_deref())
        .text(system.serial.as_deref())
        .bytes(&wire_order(*uuid))
        .byte(POWER_SWITCH)
        .text(system.sku.as_deref())
        .text(system.family.as_deref())
}

/// The first three fields are little-endian (§7.2.1).
fn wire_order(mut uuid: [u8; 16]) -> [u8; 16] {
    uuid[..4].reverse();
    uuid[4..6].reverse();
    uuid[6..8].reverse();
    uuid
}

/// §7.4.
fn chassis(chassis: &ChassisIdentity, system: &SystemIdentity) -> Structure {
    const OTHER: u8 = 1;
    const SAFE: u8 = 3;
    const UNKNOWN: u8 = 2;
    Structure::new(kind::CHASSIS, 0)
        // Made by who made the system, where nobody says else.
        .text(chassis.manufacturer.as_deref().or(system.manufacturer.as_deref()))
        .byte(OTHER)
        .text(chassis.version.as_deref())
        .text(chassis.serial.as_deref())
        .text(chassis.asset.as_deref())
        // Boot-up state, power supply, thermal state; security.
        .bytes(&[SAFE, SAFE, SAFE, UNKNOWN])
        // OEM-defined, height, power cords, contained elements and the size of their records.
        .dword(0)
        .bytes(&[0; 4])
        .text(chassis.sku.as_deref())
}

/// §7.5: one socket.
fn processor(socket: u32, topology: Topology) -> Structure {
    const CENTRAL: u8 = 3;
    const OTHER: u8 = 1;
    const UPGRADE_OTHER: u8 = 1;
    /// A populated socket, an enabled processor.
    const ENABLED: u8 = 1 << 6 | 1;
    /// 64-bit.
    const CHARACTERISTICS: u16 = 1 << 2;
    // A layout has at most 254 of each.
    let narrow = |count: u32| u8::try_from(count).unwrap_or(u8::MAX);
    let wide = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
    let (cores, threads) = (topology.cores_per_socket(), topology.per_socket());
    Structure::new(kind::PROCESSOR, narrow(socket))
        .text(Some(&format!("CPU {socket}")))
        .bytes(&[CENTRAL, OTHER])
        .text(Some(VENDOR))
        // Its CPUID signature tells more than a table that was made before the vCPUs could.
        .qword(0)
        .text(None)
        // Voltage; external clock, maximum and current speed: unknown.
        .byte(0)
        .word(0)
        .word(0)
        .word(0)
        .bytes(&[ENABLED, UPGRADE_OTHER])
        // No caches.
        .word(u16::MAX)
        .word(u16::MAX)
        .word(u16::MAX)
        .text(None)
        .text(None)
        .text(None)
        // Cores, enabled cores, threads.
        .bytes(&[narrow(cores), narrow(cores), narrow(threads)])
        .word(CHARACTERISTICS)
        // Family, wide.
        .word(OTHER.into())
        .word(wide(cores))
        .word(wide(cores))
        .word(wide(threads))
}

/// §7.17: RAM of the system, without error correction.
fn memory_array(memory: u64) -> Structure {
    const OTHER: u8 = 1;
    const SYSTEM_MEMORY: u8 = 3;
    const NO_CORRECTION: u8 = 3;
    const IN_THE_WIDE_FIELD: u32 = 0x8000_0000;
    Structure::new(kind::MEMORY_ARRAY, 0)
        .bytes(&[OTHER, SYSTEM_MEMORY, NO_CORRECTION])
        .dword(IN_THE_WIDE_FIELD)
        .word(NO_HANDLE)
        .word(1)
        .qword(memory)
}

/// §7.18: one module with all of it.
fn memory_device(memory: u64) -> Structure {
    const DIMM: u8 = 9;
    const RAM: u8 = 7;
    const TECHNOLOGY_OTHER: u16 = 1 << 1;
    const IN_THE_WIDE_FIELD: u16 = 0x7FFF;
    let mib = memory / MIB;
    let (size, wide) = match u16::try_from(mib).ok().filter(|mib| *mib < IN_THE_WIDE_FIELD) {
        Some(size) => (size, 0),
        None => (IN_THE_WIDE_FIELD, u32::try_from(mib).unwrap_or(u32::MAX)),
    };
    Structure::new(kind::MEMORY_DEVICE, 0)
        .bytes(&[0, kind::MEMORY_ARRAY])
        .word(NO_HANDLE)
        // Widths: unknown.
        .word(u16::MAX)
        .word(u16::MAX)
        .word(size)
        .bytes(&[DIMM, 0])
        .text(Some("DIMM 0"))
        .text(None)
        .byte(RAM)
        .word(TECHNOLOGY_OTHER)
        // Speed: unknown.
        .word(0)
        .text(Some(VENDOR))
        .text(None)
        .text(None)
        .text(None)
        .byte(0)
        .dword(wide)
        // Configured speed and voltages: unknown.
        .bytes(&[0; 8])
}

/// §7.20.
fn mapped_address(number: u8, start: u64, size: u64) -> Structure {
    Structure::new(kind::MAPPED_ADDRESS, number)
        .dword(EXTENDED32)
        .dword(EXTENDED32)
        .bytes(&[0, kind::MEMORY_ARRAY])
        // Modules side by side.
        .byte(1)
        .qword(start)
        .qword(start + size - 1)
}
