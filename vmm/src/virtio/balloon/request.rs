//! Reads what the driver put into the queues: page numbers, free ranges, statistics.

use vm_memory::{Address, Bytes};

use super::statistics::{ENTRY, Statistics};
use crate::virtio::virtqueue::{Broken, Chain, Ram};

/// Bytes of a page of the balloon, whatever the guest's own are (virtio 1.3 §5.5.6).
pub const PAGE: u64 = 4096;
/// Page numbers that one request may hold. Drivers send 256; more would keep the thread from a pause for long.
pub const MAX_PAGES: usize = 4096;
/// Entries of the statistics that are looked at; there are ten tags.
const MAX_ENTRIES: usize = 64;
const NUMBER: usize = 4;

/// Calls `each` with the ranges (address, bytes) that the page numbers in `chain` make up, neighbours joined.
pub fn pages(ram: &Ram, chain: Chain<'_>, mut each: impl FnMut(u64, u64)) -> Result<(), Broken> {
    let mut bytes = Vec::new();
    gather(ram, chain, MAX_PAGES * NUMBER, &mut bytes)?;
    let (numbers, _) = bytes.as_chunks::<NUMBER>();
    let mut numbers: Vec<u32> = numbers.iter().map(|number| u32::from_le_bytes(*number)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    for run in numbers.chunk_by(|a, b| *a + 1 == *b) {
        each(u64::from(run[0]) * PAGE, run.len() as u64 * PAGE);
    }
    Ok(())
}

/// Calls `each` with the ranges (address, bytes) that `chain` reports as free: its buffers themselves.
pub fn free_ranges(chain: Chain<'_>, mut each: impl FnMut(u64, u64)) {
    for descriptor in chain.filter(virtio_queue::desc::split::Descriptor::is_write_only) {
        each(descriptor.addr().raw_value(), descriptor.len().into());
    }
}

/// The statistics in `chain`.
pub fn statistics(ram: &Ram, chain: Chain<'_>) -> Result<Statistics, Broken> {
    let mut bytes = Vec::new();
    gather(ram, chain, MAX_ENTRIES * ENTRY, &mut bytes)?;
    Ok(Statistics::parse(&bytes))
}

/// Reads what the driver wrote in `chain`, at most `limit` bytes.
fn gather(ram: &Ram, chain: Chain<'_>, limit: usize, bytes: &mut Vec<u8>) -> Result<(), Broken> {
    for descriptor in chain.filter(|descriptor| !descriptor.is_write_only()) {
        let (start, len) = (bytes.len(), descriptor.len() as usize);
        if len > limit - start {
            return Err(Broken::Request("a balloon request is too long"));
        }
        bytes.resize(start + len, 0);
        let read = ram.read_slice(&mut bytes[start..], descriptor.addr());
        read.map_err(|_| Broken::Request("its buffer lies outside of RAM"))?;
    }
    Ok(())
}
