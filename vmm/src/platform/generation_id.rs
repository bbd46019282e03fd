//! The machine's generation id (Microsoft's "Virtual Machine Generation ID"): 128 random bits in a page that the DSDT's
//! `VMGENCTR` names. A guest that finds others than before knows that it goes on from an older state of its own, and
//! mixes them into its randomness.
//!
//! Each machine gets new ones when it is built. Telling a guest that runs already is the business of a restore.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use crate::memory::layout;
use crate::random;

/// Why a machine has no generation id.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused a page.
    #[error("generation id: a page of memory")]
    Map(#[source] MmapRegionError),
    /// The host refused randomness.
    #[error("generation id: getrandom")]
    Random(#[source] std::io::Error),
    /// KVM refused the page.
    #[error("generation id: KVM_SET_USER_MEMORY_REGION")]
    Slot(#[source] kvm_ioctls::Error),
}

/// The page. It must outlive the machine's vCPUs.
#[derive(Debug)]
pub struct GenerationId {
    _page: MmapRegion,
}

impl GenerationId {
    /// Gives `vm` the page, with a new id at its start.
    pub fn attach(vm: &VmFd) -> Result<Self, Error> {
        let size = usize::try_from(layout::GENERATION_ID_SIZE).unwrap_or(usize::MAX);
        let page = MmapRegion::<()>::new(size).map_err(Error::Map)?;
        let mut id = [0; 16];
        random::fill(&mut id).map_err(Error::Random)?;
        // It fits the page.
        let _ = page.as_volatile_slice().write_slice(&id, 0);
        let slot = kvm_userspace_memory_region {
            slot: layout::slot::GENERATION_ID,
            flags: 0,
            guest_phys_addr: layout::GENERATION_ID,
            memory_size: layout::GENERATION_ID_SIZE,
            userspace_addr: page.as_ptr().addr() as u64,
        };
        // SAFETY: the range is one whole mapping of ours, which stays mapped for as long as a vCPU can reach it.
        unsafe { vm.set_user_memory_region(slot) }.map_err(Error::Slot)?;
        Ok(Self { _page: page })
    }
}
