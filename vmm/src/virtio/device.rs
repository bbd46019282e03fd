//! The contract between a virtio device and its transport.

use std::sync::Arc;

use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use crate::event_loop;
use crate::memory::GuestRam;
use crate::pausing::PauseRequests;

/// virtio device ids (virtio 1.3 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum DeviceId {
    /// Network card.
    Net = 1,
    /// Block device.
    Block = 2,
    /// Console.
    Console = 3,
    /// Entropy source.
    Rng = 4,
    /// Memory balloon.
    Balloon = 5,
    /// Socket device.
    Vsock = 19,
}

/// How a device tells its driver something.
pub trait Notify: Send + Sync + std::fmt::Debug {
    /// Used buffers are in queue `index`.
    fn queue(&self, index: u16);
    /// What raises queue `index`'s interrupt when it is written, if it has one. That changes when the driver changes vectors, of
    /// which the device is told by [`VirtioDevice::rewire`].
    fn direct(&self, _index: u16) -> Option<EventFd> {
        None
    }
    /// The configuration space changed (virtio 1.3 §2.5): bumps its generation too.
    fn config(&self);
    /// The device can't go on (DEVICE_NEEDS_RESET, virtio 1.3 §2.1.1).
    fn failed(&self);
}

/// One queue that the driver has set up, handed to the device for as long as it is active.
#[derive(Debug)]
pub struct ActiveQueue {
    /// Its index.
    pub index: u16,
    /// The rings, checked to lie in guest memory.
    pub queue: Queue,
    /// Written by KVM when the driver kicks.
    pub kick: EventFd,
}

/// What a device needs to run, from DRIVER_OK to reset.
#[derive(Debug)]
pub struct Activation {
    /// Guest memory.
    pub ram: GuestRam,
    /// Feature bits that both sides agreed on.
    pub features: u64,
    /// The queues that the driver enabled, by index.
    pub queues: Vec<ActiveQueue>,
    /// The way back to the driver.
    pub notify: Arc<dyn Notify>,
    /// The machine's event thread, for devices that need no thread of their own.
    pub events: event_loop::Handle,
    /// Where to ask for a pause of the machine.
    pub pauses: PauseRequests,
}

/// Why a device could not start; the driver sees DEVICE_NEEDS_RESET.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver left out a queue that the device can't do without.
    #[error("queue {0} is not enabled")]
    MissingQueue(u16),
    /// The host refused a thread or a descriptor.
    #[error("{what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

/// A virtio device apart from its transport.
///
/// Configuration calls come from vCPU threads, one at a time (the transport locks); `activate` and `reset` come from the
/// machine's event thread, and so do `pause` and `resume`. States: inactive → `activate` → active → `reset` → inactive; paused
/// or not besides, and never activated while paused.
pub trait VirtioDevice: Send + std::fmt::Debug {
    /// What it is.
    fn id(&self) -> DeviceId;
    /// Features offered, without the transport's own (VIRTIO_F_VERSION_1 and the like are the transport's).
    fn features(&self) -> u64;
    /// The largest size of each queue, powers of two.
    fn queue_sizes(&self) -> &[u16];
    /// Fills `data` from the configuration space at `offset`; bytes past its end read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// Takes a write to the configuration space; most devices ignore it.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}
    /// Starts working on the queues.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;
    /// Stops; when it returns nothing of the device touches guest memory any more. Harmless when inactive.
    fn reset(&mut self);
    /// Stands still: when it returns, nothing of the device touches guest memory and no I/O is under way. Requests that wait in
    /// its queues, or couldn't be finished, are kept for later. Comes once before each [`VirtioDevice::resume`], also to an
    /// inactive device.
    fn pause(&mut self);
    /// What [`Notify::direct`] says may have changed. Comes from the event thread, to active devices.
    fn rewire(&mut self) {}
    /// Goes on. Every queue is kicked afterwards: a kick that came during the pause need not be remembered.
    fn resume(&mut self);
}

/// Reads `data.len()` bytes of a configuration space at `offset`, zeros past its end: how most devices answer
/// [`VirtioDevice::read_config`].
pub fn read_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|at| config.get(at..)).unwrap_or_default();
    data.fill(0);
    for (to, from) in data.iter_mut().zip(rest) {
        *to = *from;
    }
}
