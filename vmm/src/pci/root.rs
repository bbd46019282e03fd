//! Bus 0: which function sits in which slot, and where their BARs go.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use kvm_ioctls::VmFd;

use super::config_access::ecam_device;
use super::host_bridge::HostBridge;
use super::{Error, PciFunction, SLOTS};
use crate::bus::Bus;
use crate::event_loop;
use crate::interrupts::Interrupts;
use crate::memory::GuestRam;
use crate::memory::layout::{ECAM_SIZE, PCI_FIRST_BAR};
use crate::pausing::PauseRequests;
use crate::virtio::device::VirtioDevice;
use crate::virtio::transport::{BAR_SIZE, VirtioPci};

/// What PCI devices stand on.
pub struct PciContext {
    /// The VM, for ioeventfds.
    pub vm: Arc<VmFd>,
    /// Its interrupt routes, for MSI-X.
    pub interrupts: Interrupts,
    /// The memory-mapped I/O space that BARs are decoded in.
    pub mmio: Arc<Bus>,
    /// The machine's event thread: devices are activated and reset there.
    pub events: event_loop::Handle,
    /// Where devices ask for a pause of the machine.
    pub pauses: PauseRequests,
    /// Guest memory.
    pub ram: GuestRam,
    /// The window below 4 GiB that BARs are placed in.
    pub mmio32: Range<u64>,
    /// The window above RAM that the guest may move BARs to.
    pub mmio64: Range<u64>,
}

impl fmt::Debug for PciContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciContext").field("mmio32", &self.mmio32).field("mmio64", &self.mmio64).finish_non_exhaustive()
    }
}

/// What plugged functions keep of the context. The bus is held weakly: it holds them.
pub struct Host {
    /// The VM, for ioeventfds.
    pub vm: Arc<VmFd>,
    /// Its interrupt routes.
    pub interrupts: Interrupts,
    /// The machine's event thread.
    pub events: event_loop::Handle,
    /// Where devices ask for a pause.
    pub pauses: PauseRequests,
    /// Guest memory.
    pub ram: GuestRam,
    mmio: Weak<Bus>,
    windows: [Range<u64>; 2],
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("windows", &self.windows).finish_non_exhaustive()
    }
}

impl Host {
    /// The bus that BARs are decoded on, while the machine lives.
    pub fn mmio(&self) -> Option<Arc<Bus>> {
        self.mmio.upgrade()
    }

    /// Whether a BAR may lie at `address`: anywhere else it would shadow what isn't PCI's.
    pub fn in_window(&self, address: u64, size: u64) -> bool {
        let Some(end) = address.checked_add(size) else { return false };
        self.windows.iter().any(|w| w.start <= address && end <= w.end)
    }
}

/// The bus. See the module.
pub struct PciRoot {
    this: Weak<Self>,
    host: Arc<Host>,
    bridge: Arc<HostBridge>,
    slots: RwLock<[Option<Arc<dyn PciFunction>>; SLOTS]>,
    /// First address of the 32-bit window that no BAR has yet.
    free: Mutex<u64>,
    /// Where the enhanced configuration space is decoded now.
    ecam: Mutex<Option<u64>>,
}

impl fmt::Debug for PciRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciRoot").field("host", &self.host).field("ecam", &self.ecam).finish_non_exhaustive()
    }
}

impl PciRoot {
    /// A bus with nothing but its host bridge.
    pub fn new(context: PciContext, bridge: HostBridge) -> Arc<Self> {
        let PciContext { vm, interrupts, mmio, events, pauses, ram, mmio32, mmio64 } = context;
        let free = Mutex::new(PCI_FIRST_BAR.clamp(mmio32.start, mmio32.end));
        let windows = [mmio32, mmio64];
        let bridge = Arc::new(bridge);
        let mut slots = [const { None }; SLOTS];
        slots[0] = Some(Arc::clone(&bridge) as Arc<dyn PciFunction>);
        let host = Arc::new(Host { vm, interrupts, events, pauses, ram, mmio: Arc::downgrade(&mmio), windows });
        let root = Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            host,
            bridge,
            slots: RwLock::new(slots),
            free,
            ecam: Mutex::default(),
        });
        root.follow_bridge();
        root
    }

    /// Puts a function of the board into a slot of its own, which must be free.
    pub fn add_board(&self, slot: usize, function: Arc<dyn PciFunction>) -> Result<(), Error> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let free = slots.get_mut(slot).filter(|slot| slot.is_none()).ok_or(Error::NoSlot)?;
        *free = Some(function);
        Ok(())
    }

    /// Plugs a virtio device into the next free slot, which is returned, and gives its BAR an address. It is decoded once the
    /// guest sets memory enable in its command register.
    pub fn add_virtio(self: &Arc<Self>, device: Box<dyn VirtioDevice>) -> Result<u8, Error> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.iter().position(Option::is_none).ok_or(Error::NoSlot)?;
        let address = self.place(BAR_SIZE)?;
        slots[slot] = Some(VirtioPci::new(device, Arc::clone(&self.host), address)?);
        u8::try_from(slot).map_err(|_| Error::NoSlot)
    }

    /// Where the enhanced configuration space is decoded, if firmware has not switched it off.
    pub fn ecam(&self) -> Option<u64> {
        *self.ecam.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decodes the enhanced configuration space where the host bridge says.
    pub(super) fn follow_bridge(&self) {
        let mut ecam = self.ecam.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = self.bridge.ecam();
        let (Some(mmio), Some(this)) = (self.host.mmio(), self.this.upgrade()) else { return };
        if wanted == *ecam {
            return;
        }
        if let Some(address) = ecam.take() {
            mmio.remove(address);
        }
        // Over something else it is not decoded.
        *ecam = wanted.filter(|address| mmio.insert(*address, ECAM_SIZE, ecam_device(this)).is_ok());
    }

    /// Stops all devices; when it returns none of them touches guest memory. Not to be called from a device's thread.
    pub fn reset(&self) {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner).clone();
        for function in slots.iter().flatten() {
            function.stop();
        }
    }

    /// Pauses all devices; when it returns none of them touches guest memory or has I/O under way. No vCPU may run, and it is
    /// not to be called from a device's thread.
    pub fn pause(&self) {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner).clone();
        for function in slots.iter().flatten() {
            function.pause();
        }
    }

    /// Lets all devices go on.
    pub fn resume(&self) {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner).clone();
        for function in slots.iter().flatten() {
            function.resume();
        }
    }

    /// The function in `slot`.
    pub(super) fn function(&self, slot: usize) -> Option<Arc<dyn PciFunction>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(slot)?.clone()
    }

    /// Takes `size` bytes (a power of two) of the 32-bit window, aligned to their size.
    fn place(&self, size: u64) -> Result<u64, Error> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let address = free.next_multiple_of(size);
        if !self.host.in_window(address, size) {
            return Err(Error::NoSpace(size));
        }
        *free = address + size;
        Ok(address)
    }
}
