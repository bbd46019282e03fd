//! MSI-X (PCI 3.0 §6.8.2): the capability, the vector table and the pending bit array, joined to KVM's interrupt routes.
//!
//! Raising a vector writes its eventfd: no lock, no ioctl. A vector that can't be delivered (masked, or its function is)
//! has no irqfd, so what is raised stays in the eventfd's counter; that counter *is* the pending bit, and KVM delivers it
//! when the irqfd comes back.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::eventfd::EventFd;

use crate::interrupts::{self, Interrupts, MsiMessage, MsiVector};

/// Capability id.
pub const CAPABILITY: u8 = 0x11;
/// Bytes of a table entry.
pub const ENTRY_SIZE: u64 = 16;
/// Message control: all vectors are masked.
const FUNCTION_MASK: u16 = 1 << 14;
/// Message control: MSI-X is on.
const ENABLE: u16 = 1 << 15;
/// Vector control: this vector is masked.
const VECTOR_MASK: u32 = 1;

/// The vectors of one function.
#[derive(Debug)]
pub struct Msix {
    /// What device threads write; the same eventfds as in `state`.
    events: Vec<EventFd>,
    enabled: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    control: u16,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    message: MsiMessage,
    control: u32,
    vector: MsiVector,
}

impl Msix {
    /// `count` vectors (1 to 2048), all masked, MSI-X off.
    pub fn new(interrupts: &Interrupts, count: u16) -> Result<Self, super::Error> {
        let mut entries = Vec::new();
        let mut events = Vec::new();
        for _ in 0..count {
            let vector = interrupts.msi()?;
            events.push(vector.event().try_clone().map_err(super::Error::EventFd)?);
            entries.push(Entry { message: MsiMessage::default(), control: VECTOR_MASK, vector });
        }
        let state = Mutex::new(State { control: 0, entries });
        Ok(Self { events, enabled: AtomicBool::new(false), state })
    }

    /// Number of vectors.
    pub fn len(&self) -> u16 {
        u16::try_from(self.events.len()).unwrap_or(u16::MAX)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The body of the capability (after id and link) for a table and a pending bit array in BAR `bar`, and its mask.
    pub fn capability(&self, bar: u8, table: u32, pending: u32) -> ([u8; 10], [u8; 2]) {
        let mut body = [0; 10];
        body[..2].copy_from_slice(&self.len().wrapping_sub(1).to_le_bytes());
        body[2..6].copy_from_slice(&(table | u32::from(bar)).to_le_bytes());
        body[6..].copy_from_slice(&(pending | u32::from(bar)).to_le_bytes());
        (body, (ENABLE | FUNCTION_MASK).to_le_bytes())
    }

    /// Takes the message control register after the guest has written it.
    pub fn set_control(&self, control: u16) -> Result<(), interrupts::Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let control = control & (ENABLE | FUNCTION_MASK);
        if state.control == control {
            return Ok(());
        }
        state.control = control;
        self.enabled.store(control & ENABLE != 0, Ordering::Release);
        state.entries.iter_mut().try_for_each(|entry| entry.update(control))
    }

    /// Raises a vector, from any thread. False when MSI-X is off, so that nothing was raised; unknown vectors
    /// (VIRTIO_MSI_NO_VECTOR among them) are swallowed.
    pub fn raise(&self, vector: u16) -> bool {
        if !self.enabled.load(Ordering::Acquire) {
            return false;
        }
        if let Some(event) = self.events.get(usize::from(vector)) {
            // Fails only when the counter is full, and then the interrupt is pending anyway.
            let _ = event.write(1);
        }
        true
    }

    /// Whether MSI-X is on.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// What raises a vector when it is written, for as long as MSI-X is on. A masked vector's interrupt waits in it.
    pub fn event(&self, vector: u16) -> Option<EventFd> {
        let event = self.events.get(usize::from(vector)).filter(|_| self.is_enabled())?;
        event.try_clone().ok()
    }

    /// Reads the vector table. 4 and 8 bytes are the sizes that the standard allows; others read as zero.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        data.fill(0);
        for (offset, part) in (offset..).step_by(4).zip(data.chunks_exact_mut(4)) {
            if let Some((entry, field)) = locate(offset).and_then(|(i, field)| Some((state.entries.get(i)?, field))) {
                part.copy_from_slice(&entry.get(field).to_le_bytes());
            }
        }
    }

    /// Writes the vector table; odd sizes are ignored.
    pub fn write_table(&self, offset: u64, data: &[u8]) -> Result<(), interrupts::Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let control = state.control;
        for (offset, part) in (offset..).step_by(4).zip(data.chunks_exact(4)) {
            let Some((index, field)) = locate(offset) else { continue };
            let (Some(entry), Ok(part)) = (state.entries.get_mut(index), part.try_into()) else { continue };
            entry.put(field, u32::from_le_bytes(part));
            entry.update(control)?;
        }
        Ok(())
    }

    /// Reads the pending bit array.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for (byte, out) in (offset..).zip(data.iter_mut()) {
            *out = 0;
            for bit in 0..8 {
                let entry = usize::try_from(byte * 8 + bit).ok().and_then(|i| state.entries.get(i));
                if entry.is_some_and(|e| !e.deliverable(state.control) && readable(e.vector.event())) {
                    *out |= 1 << bit;
                }
            }
        }
    }
}

/// Entry and 4-byte field of a table offset.
fn locate(offset: u64) -> Option<(usize, u64)> {
    (offset.is_multiple_of(4)).then_some(())?;
    Some((usize::try_from(offset / ENTRY_SIZE).ok()?, offset % ENTRY_SIZE / 4))
}

fn readable(event: &EventFd) -> bool {
    // SAFETY: the descriptor is open for as long as `event` is borrowed.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(event)) };
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
}

impl Entry {
    fn deliverable(&self, control: u16) -> bool {
        control & (ENABLE | FUNCTION_MASK) == ENABLE && self.control & VECTOR_MASK == 0
    }

    /// Makes KVM's side follow the table. A message that was never written has address 0 and goes nowhere.
    fn update(&mut self, control: u16) -> Result<(), interrupts::Error> {
        if self.deliverable(control) && self.message.address != 0 {
            self.vector.set(self.message)
        } else {
            self.vector.mask()
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the address")]
    fn get(&self, field: u64) -> u32 {
        match field {
            0 => self.message.address as u32,
            1 => (self.message.address >> 32) as u32,
            2 => self.message.data,
            _ => self.control,
        }
    }

    fn put(&mut self, field: u64, value: u32) {
        let value64 = u64::from(value);
        match field {
            0 => self.message.address = self.message.address & !0xFFFF_FFFF | value64,
            1 => self.message.address = self.message.address & 0xFFFF_FFFF | value64 << 32,
            2 => self.message.data = value,
            _ => self.control = value & VECTOR_MASK,
        }
    }
}
