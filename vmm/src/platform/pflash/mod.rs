//! The flash that EFI keeps its variables in: content in a file, commands by writes.
//!
//! While the [`chip`] shows its content the guest reads it without an exit, through a read-only memory slot; writes always
//! exit. While it answers with its status the slot is away, so that reads exit too.

pub mod chip;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use crate::bus::BusDevice;
use crate::ending::{Ending, Outcome};
use crate::memory::rom::RomSlot;
use chip::{BLOCK, Chip, Effect};

/// See the module.
#[derive(Debug)]
pub struct Pflash {
    state: Mutex<State>,
    ending: Arc<Ending>,
}

#[derive(Debug)]
struct State {
    chip: Chip,
    content: RomSlot,
}

impl Pflash {
    /// A chip with `content`, which is shown.
    pub fn new(content: RomSlot, ending: Arc<Ending>) -> Self {
        Self { state: Mutex::new(State { chip: Chip::default(), content }), ending }
    }
}

impl BusDevice for Pflash {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.chip.shows_array() {
            // Another vCPU has brought the slot back since.
            state.content.get(offset, data);
        } else {
            data.fill(0);
            data[0] = state.chip.status();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { chip, content } = &mut *state;
        match chip.write(offset, data[0]) {
            Effect::None => {}
            Effect::Program => content.put(offset, data),
            Effect::Erase { start } => content.put(start, &[0xFF; BLOCK]),
        }
        if let Err(error) = content.show(chip.shows_array()) {
            // The guest would read one thing for another.
            self.ending.end(Outcome::KvmError(format!("flash: {error}")));
        }
    }
}
