//! A pair of queues in the host's kernel (vhost-net): packets pass between the tap and the guest's memory on a thread of the
//! kernel's. A kick reaches it from KVM, an interrupt leaves it for KVM, and this process sees neither.
//!
//! States: free → [`Vhost::start`] → attached ⇄ detached (nothing passes, and nothing is touched) → dropped, and the descriptor is free
//! again. The kernel reads the rings from the used index on, takes chains in order, and leaves none half done.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use vhost::vhost_kern::VhostKernBackend;
use vhost::vhost_kern::vhost_binding::{VHOST_NET_SET_BACKEND, vhost_vring_file};
use vhost::{Error, VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use vmm_sys_util::ioctl::ioctl_with_ref;

use super::tap::Tap;
use crate::event_loop::Handle;
use crate::memory::GuestRam;
use crate::virtio::device::{ActiveQueue, Notify};
use crate::virtio::served::Served;

/// Features that change what is in the rings or in front of a packet: all that the kernel has to know of.
const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_NET_F_MRG_RXBUF
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// Why the kernel doesn't serve a pair.
#[derive(Debug, thiserror::Error)]
pub enum VhostError {
    /// It refused.
    #[error("{0}")]
    Call(&'static str, #[source] Error),
    /// It lacks what was agreed on with the driver.
    #[error("the host's vhost-net lacks features {0:#x}")]
    Features(u64),
    /// Its rings can't be shown as one piece each.
    #[error("a ring lies across the end of RAM")]
    Ring,
    /// An eventfd can't be made.
    #[error("eventfd")]
    EventFd(#[source] io::Error),
}

/// A pair that the kernel serves until this is dropped.
#[derive(Debug)]
pub struct Vhost {
    device: Device,
    tap: Arc<Tap>,
    notify: Arc<dyn Notify>,
    queues: [u16; 2],
    /// Interrupts that can't go straight to KVM.
    calls: [EventFd; 2],
    /// Passes those on, and tells of broken rings.
    _relay: Served<Relay>,
    attached: bool,
}

/// Descriptor and memory, as the wrapper of the ioctls wants them.
struct Device {
    file: Arc<File>,
    ram: GuestRam,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Device").field(&self.file).finish()
    }
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl VhostKernBackend for Device {
    type AS = GuestRam;

    fn mem(&self) -> &GuestRam {
        &self.ram
    }
}

#[derive(Debug)]
struct Relay {
    notify: Arc<dyn Notify>,
    queues: [u16; 2],
}

impl Relay {
    fn hear(&mut self, index: usize) {
        match self.queues.get(index) {
            Some(queue) => self.notify.queue(*queue),
            None => self.notify.failed(),
        }
    }
}

fn call(what: &'static str) -> impl FnOnce(Error) -> VhostError {
    move |source| VhostError::Call(what, source)
}

impl Vhost {
    /// Hands receive and transmit queue to the kernel, from where their used index stands. `file` is a `/dev/vhost-net` that nothing
    /// else uses; `features` are those agreed on with the driver.
    pub fn start(
        file: &Arc<File>,
        tap: &Arc<Tap>,
        ram: &GuestRam,
        queues: &[ActiveQueue; 2],
        features: u64,
        notify: &Arc<dyn Notify>,
        events: &Handle,
    ) -> Result<Self, VhostError> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(VhostError::EventFd);
        let (calls, errors) = ([event()?, event()?], [event()?, event()?]);
        let indexes = [queues[0].index, queues[1].index];
        let relay = Relay { notify: Arc::clone(notify), queues: indexes };
        let heard = [&calls[0], &calls[1], &errors[0], &errors[1]];
        let relay = Served::new(events, relay, &heard, Relay::hear).map_err(VhostError::EventFd)?;

        let device = Device { file: Arc::clone(file), ram: Arc::clone(ram) };
        device.set_owner().map_err(call("VHOST_SET_OWNER"))?;
        // From here on a drop gives the descriptor back.
        let (tap, notify) = (Arc::clone(tap), Arc::clone(notify));
        let mut vhost = Self { device, tap, notify, queues: indexes, calls, _relay: relay, attached: false };
        vhost.set_up(queues, &errors, features)?;
        vhost.set_attached(true)?;
        Ok(vhost)
    }

    fn set_up(&self, queues: &[ActiveQueue; 2], errors: &[EventFd; 2], features: u64) -> Result<(), VhostError> {
        let Self { device, .. } = self;
        let offered = device.get_features().map_err(call("VHOST_GET_FEATURES"))?;
        let needed = features & FEATURES;
        if needed & !offered != 0 {
            return Err(VhostError::Features(needed & !offered));
        }
        device.set_features(needed).map_err(call("VHOST_SET_FEATURES"))?;
        let regions = device.ram.iter().map(|region| VhostUserMemoryRegionInfo {
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.get_mmap().as_ptr().addr() as u64,
            ..VhostUserMemoryRegionInfo::default()
        });
        device.set_mem_table(&regions.collect::<Vec<_>>()).map_err(call("VHOST_SET_MEM_TABLE"))?;
        for (i, (ActiveQueue { queue, kick, .. }, error)) in queues.iter().zip(errors).enumerate() {
            self.check_rings(queue)?;
            let size = queue.size();
            let rings = VringConfigData {
                queue_max_size: queue.max_size(),
                queue_size: size,
                flags: 0,
                desc_table_addr: queue.desc_table(),
                used_ring_addr: queue.used_ring(),
                avail_ring_addr: queue.avail_ring(),
                log_addr: None,
            };
            device.set_vring_num(i, size).map_err(call("VHOST_SET_VRING_NUM"))?;
            device.set_vring_base(i, queue.next_avail()).map_err(call("VHOST_SET_VRING_BASE"))?;
            device.set_vring_addr(i, &rings).map_err(call("VHOST_SET_VRING_ADDR"))?;
            device.set_vring_kick(i, kick).map_err(call("VHOST_SET_VRING_KICK"))?;
            device.set_vring_err(i, error).map_err(call("VHOST_SET_VRING_ERR"))?;
        }
        self.wire()
    }

    /// The kernel gets an address in this process for each ring: behind it there have to be as many bytes of RAM.
    fn check_rings(&self, queue: &Queue) -> Result<(), VhostError> {
        let size = usize::from(queue.size());
        // virtio 1.3 §2.7, with the event indexes.
        let rings =
            [(queue.desc_table(), 16 * size), (queue.avail_ring(), 6 + 2 * size), (queue.used_ring(), 6 + 8 * size)];
        let whole = |(start, len)| self.device.ram.get_slice(GuestAddress(start), len).is_ok();
        if rings.into_iter().all(whole) { Ok(()) } else { Err(VhostError::Ring) }
    }

    /// Sends interrupts to where they go now: straight to KVM where the driver has given the queue a vector.
    fn wire(&self) -> Result<(), VhostError> {
        for (i, (queue, relayed)) in self.queues.iter().zip(&self.calls).enumerate() {
            let direct = self.notify.direct(*queue);
            let event = direct.as_ref().unwrap_or(relayed);
            self.device.set_vring_call(i, event).map_err(call("VHOST_SET_VRING_CALL"))?;
        }
        Ok(())
    }

    /// Follows a change of the driver's vectors.
    pub fn rewire(&self) -> Result<(), VhostError> {
        self.wire()?;
        // One may have gone where nobody looks any more; one too many does no harm.
        self.queues.iter().for_each(|queue| self.notify.queue(*queue));
        Ok(())
    }

    /// Lets packets pass, or stops: when it returns the kernel touches neither rings nor buffers, and every packet that it
    /// took is done.
    pub fn set_attached(&mut self, attached: bool) -> Result<(), VhostError> {
        if self.attached == attached {
            return Ok(());
        }
        for index in 0..2 {
            let backend = vhost_vring_file { index, fd: if attached { self.tap.as_raw_fd() } else { -1 } };
            // SAFETY: the kernel reads one vhost_vring_file.
            let done = unsafe { ioctl_with_ref(&self.device, VHOST_NET_SET_BACKEND(), &backend) };
            if done < 0 {
                let error = Error::IoctlError(io::Error::last_os_error());
                return Err(VhostError::Call("VHOST_NET_SET_BACKEND", error));
            }
            // Also if only one of the two is.
            self.attached = true;
        }
        self.attached = attached;
        Ok(())
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        let stopped = self.set_attached(false);
        // Ends the kernel's thread, and forgets all of the above. Fails only if another process is the owner.
        let freed = self.device.reset_owner().map_err(call("VHOST_RESET_OWNER"));
        if let Err(error) = stopped.and(freed) {
            eprintln!("vhost-net: {error}");
        }
    }
}
