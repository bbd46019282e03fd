//! The control queue (virtio 1.3 §5.1.6.5): how many queue pairs the driver uses, and which offloads it takes.

use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::{Bytes, GuestAddress};

use super::pairs::Pairs;
use super::tap::Tap;
use crate::memory::GuestRam;
use crate::virtio::virtqueue::{Broken, Chain, Ram, Virtqueue};

const OK: u8 = 0;
const ERROR: u8 = 1;
/// Class and command of VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET and VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET.
const PAIRS_SET: [u8; 2] = [4, 0];
const OFFLOADS_SET: [u8; 2] = [5, 0];
/// Bytes of the longest command.
const LONGEST: usize = 10;

/// What the driver asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Use so many queue pairs.
    Pairs(u16),
    /// Let the host hand over packets with these offloads, as feature bits.
    Offloads(u64),
}

/// Serves the queue, on the event thread.
#[derive(Debug)]
pub struct Control {
    pub ram: GuestRam,
    pub queue: Virtqueue,
    pub pairs: Arc<Mutex<Pairs>>,
    /// Any of the tap's queues.
    pub tap: Arc<Tap>,
    /// What was negotiated of the offloads that the driver may switch.
    pub offloads: u64,
    /// Pairs that there are.
    pub most: u16,
    pub broken: bool,
}

impl Control {
    /// Does what the driver has queued.
    pub fn kicked(&mut self) {
        if self.broken {
            return;
        }
        let Self { ram, queue, pairs, tap, offloads, most, .. } = self;
        let perform = |command| match command {
            Some(Command::Pairs(count)) if (1..=*most).contains(&count) => {
                pairs.lock().unwrap_or_else(PoisonError::into_inner).serve(count.into()).is_ok()
            }
            Some(Command::Offloads(wanted)) if wanted & !*offloads == 0 => tap.set_offloads(wanted).is_ok(),
            _ => false,
        };
        if queue.drain(ram, |chain| answer(ram, chain, perform)).is_err() {
            self.broken = true;
            self.queue.fail();
        }
    }
}

/// Reads a command and writes what came of it into the last byte that the driver left for that.
fn answer(ram: &Ram, chain: Chain<'_>, perform: impl Fn(Option<Command>) -> bool) -> Result<u32, Broken> {
    let (mut bytes, mut len, mut ack) = ([0; LONGEST], 0, None);
    for descriptor in chain {
        let (at, size) = (descriptor.addr(), descriptor.len() as usize);
        if descriptor.is_write_only() {
            ack = at.0.checked_add(u64::from(descriptor.len().saturating_sub(1))).filter(|_| size > 0).or(ack);
        } else {
            // One byte more than the longest makes it another command.
            let taken = size.min(LONGEST - len.min(LONGEST));
            ram.read_slice(&mut bytes[len.min(LONGEST)..][..taken], at)
                .map_err(|_| Broken::Request("a command lies outside of RAM"))?;
            len = len.saturating_add(size);
        }
    }
    let ack = ack.ok_or(Broken::Request("a command has no room for its answer"))?;
    let done = perform(bytes.get(..len).and_then(parse));
    ram.write_obj(if done { OK } else { ERROR }, GuestAddress(ack))
        .map_err(|_| Broken::Request("a command's answer lies outside of RAM"))?;
    Ok(1)
}

/// A whole command; `None` is one that the device doesn't know.
pub fn parse(bytes: &[u8]) -> Option<Command> {
    let (command, data) = bytes.split_first_chunk()?;
    match *command {
        PAIRS_SET => Some(Command::Pairs(u16::from_le_bytes(data.try_into().ok()?))),
        OFFLOADS_SET => Some(Command::Offloads(u64::from_le_bytes(data.try_into().ok()?))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};

    use super::*;
    use crate::virtio::testing::{DriverQueue, Told, ram};

    proptest! {
        /// Whatever the descriptors say, a command is answered within RAM or breaks the queue, and nothing else happens.
        #[test]
        fn any_chain_is_answered_or_refused(
            parts in prop::collection::vec((any::<u64>(), prop_oneof![0..16_u32, any::<u32>()], 0..8_u16, 0..10_u16, any::<bool>()), 1..8),
        ) {
            let ram = ram();
            let mut driver = DriverQueue::new(&ram, 0x2_0000, 8);
            for (i, (addr, len, flags, next, inside)) in (0..).zip(&parts) {
                let addr = if *inside { addr % 0x10_0000 } else { *addr };
                let raw = RawDescriptor::from(Descriptor::new(addr, *len, *flags, *next));
                ram.write_obj(raw, GuestAddress(driver.desc() + 16 * i)).unwrap();
            }
            driver.offer(0);
            let mut queue = Virtqueue::new(driver.active(0), Arc::new(Told::default()));
            let chain = queue.pop(&ram).unwrap().unwrap();
            if let Ok(written) = answer(&ram, chain, |command| command.is_some()) {
                prop_assert_eq!(written, 1);
            }
        }
    }

    #[test]
    fn only_whole_known_commands_are_understood() {
        assert_eq!(parse(&[4, 0, 2, 0]), Some(Command::Pairs(2)));
        assert_eq!(parse(&[5, 0, 2, 1, 0, 0, 0, 0, 0, 0]), Some(Command::Offloads(0x102)));
        for wrong in [&[][..], &[4], &[4, 0], &[4, 0, 2], &[4, 0, 2, 0, 0], &[4, 1, 2, 0], &[5, 0, 1], &[0, 0, 1]] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
