//! PCI bus 0: configuration space, its two access mechanisms, MSI-X, and the root that devices are plugged into.
//!
//! Every function sits at function 0 of its own slot. Slot 0 is the host bridge; with firmware slot 31 is the bridge to the
//! board's old devices. Base address registers (BARs) get their addresses when a device is plugged in, so a kernel booted
//! without firmware finds a working bus; the guest may move them inside the windows that the machine gives to PCI.

pub mod config_access;
pub mod config_space;
pub mod host_bridge;
pub mod isa_bridge;
pub mod msix;
pub mod root;

pub use root::{PciContext, PciRoot};

/// Slots of a bus (PCI 3.0 §3.2.2.3.2: five bits).
pub const SLOTS: usize = 32;

/// Why a device could not be plugged in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus is full.
    #[error("all {SLOTS} PCI slots are in use; give the machine fewer devices")]
    NoSlot,
    /// The window that BARs are placed in is full.
    #[error("the 32-bit PCI window has no room for {0:#x} more bytes")]
    NoSpace(u64),
    /// Its interrupts could not be set up.
    #[error("PCI device's interrupts")]
    Interrupts(#[from] crate::interrupts::Error),
    /// The host refused a descriptor.
    #[error("PCI device's eventfd")]
    EventFd(#[source] std::io::Error),
    /// The device asks for queues that virtio can't express.
    #[error("queue size {0}: not a power of two up to 32768")]
    QueueSize(u16),
    /// The device asks for more queues than its notification page holds.
    #[error("{0} queues: more than a device can have")]
    TooManyQueues(usize),
}

/// One PCI function as the configuration mechanisms see it.
///
/// Called from any vCPU thread, several at once. An access never crosses a 4-byte boundary and `offset` is below 256;
/// what lies beyond (the extended space of PCI Express) reads as zero, which means "no extended capabilities".
pub trait PciFunction: Send + Sync {
    /// Fills `data` (1, 2 or 4 bytes).
    fn read_config(&self, offset: u8, data: &mut [u8]);
    /// Takes `data` (1, 2 or 4 bytes).
    fn write_config(&self, offset: u8, data: &[u8]);
    /// Stops all that the function does on its own; the machine is going away.
    fn stop(&self) {}
    /// Pauses what the function does on its own; see [`PciRoot::pause`].
    fn pause(&self) {}
    /// Undoes [`PciFunction::pause`].
    fn resume(&self) {}
}
