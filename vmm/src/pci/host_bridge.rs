//! The host bridge in slot 0: what firmware and kernels look for to see that there is a PCI bus at all, and who says where the
//! enhanced configuration space (ECAM) lies.
//!
//! Without firmware it is a bridge that owns nothing but its header. Stock firmware knows QEMU's machines by their bridge, so
//! that with firmware it is a Q35's memory controller hub ([`HostBridge::q35`]), as far as firmware uses it: PCIEXBAR works, the
//! PAM registers only remember (all RAM below 1 MiB can always be written), and there is no SMRAM.

use std::sync::{Mutex, PoisonError};

use super::PciFunction;
use super::config_space::{ConfigSpace, Identity};
use crate::memory::layout::{ECAM_RESERVED, ECAM_START, IOAPIC_START, LOW_RAM_END};

/// Registers of the 82Q35 (Intel 3 Series Express Chipset datasheet §5.1).
mod register {
    pub const PCIEXBAR: u8 = 0x60;
    pub const PAM0: u8 = 0x90;
}
/// PCIEXBAR: decoding is on.
const PCIEXBAR_ENABLE: u64 = 1;
/// What can be written of PCIEXBAR: enable, size (kept, but always 256 MiB to us), and bits 28 to 35 of the base.
const PCIEXBAR_WRITABLE: u64 = 0xF_F000_0007;
const PCIEXBAR_BASE: u64 = 0xF_F000_0000;

/// The bridge.
#[derive(Debug)]
pub struct HostBridge {
    config: Mutex<ConfigSpace>,
    /// Whether PCIEXBAR says where the ECAM is; else it is at [`ECAM_START`].
    is_q35: bool,
}

impl HostBridge {
    /// The generic PCI Express host bridge that Red Hat has given an id to.
    pub fn generic() -> Self {
        Self { config: Mutex::new(ConfigSpace::new(identity(0x1B36, 0x0008))), is_q35: false }
    }

    /// The hub of a Q35, with the subsystem id by which firmware knows QEMU.
    pub fn q35() -> Self {
        let mut config = ConfigSpace::new(identity(0x8086, 0x29C0));
        config.set_register(register::PCIEXBAR, &[0; 8], &PCIEXBAR_WRITABLE.to_le_bytes());
        config.set_register(register::PAM0, &[0; 7], &[0xFF; 7]);
        Self { config: Mutex::new(config), is_q35: true }
    }

    /// Where the ECAM is to be decoded.
    pub fn ecam(&self) -> Option<u64> {
        if !self.is_q35 {
            return Some(ECAM_START);
        }
        let register = self.config.lock().unwrap_or_else(PoisonError::into_inner).u64(register::PCIEXBAR.into());
        let base = register & PCIEXBAR_BASE;
        let fits = (LOW_RAM_END..=IOAPIC_START - ECAM_RESERVED).contains(&base);
        (register & PCIEXBAR_ENABLE != 0 && fits).then_some(base)
    }
}

fn identity(vendor: u16, device: u16) -> Identity {
    Identity { vendor, device, revision: 0, class: 0x06_00_00, subsystem_vendor: 0x1AF4, subsystem: 0x1100 }
}

impl PciFunction for HostBridge {
    fn read_config(&self, offset: u8, data: &mut [u8]) {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
    }

    fn write_config(&self, offset: u8, data: &[u8]) {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pciexbar_says_where_the_ecam_is() {
        let bridge = HostBridge::q35();
        assert_eq!(bridge.ecam(), None);
        let set = |base: u64| {
            bridge.write_config(0x60, &0u32.to_le_bytes());
            bridge.write_config(0x64, &base.to_le_bytes()[4..]);
            bridge.write_config(0x60, &base.to_le_bytes()[..4]);
            bridge.ecam()
        };
        assert_eq!(set(0xB000_0001), Some(0xB000_0000), "SeaBIOS");
        assert_eq!(set(0xE000_0001), Some(0xE000_0000), "OVMF");
        for wrong in [0xB000_0000, 0x7000_0001, 0xF000_0001, 0x1_B000_0001, u64::MAX] {
            assert_eq!(set(wrong), None, "{wrong:#x}");
        }
        assert_eq!(HostBridge::generic().ecam(), Some(ECAM_START));
    }

    #[test]
    fn only_its_own_registers_can_be_written() {
        let bridge = HostBridge::q35();
        for offset in (0..=0xFCu8).step_by(4).filter(|offset| *offset != 0x60) {
            bridge.write_config(offset, &[0xFF; 4]);
        }
        let mut id = [0; 4];
        bridge.read_config(0, &mut id);
        assert_eq!(u32::from_le_bytes(id), 0x29C0_8086);
        let mut pam = [0; 4];
        bridge.read_config(0x90, &mut pam);
        assert_eq!(pam, [0xFF; 4]);
        assert_eq!(bridge.ecam(), None);
    }
}
