//! The address space of port and memory-mapped I/O: which device answers which range.
//!
//! Looked up on every exit, changed only while the machine is built or when the guest moves a PCI BAR.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// A device behind port or memory-mapped I/O.
///
/// Called from any vCPU thread, several at once: a device keeps its own locks. It must not block, and whatever the
/// guest asks must end in a value, never in a panic. `offset` is relative to the start of the range the device was
/// inserted with, and `offset + data.len()` never passes the range's end.
pub trait BusDevice: Send + Sync {
    /// Fills `data` (1, 2, 4 or 8 bytes). What a device doesn't know reads as all ones, which `data` holds already.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Takes `data` (1, 2, 4 or 8 bytes).
    fn write(&self, offset: u64, data: &[u8]);
}

/// Two devices claim one address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("bus range {start:#x}+{size:#x} overlaps another device or the end of the address space")]
pub struct Overlap {
    /// First address of the refused range.
    pub start: u64,
    /// Its size in bytes.
    pub size: u64,
}

struct Range {
    size: u64,
    device: Arc<dyn BusDevice>,
}

/// One address space (ports or memory).
#[derive(Default)]
pub struct Bus {
    ranges: RwLock<BTreeMap<u64, Range>>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_map().entries(ranges.iter().map(|(start, r)| (start, r.size))).finish()
    }
}

impl Bus {
    /// Gives `start .. start + size` to `device`.
    pub fn insert(&self, start: u64, size: u64, device: Arc<dyn BusDevice>) -> Result<(), Overlap> {
        let overlap = Overlap { start, size };
        let end = start.checked_add(size).filter(|_| size > 0).ok_or(Overlap { start, size })?;
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((below, r)) = ranges.range(..end).next_back()
            && below + r.size > start
        {
            return Err(overlap);
        }
        ranges.insert(start, Range { size, device });
        Ok(())
    }

    /// Takes the range that starts at `start` away; unknown ones are ignored.
    pub fn remove(&self, start: u64) {
        self.ranges.write().unwrap_or_else(PoisonError::into_inner).remove(&start);
    }

    /// Reads at `addr`; an address that nobody answers reads as all ones.
    pub fn read(&self, addr: u64, data: &mut [u8]) {
        data.fill(0xFF);
        if let Some((offset, device)) = self.find(addr, data.len()) {
            device.read(offset, data);
        }
    }

    /// Writes at `addr`; an address that nobody answers swallows the write.
    pub fn write(&self, addr: u64, data: &[u8]) {
        if let Some((offset, device)) = self.find(addr, data.len()) {
            device.write(offset, data);
        }
    }

    // The device is cloned out so that no lock is held while it runs: it may itself move ranges.
    fn find(&self, addr: u64, len: usize) -> Option<(u64, Arc<dyn BusDevice>)> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let (start, range) = ranges.range(..=addr).next_back()?;
        let offset = addr - start;
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        (end <= range.size).then(|| (offset, Arc::clone(&range.device)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;
    impl BusDevice for Echo {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data[0] = u8::try_from(offset).unwrap();
        }
        fn write(&self, _: u64, _: &[u8]) {}
    }

    #[test]
    fn finds_the_device_and_its_offset() {
        let bus = Bus::default();
        bus.insert(0x10, 4, Arc::new(Echo)).unwrap();
        let mut byte = [0];
        bus.read(0x13, &mut byte);
        assert_eq!(byte, [3]);
        bus.read(0x14, &mut byte);
        assert_eq!(byte, [0xFF]);
        let mut word = [0; 2];
        bus.read(0x13, &mut word);
        assert_eq!(word, [0xFF, 0xFF], "an access across the end answers all ones");
    }

    #[test]
    fn refuses_overlaps_and_wraps() {
        let bus = Bus::default();
        bus.insert(0x10, 4, Arc::new(Echo)).unwrap();
        for (start, size) in [(0x10, 1), (0x13, 4), (0xC, 5), (0, 0x100), (0x20, 0), (u64::MAX, 2)] {
            assert!(bus.insert(start, size, Arc::new(Echo)).is_err(), "{start:#x}+{size:#x}");
        }
        bus.insert(0xC, 4, Arc::new(Echo)).unwrap();
        bus.remove(0x10);
        bus.insert(0x10, 2, Arc::new(Echo)).unwrap();
    }
}
