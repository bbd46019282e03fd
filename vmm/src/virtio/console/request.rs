//! Moves bytes between chains of descriptors and the console.

use vm_memory::{Address, Bytes};

use crate::virtio::virtqueue::{Broken, Chain, Ram};

/// Bytes that one write may have. Overlapping descriptors could claim gigabytes, and the event thread has other work.
pub const MAX_WRITE: usize = 1 << 20;
/// Bytes copied at once.
const PIECE: usize = 4096;

/// Hands what the guest wrote in `chain` to `sink`, piece by piece.
pub fn transmit(ram: &Ram, chain: Chain<'_>, mut sink: impl FnMut(&[u8])) -> Result<(), Broken> {
    let mut total = 0;
    let mut piece = [0; PIECE];
    for descriptor in chain {
        let mut left = descriptor.len() as usize;
        let mut addr = descriptor.addr();
        if descriptor.is_write_only() {
            continue;
        }
        total += left;
        if total > MAX_WRITE {
            return Err(Broken::Request("a console write is longer than 1 MiB"));
        }
        while left > 0 {
            let part = &mut piece[..left.min(PIECE)];
            ram.read_slice(part, addr).map_err(|_| Broken::Request("its buffer lies outside of RAM"))?;
            sink(part);
            left -= part.len();
            addr = addr.checked_add(part.len() as u64).ok_or(Broken::Request("its buffer lies outside of RAM"))?;
        }
    }
    Ok(())
}

/// Puts as much of `bytes` into `chain` as it takes, and returns how much that was.
pub fn receive(ram: &Ram, chain: Chain<'_>, bytes: &[u8]) -> Result<usize, Broken> {
    let mut rest = bytes;
    for descriptor in chain {
        if rest.is_empty() {
            break;
        }
        if descriptor.is_write_only() {
            let (now, later) = rest.split_at(rest.len().min(descriptor.len() as usize));
            let written = ram.write_slice(now, descriptor.addr());
            written.map_err(|_| Broken::Request("its buffer lies outside of RAM"))?;
            rest = later;
        }
    }
    Ok(bytes.len() - rest.len())
}
