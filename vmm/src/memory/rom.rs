//! A file in guest memory that the guest can read but not write: firmware and its variables.

use std::fs::File;
use std::io;
use std::sync::Arc;

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

/// Why a file could not be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused a descriptor.
    #[error("firmware: dup of its file")]
    Dup(#[source] io::Error),
    /// The host refused the mapping.
    #[error("firmware: mapping {0} bytes")]
    Map(u64, #[source] MmapRegionError),
    /// KVM refused the memory slot.
    #[error("KVM_SET_USER_MEMORY_REGION for read-only slot {0}")]
    Slot(u32, #[source] kvm_ioctls::Error),
}

/// A mapped file and its memory slot, which is there while the guest is to see it.
pub struct RomSlot {
    vm: Arc<VmFd>,
    slot: u32,
    address: u64,
    mapping: MmapRegion,
    shown: bool,
}

impl std::fmt::Debug for RomSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RomSlot").field("address", &self.address).field("shown", &self.shown).finish_non_exhaustive()
    }
}

impl RomSlot {
    /// Shows the first `size` bytes (a multiple of the page size) of `file` at GPA `address`. With `write` the VMM can change
    /// them; else whoever shares the file shares the pages.
    pub fn new(vm: Arc<VmFd>, slot: u32, address: u64, file: &File, size: u64, write: bool) -> Result<Self, Error> {
        let file = file.try_clone().map_err(Error::Dup)?;
        let (prot, flags) = if write {
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED)
        } else {
            (libc::PROT_READ, libc::MAP_PRIVATE)
        };
        let mapping = MmapRegionBuilder::new(usize::try_from(size).unwrap_or(usize::MAX))
            .with_file_offset(FileOffset::new(file, 0))
            .with_mmap_prot(prot)
            .with_mmap_flags(flags)
            .build()
            .map_err(|source| Error::Map(size, source))?;
        let mut rom = Self { vm, slot, address, mapping, shown: false };
        rom.show(true)?;
        Ok(rom)
    }

    /// Lets the guest see the file, or makes every access of its an exit.
    pub fn show(&mut self, shown: bool) -> Result<(), Error> {
        if shown == self.shown {
            return Ok(());
        }
        let region = kvm_userspace_memory_region {
            slot: self.slot,
            flags: KVM_MEM_READONLY,
            guest_phys_addr: self.address,
            memory_size: if shown { self.mapping.size() as u64 } else { 0 },
            userspace_addr: self.mapping.as_ptr().addr() as u64,
        };
        // SAFETY: the range is one whole mapping of ours; the slot goes before the mapping does (see `drop`).
        unsafe { self.vm.set_user_memory_region(region) }.map_err(|source| Error::Slot(self.slot, source))?;
        self.shown = shown;
        Ok(())
    }

    /// Copies out of the file; past its end `data` is left as it is.
    pub fn get(&self, offset: u64, data: &mut [u8]) {
        let _ = self.mapping.as_volatile_slice().read(data, usize::try_from(offset).unwrap_or(usize::MAX));
    }

    /// Copies into the file, which was mapped for writing; what goes past its end is lost.
    pub fn put(&self, offset: u64, data: &[u8]) {
        let _ = self.mapping.as_volatile_slice().write(data, usize::try_from(offset).unwrap_or(usize::MAX));
    }
}

impl Drop for RomSlot {
    fn drop(&mut self) {
        // Refused only where the slot is gone already.
        let _ = self.show(false);
    }
}
