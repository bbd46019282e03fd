//! The DMA interface's descriptor: { control, length, address }, all big-endian, in guest memory.

use vm_memory::{Bytes, GuestAddress, GuestMemory};

use crate::memory::GuestRam;

/// Bits of the control field; above them, with SELECT, the item.
mod control {
    pub const ERROR: u32 = 1;
    pub const READ: u32 = 2;
    pub const SKIP: u32 = 4;
    pub const SELECT: u32 = 8;
    pub const WRITE: u32 = 16;
}
/// The most that one transfer moves, bytes: no item comes near, and a vCPU is busy as long.
pub const MAX_LENGTH: u32 = 16 << 20;

/// Something lies outside of RAM, is too long, or would write to an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault;

/// What a descriptor asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Where the descriptor is.
    at: GuestAddress,
    /// The item to choose first.
    pub select: Option<u16>,
    /// What to do then.
    pub action: Action,
    /// Bytes.
    pub length: u32,
    address: GuestAddress,
}

/// What to do with `length` bytes of the chosen item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Copy them to memory.
    Read,
    /// Pass over them.
    Skip,
    /// What isn't done here: writing.
    Refuse,
}

impl Access {
    /// Reads the descriptor at `at`.
    pub fn read(ram: &GuestRam, at: u64) -> Result<Self, Fault> {
        let at = GuestAddress(at);
        let mut bytes = [0; 16];
        // Checked first: part of a descriptor is none.
        if !ram.check_range(at, bytes.len(), vm_memory::Permissions::ReadWrite) {
            return Err(Fault);
        }
        ram.read_slice(&mut bytes, at).map_err(|_| Fault)?;
        let descriptor = u128::from_be_bytes(bytes);
        #[expect(clippy::cast_possible_truncation, reason = "fields of a packed descriptor")]
        let (control, length, address) =
            ((descriptor >> 96) as u32, (descriptor >> 64) as u32, GuestAddress(descriptor as u64));
        let [select_high, select_low, ..] = control.to_be_bytes();
        let select = (control & control::SELECT != 0).then_some(u16::from_be_bytes([select_high, select_low]));
        // READ goes before SKIP, and WRITE before neither, as in QEMU.
        let action = if control & control::READ != 0 {
            Action::Read
        } else if control & control::WRITE != 0 {
            Action::Refuse
        } else if control & control::SKIP != 0 {
            Action::Skip
        } else {
            Action::Nothing
        };
        Ok(Self { at, select, action, length, address })
    }

    /// Copies `item` to where the descriptor says, and zeroes after its end.
    pub fn copy(&self, ram: &GuestRam, item: &[u8]) -> Result<(), Fault> {
        const ZEROES: [u8; 4096] = [0; 4096];
        let length = usize::try_from(self.length).map_err(|_| Fault)?;
        if self.length > MAX_LENGTH || !ram.check_range(self.address, length, vm_memory::Permissions::Write) {
            return Err(Fault);
        }
        let item = &item[..item.len().min(length)];
        let put = |bytes: &[u8], offset: usize| {
            let at = GuestAddress(self.address.0 + offset as u64);
            ram.write_slice(bytes, at).map_err(|_| Fault)
        };
        put(item, 0)?;
        let mut done = item.len();
        while done < length {
            let zeroes = &ZEROES[..ZEROES.len().min(length - done)];
            put(zeroes, done)?;
            done += zeroes.len();
        }
        Ok(())
    }

    /// Tells the guest: a control field of 0, or of ERROR.
    pub fn finish(&self, ram: &GuestRam, done: bool) {
        let control = if done { 0 } else { control::ERROR };
        // It was RAM when the descriptor was read.
        let _ = ram.write_slice(&control.to_be_bytes(), self.at);
    }
}
