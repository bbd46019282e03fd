//! What the fuzz targets share: guest memory filled from the input, with a queue whose rings the input also holds.

use std::sync::Arc;

use vireo_vmm::memory::GuestRam;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Bytes of guest memory: small, so that a random address often hits it.
pub const RAM_SIZE: usize = 0x1_0000;
/// The queue's size, and where its rings and the data are.
const QUEUE_SIZE: u16 = 16;
const DESC: u64 = 0;
const AVAIL: u64 = 0x400;
const USED: u64 = 0x800;
const DATA: u64 = 0x1000;
/// Bytes of input for one descriptor: address, length, flags, next.
const RECORD: usize = 6;
/// Flag in a record: the address and length are far larger than they look.
const WILD: u8 = 0x80;

/// Guest memory with a queue in it: the input's first 96 bytes make 16 descriptors, each of them available as a head; the
/// rest is data from 0x1000 on.
#[must_use]
pub fn memory(input: &[u8]) -> GuestRam {
    let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_SIZE)]).expect("64 KiB of memory");
    let (records, data) = input.split_at(input.len().min(RECORD * usize::from(QUEUE_SIZE)));
    let put = |bytes: &[u8], at: u64| ram.write_slice(bytes, GuestAddress(at)).expect("it fits");
    for (index, record) in (0..).zip(records.chunks_exact(RECORD)) {
        let [a0, a1, l0, l1, flags, next] = record.try_into().expect("six bytes");
        let shift = if flags & WILD == 0 { 0 } else { 16 };
        let addr = u64::from(u16::from_le_bytes([a0, a1])) << (2 * shift);
        let len = u32::from(u16::from_le_bytes([l0, l1])) << shift;
        let at = DESC + 16 * index;
        put(&addr.to_le_bytes(), at);
        put(&len.to_le_bytes(), at + 8);
        put(&[flags & !WILD, 0, next, 0], at + 12);
    }
    put(&data[..data.len().min(RAM_SIZE - 0x1000)], DATA);
    put(&QUEUE_SIZE.to_le_bytes(), AVAIL + 2);
    for head in 0..QUEUE_SIZE {
        put(&head.to_le_bytes(), AVAIL + 4 + 2 * u64::from(head));
    }
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
