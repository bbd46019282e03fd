//! The two ways to configuration space: the memory-mapped one of PCI Express (ECAM) and the ports 0xCF8 and 0xCFC.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::SLOTS;
use super::root::PciRoot;
use crate::bus::BusDevice;

/// Bytes of configuration space that a conventional function has.
const CONVENTIONAL: u16 = 256;

impl PciRoot {
    /// The configuration space as eight ports from [`crate::memory::layout::port::PCI_CONFIG`]; one-byte accesses to the
    /// second (0xCF9) go to `reset` at offset 0.
    pub fn config_ports(self: &Arc<Self>, reset: Arc<dyn BusDevice>) -> Arc<dyn BusDevice> {
        Arc::new(ConfigPorts { root: Arc::clone(self), reset, address: AtomicU32::new(0) })
    }
}

/// The configuration space as memory, [`crate::memory::layout::ECAM_SIZE`] bytes.
pub(super) fn ecam_device(root: Arc<PciRoot>) -> Arc<dyn BusDevice> {
    Arc::new(Ecam(root))
}

/// Reads from function `function` of `slot` on bus 0; what isn't there is left as all ones.
fn read(root: &PciRoot, slot: usize, function: u8, register: u16, data: &mut [u8]) {
    let Some(target) = root.function(slot).filter(|_| function == 0) else { return };
    match narrow(register, data.len()) {
        Some(offset) => target.read_config(offset, data),
        None => data.fill(0),
    }
}

fn write(root: &PciRoot, slot: usize, function: u8, register: u16, data: &[u8]) {
    let Some(target) = root.function(slot).filter(|_| function == 0) else { return };
    if let Some(offset) = narrow(register, data.len()) {
        target.write_config(offset, data);
        if slot == 0 {
            root.follow_bridge();
        }
    }
}

/// The offset of an access that [`super::PciFunction`] promises to its implementers: inside 256 bytes and one register.
fn narrow(register: u16, len: usize) -> Option<u8> {
    let fits = len <= 4 && usize::from(register & 3) + len <= 4 && register < CONVENTIONAL;
    u8::try_from(register).ok().filter(|_| fits)
}

/// The enhanced configuration access mechanism for bus 0 (PCI Express 5.0 §7.2.2).
#[derive(Debug)]
struct Ecam(Arc<PciRoot>);

/// Slot, function and register in an ECAM offset.
fn ecam_address(offset: u64) -> Option<(usize, u8, u16)> {
    let slot = usize::try_from(offset >> 15).ok().filter(|slot| *slot < SLOTS)?;
    Some((slot, u8::try_from(offset >> 12 & 7).ok()?, u16::try_from(offset & 0xFFF).ok()?))
}

impl BusDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let Some((slot, function, register)) = ecam_address(offset) else { return };
        if let (8, Some((low, high))) = (data.len(), data.split_at_mut_checked(4)) {
            read(&self.0, slot, function, register, low);
            read(&self.0, slot, function, register + 4, high);
        } else {
            read(&self.0, slot, function, register, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some((slot, function, register)) = ecam_address(offset) else { return };
        for (register, part) in (register..).step_by(4).zip(data.chunks(4)) {
            write(&self.0, slot, function, register, part);
        }
    }
}

/// Configuration mechanism #1 (PCI 3.0 §3.2.2.3.2) on ports 0xCF8 to 0xCFF, with the reset register at 0xCF9 between.
struct ConfigPorts {
    root: Arc<PciRoot>,
    reset: Arc<dyn BusDevice>,
    address: AtomicU32,
}

impl std::fmt::Debug for ConfigPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigPorts").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Offset of the reset register in the eight ports.
const RESET: u64 = 1;
/// Offset of the data window.
const DATA: u64 = 4;
/// CONFIG_ADDRESS: accesses to the data window are configuration cycles.
const ENABLE: u32 = 1 << 31;

impl ConfigPorts {
    /// Slot, function and register that the data port at `offset` stands for, if it's enabled and on bus 0.
    fn target(&self, offset: u64) -> Option<(usize, u8, u16)> {
        let address = self.address.load(Ordering::Acquire);
        let [low, middle, bus, _] = address.to_le_bytes();
        let lane = u16::try_from(offset.checked_sub(DATA)?).ok()?;
        (address & ENABLE != 0 && bus == 0).then_some((
            usize::from(middle >> 3),
            middle & 7,
            u16::from(low & !3) + lane,
        ))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if offset == RESET && data.len() == 1 {
            self.reset.read(0, data);
        } else if offset == 0 && data.len() == 4 {
            data.copy_from_slice(&self.address.load(Ordering::Acquire).to_le_bytes());
        } else if let Some((slot, function, register)) = self.target(offset) {
            read(&self.root, slot, function, register, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == RESET && data.len() == 1 {
            self.reset.write(0, data);
        } else if let (0, Ok(address)) = (offset, <[u8; 4]>::try_from(data)) {
            self.address.store(u32::from_le_bytes(address), Ordering::Release);
        } else if let Some((slot, function, register)) = self.target(offset) {
            write(&self.root, slot, function, register, data);
        }
    }
}
