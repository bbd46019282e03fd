//! The guest's RAM: one sealed memfd, mapped once, given to KVM as memory slots.

use std::fs::File;
use std::io;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

use super::{GuestRam, layout};
use crate::config::HugePageSize;

/// Why the RAM could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel gave no memory file.
    #[error("memory: a memfd of {size} bytes")]
    Memfd {
        /// Bytes asked for.
        size: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The mapping failed: with huge pages, too few are free.
    #[error("memory: mapping {size} bytes{}", if *.huge { " of huge pages; are enough of them free on this node?" } else { "" })]
    Map {
        /// Bytes of the refused range.
        size: u64,
        /// Whether huge pages were asked for.
        huge: bool,
        /// Why.
        #[source]
        source: vm_memory::mmap::MmapRegionError,
    },
    /// The address space can't hold that much.
    #[error("memory: {size} bytes don't fit the address space")]
    TooBig {
        /// Bytes asked for.
        size: u64,
    },
    /// KVM refused a memory slot.
    #[error("memory: KVM_SET_USER_MEMORY_REGION for slot {slot}")]
    Slot {
        /// The slot.
        slot: u32,
        /// Why.
        #[source]
        source: kvm_ioctls::Error,
    },
}

/// Makes RAM of `size` bytes, all zeros. No page of it is taken before it is touched; huge pages are set aside at once, so
/// that a lack of them is an error here and not a SIGBUS later.
pub fn create(size: u64, hugepages: Option<HugePageSize>) -> Result<GuestRam, Error> {
    let file = Arc::new(memory_file(size, hugepages).map_err(|source| Error::Memfd { size, source })?);
    let mut regions = Vec::new();
    let mut offset = 0;
    for (start, bytes) in layout::ram_regions(size) {
        let len = usize::try_from(bytes).map_err(|_| Error::TooBig { size })?;
        let reserve = if hugepages.is_some() { 0 } else { libc::MAP_NORESERVE };
        let mapping = MmapRegionBuilder::new(len)
            .with_file_offset(FileOffset::from_arc(Arc::clone(&file), offset))
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | reserve)
            .build()
            .map_err(|source| Error::Map { size: bytes, huge: hugepages.is_some(), source })?;
        if hugepages.is_none() {
            advise_huge(&mapping);
        }
        regions.push(GuestRegionMmap::new(mapping, GuestAddress(start)).ok_or(Error::TooBig { size })?);
        offset += bytes;
    }
    GuestMemoryMmap::from_regions(regions).map(Arc::new).map_err(|_| Error::TooBig { size })
}

/// Gives the RAM to the guest. The mapping must outlive `vm`: whoever owns the VM keeps a clone of `ram`.
pub fn attach(vm: &VmFd, ram: &GuestRam) -> Result<(), Error> {
    for (slot, region) in (0u32..).zip(ram.iter()) {
        let slot_info = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.get_mmap().as_ptr().addr() as u64,
        };
        // SAFETY: the range is one whole mapping of ours, which stays mapped while the machine has `ram`.
        unsafe { vm.set_user_memory_region(slot_info) }.map_err(|source| Error::Slot { slot, source })?;
    }
    Ok(())
}

/// Lets the kernel back RAM by transparent huge pages where the node allows them for shared memory
/// (`/sys/kernel/mm/transparent_hugepage/shmem_enabled`): a fault then brings 2 MiB, and nested page tables are shorter.
fn advise_huge(mapping: &MmapRegion) {
    // SAFETY: advice about a whole mapping of ours; it changes no content. A kernel without such pages refuses, and
    // nothing is lost.
    unsafe { libc::madvise(mapping.as_ptr().cast(), mapping.size(), libc::MADV_HUGEPAGE) };
}

/// Sealed, so that nobody with the descriptor can make the mapping fault by changing its size.
fn memory_file(size: u64, hugepages: Option<HugePageSize>) -> io::Result<File> {
    let huge = match hugepages {
        None => MFdFlags::empty(),
        Some(HugePageSize::Size2M) => MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB,
        Some(HugePageSize::Size1G) => MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_1GB,
    };
    let fd = memfd_create(c"vireo-ram", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING | huge)?;
    let file = File::from(fd);
    file.set_len(size)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn ram_goes_on_above_the_hole() {
        let ram = create(5 << 30, None).unwrap();
        assert_eq!(ram.num_regions(), 2);
        ram.write_obj(7u64, GuestAddress(layout::LOW_RAM_END - 8)).unwrap();
        ram.write_obj(8u64, GuestAddress(layout::HIGH_RAM_START)).unwrap();
        assert_eq!(ram.read_obj::<u64>(GuestAddress(layout::LOW_RAM_END - 8)).unwrap(), 7);
        assert!(ram.write_obj(9u8, GuestAddress(layout::LOW_RAM_END)).is_err(), "the hole is no RAM");
    }

    #[test]
    fn too_few_huge_pages_is_an_error() {
        let error = create(512 << 30, Some(HugePageSize::Size1G)).unwrap_err();
        assert!(error.to_string().starts_with("memory: "), "{error}");
    }
}
