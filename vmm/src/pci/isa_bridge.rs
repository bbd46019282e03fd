//! The bridge to the board's old devices in slot 31: an ICH9's LPC interface bridge (8086:2918), which stock firmware looks at to
//! find the ACPI power management block and, as OVMF does, the serial port.
//!
//! Nothing behind it depends on it: the block's base is fixed, the interrupt routing registers only remember.

use std::sync::{Mutex, PoisonError};

use super::PciFunction;
use super::config_space::{ConfigSpace, Identity};
use crate::memory::layout::port;

/// Where a Q35 has it.
pub const SLOT: usize = 31;

/// Registers (Intel ICH9 datasheet §13.1).
mod register {
    pub const COMMAND: u8 = 0x04;
    pub const PMBASE: u8 = 0x40;
    pub const ACPI_CNTL: u8 = 0x44;
    pub const PIRQ_A_TO_D: u8 = 0x60;
    pub const PIRQ_E_TO_H: u8 = 0x68;
    pub const GEN_PMCON_1: u8 = 0xA0;
    pub const RCBA: u8 = 0xF0;
}
/// I/O space, memory space, bus master.
const COMMAND: u8 = 7;
/// PMBASE: an I/O address.
const PMBASE_IO: u16 = 1;
/// ACPI_CNTL: the block is decoded, the SCI is IRQ 9.
const ACPI_ENABLED: u8 = 1 << 7;

/// The bridge.
#[derive(Debug)]
pub struct IsaBridge(Mutex<ConfigSpace>);

impl Default for IsaBridge {
    fn default() -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x2918,
            revision: 2,
            class: 0x06_01_00,
            subsystem_vendor: 0x1AF4,
            subsystem: 0x1100,
        });
        config.set_register(register::COMMAND, &[COMMAND], &[COMMAND]);
        config.set_register(register::PMBASE, &(port::ACPI_PM | PMBASE_IO).to_le_bytes(), &[]);
        config.set_register(register::ACPI_CNTL, &[ACPI_ENABLED], &[]);
        for scratch in [register::PIRQ_A_TO_D, register::PIRQ_E_TO_H, register::GEN_PMCON_1, register::RCBA] {
            config.set_register(scratch, &[0; 4], &[0xFF; 4]);
        }
        Self(Mutex::new(config))
    }
}

impl PciFunction for IsaBridge {
    fn read_config(&self, offset: u8, data: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
    }

    fn write_config(&self, offset: u8, data: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_power_management_block_stays_where_it_is() {
        let bridge = IsaBridge::default();
        bridge.write_config(0x40, &0xB001u32.to_le_bytes());
        bridge.write_config(0x44, &[0]);
        let mut base = [0; 4];
        bridge.read_config(0x40, &mut base);
        let mut control = [0];
        bridge.read_config(0x44, &mut control);
        assert_eq!((u32::from_le_bytes(base), control), (0x601, [0x80]));
    }
}
