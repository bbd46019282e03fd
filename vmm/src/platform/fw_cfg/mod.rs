//! fw_cfg (QEMU's `docs/specs/fw_cfg.rst`): what a machine tells its firmware. Items are chosen by a selector and read byte by byte
//! through a data port, or all at once by DMA.
//!
//! ```text
//! +0  selector (2, write)   +1  data (1, read)   +4  DMA address, big-endian: high half (4), low half (4, starts it)
//! ```
//! Nothing can be written to an item. What is read past an item's end is zero.

pub mod dma;
mod items;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

pub use items::{FileError, Items};

use crate::bus::BusDevice;
use crate::memory::GuestRam;
use dma::{Access, Action};

/// The device behind ports 0x510 to 0x51B.
#[derive(Debug)]
pub struct FwCfg {
    items: Items,
    ram: GuestRam,
    cursor: Mutex<Cursor>,
}

/// The chosen item and what is to come of it.
#[derive(Debug, Default)]
struct Cursor {
    item: Arc<[u8]>,
    at: usize,
    /// High half of the DMA address, as it was written.
    dma_high: u32,
}

impl FwCfg {
    /// Bytes of its port range.
    pub const PORTS: u64 = 12;
    /// What the DMA registers read as.
    const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";
    const DATA: u64 = 1;
    const DMA: u64 = 4;

    /// Shows `items` to a guest with `ram`.
    pub fn new(items: Items, ram: GuestRam) -> Self {
        Self { items, ram, cursor: Mutex::default() }
    }

    fn select(&self, cursor: &mut Cursor, selector: u16) {
        cursor.item = self.items.get(selector);
        cursor.at = 0;
    }

    fn transfer(&self, cursor: &mut Cursor, descriptor: u64) {
        // Without a descriptor in RAM there is nobody to tell.
        let Ok(access) = Access::read(&self.ram, descriptor) else { return };
        if let Some(selector) = access.select {
            self.select(cursor, selector);
        }
        let rest = cursor.item.get(cursor.at..).unwrap_or_default();
        let done = match access.action {
            Action::Nothing => Ok(0),
            Action::Skip => Ok(access.length),
            Action::Read => access.copy(&self.ram, rest).map(|()| access.length),
            Action::Refuse => Err(dma::Fault),
        };
        if let Ok(length) = done {
            cursor.at = cursor.at.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        }
        access.finish(&self.ram, done.is_ok());
    }
}

impl Cursor {
    fn next(&mut self) -> u8 {
        let byte = self.item.get(self.at).copied().unwrap_or(0);
        self.at = self.at.saturating_add(1);
        byte
    }
}

impl BusDevice for FwCfg {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if offset == Self::DATA {
            let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
            // Wider reads are of as many bytes.
            data.fill_with(|| cursor.next());
        } else if offset >= Self::DMA {
            let signature = Self::DMA_SIGNATURE.iter().skip(usize::try_from(offset - Self::DMA).unwrap_or(usize::MAX));
            data.iter_mut().zip(signature).for_each(|(byte, sign)| *byte = *sign);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        if let (0, Ok(selector)) = (offset, <[u8; 2]>::try_from(data)) {
            self.select(&mut cursor, u16::from_le_bytes(selector));
        } else if let (Self::DMA, Ok(high)) = (offset, <[u8; 4]>::try_from(data)) {
            cursor.dma_high = u32::from_be_bytes(high);
        } else if let (8, Ok(low)) = (offset, <[u8; 4]>::try_from(data)) {
            let high = std::mem::take(&mut cursor.dma_high);
            self.transfer(&mut cursor, u64::from(high) << 32 | u64::from(u32::from_be_bytes(low)));
        }
    }
}
