//! The two ways in which a PC resets itself: the reset control register and the keyboard controller's reset line.

use std::sync::Arc;

use crate::bus::BusDevice;
use crate::ending::{Ending, Outcome};

/// The reset control register at port 0xCF9: bit 2 resets the CPU.
#[derive(Debug)]
pub struct ResetControl {
    ending: Arc<Ending>,
}

impl ResetControl {
    /// Resets what `ending` ends.
    pub fn new(ending: Arc<Ending>) -> Self {
        Self { ending }
    }
}

impl BusDevice for ResetControl {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _: u64, data: &[u8]) {
        if data[0] & 1 << 2 != 0 {
            self.ending.end(Outcome::Reset);
        }
    }
}

/// The keyboard controller, of which only the reset line is left: no keyboard, no mouse, always ready for a command.
#[derive(Debug)]
pub struct I8042 {
    ending: Arc<Ending>,
}

impl I8042 {
    /// Bytes of its port range; the timer's port 0x61 within is KVM's.
    pub const PORTS: u64 = 5;
    const STATUS: u64 = 4;
    const PULSE_RESET: u8 = 0xFE;

    /// Resets what `ending` ends.
    pub fn new(ending: Arc<Ending>) -> Self {
        Self { ending }
    }
}

impl BusDevice for I8042 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if offset == 0 || offset == Self::STATUS {
            data.fill(0);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == Self::STATUS && data[0] == Self::PULSE_RESET {
            self.ending.end(Outcome::Reset);
        }
    }
}
