//! ACPI fixed hardware (ACPI 6.5 §4.8): PM1a event and control registers, the power button, S5 and the PM timer.
//!
//! ```text
//! +0  PM1 status (2, write 1 to clear)   +2  PM1 enable (2)   +4  PM1 control (2)   +8  PM timer (4, read-only)
//! ```
//! The SCI is up exactly while an enabled status bit is set.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::bus::BusDevice;
use crate::ending::{Ending, Outcome};
use crate::interrupts::LevelLine;

/// `SLP_TYP` that means S5; the DSDT's `_S5` names it.
pub const S5_SLEEP_TYPE: u8 = 5;

/// PWRBTN_STS and PWRBTN_EN.
const POWER_BUTTON: u16 = 1 << 8;
/// What can be enabled: timer, global lock, power button, RTC. Only the button ever comes, but drivers check that the others'
/// enable bits stick.
const EVENTS: u16 = 1 | 1 << 5 | POWER_BUTTON | 1 << 10;
/// SCI_EN: always in ACPI mode.
const SCI_ENABLED: u16 = 1;
const SLEEP_ENABLE: u16 = 1 << 13;
const SLEEP_TYPE_SHIFT: u16 = 10;
/// PM timer ticks a second (ACPI 6.5 §4.8.2.1).
const TIMER_HZ: u128 = 3_579_545;

/// The block at port 0x600.
#[derive(Debug)]
pub struct AcpiPm {
    registers: Mutex<Registers>,
    sci: LevelLine,
    ending: Arc<Ending>,
    start: Instant,
}

#[derive(Debug, Default)]
struct Registers {
    status: u16,
    enable: u16,
    control: u16,
}

impl AcpiPm {
    /// Bytes of its port range.
    pub const PORTS: u64 = 12;

    /// Raises `sci`, and powers off through `ending`.
    pub fn new(sci: LevelLine, ending: Arc<Ending>) -> Self {
        Self { registers: Mutex::default(), sci, ending, start: Instant::now() }
    }

    /// Presses the power button.
    pub fn power_button(&self) {
        let mut registers = self.registers.lock().unwrap_or_else(PoisonError::into_inner);
        registers.status |= POWER_BUTTON;
        self.update(&registers);
    }

    /// Called with the lock held, so that the line follows the registers in their order.
    fn update(&self, registers: &Registers) {
        self.sci.set(registers.status & registers.enable != 0);
    }

    fn timer(&self) -> u32 {
        let ticks = self.start.elapsed().as_nanos() * TIMER_HZ / 1_000_000_000;
        u32::try_from(ticks & u128::from(u32::MAX)).unwrap_or(0)
    }
}

impl BusDevice for AcpiPm {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut block = [0; 12];
        {
            let registers = self.registers.lock().unwrap_or_else(PoisonError::into_inner);
            block[0..2].copy_from_slice(&registers.status.to_le_bytes());
            block[2..4].copy_from_slice(&registers.enable.to_le_bytes());
            block[4..6].copy_from_slice(&(registers.control | SCI_ENABLED).to_le_bytes());
        }
        block[8..12].copy_from_slice(&self.timer().to_le_bytes());
        for (byte, at) in data.iter_mut().zip(usize::try_from(offset).unwrap_or(block.len())..) {
            *byte = block.get(at).copied().unwrap_or(0xFF);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut registers = self.registers.lock().unwrap_or_else(PoisonError::into_inner);
        for (byte, at) in data.iter().zip(offset..) {
            let shifted = u16::from(*byte) << (at % 2 * 8);
            let kept = 0xFFu16 << ((at + 1) % 2 * 8);
            match at / 2 {
                0 => registers.status &= !shifted,
                1 => registers.enable = (registers.enable & kept | shifted) & EVENTS,
                2 => registers.control = registers.control & kept | shifted,
                _ => {}
            }
        }
        self.update(&registers);
        let control = registers.control;
        // SLP_EN reads as zero.
        registers.control &= !SLEEP_ENABLE;
        drop(registers);
        if control & SLEEP_ENABLE != 0 && control >> SLEEP_TYPE_SHIFT & 7 == u16::from(S5_SLEEP_TYPE) {
            self.ending.end(Outcome::PowerOff);
        }
    }
}
