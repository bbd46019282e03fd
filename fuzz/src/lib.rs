//! What the fuzz targets share: guest memory filled from the input, with a queue whose rings the input also holds.

use std::sync::Arc;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vireo_vmm::memory::GuestRam;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Bytes of guest memory: small, so that a random address often hits it.
pub const RAM_SIZE: usize = 0x1_0000;
/// The queue's size, and where its rings are.
const QUEUE_SIZE: u16 = 16;
const DESC: u64 = 0;
const AVAIL: u64 = 0x400;
const USED: u64 = 0x800;

/// Guest memory that starts with `input`: descriptors first, then the available ring at 0x400, data anywhere.
#[must_use]
pub fn memory(input: &[u8]) -> GuestRam {
    let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_SIZE)]).expect("64 KiB of memory");
    ram.write_slice(&input[..input.len().min(RAM_SIZE)], GuestAddress(0)).expect("it fits");
    Arc::new(ram)
}

/// Calls `each` with every chain that the queue in `ram` holds.
pub fn each_chain<'r>(ram: &'r GuestRam, mut each: impl FnMut(DescriptorChain<&'r GuestMemoryMmap<()>>)) {
    let mut queue = Queue::new(QUEUE_SIZE).expect("a power of two");
    queue.try_set_desc_table_address(GuestAddress(DESC)).expect("aligned");
    queue.try_set_avail_ring_address(GuestAddress(AVAIL)).expect("aligned");
    queue.try_set_used_ring_address(GuestAddress(USED)).expect("aligned");
    queue.set_ready(true);
    if let Ok(chains) = queue.iter(&**ram) {
        chains.for_each(&mut each);
    }
}
