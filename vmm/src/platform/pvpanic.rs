//! pvpanic: the port through which a dying kernel says so (QEMU's `docs/specs/pvpanic.rst`).

use std::sync::Arc;

use crate::bus::BusDevice;
use crate::ending::{Ending, Outcome};

/// A read tells the events that are understood, a write reports some.
#[derive(Debug)]
pub struct Pvpanic {
    ending: Arc<Ending>,
}

impl Pvpanic {
    /// The guest panicked. The other event, that its crash kernel takes over, isn't asked for.
    const PANICKED: u8 = 1;

    /// Ends `ending`.
    pub fn new(ending: Arc<Ending>) -> Self {
        Self { ending }
    }
}

impl BusDevice for Pvpanic {
    fn read(&self, _: u64, data: &mut [u8]) {
        data[0] = Self::PANICKED;
    }

    fn write(&self, _: u64, data: &[u8]) {
        if data[0] & Self::PANICKED != 0 {
            self.ending.end(Outcome::GuestPanic);
        }
    }
}
