//! From the device to its driver: interrupts, the interrupt status, the configuration's generation, NEEDS_RESET.
//!
//! Device threads call it, vCPU threads read it; all of it is atomics.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};

use vmm_sys_util::eventfd::EventFd;

use crate::pci::msix::Msix;
use crate::virtio::device::Notify;

/// VIRTIO_MSI_NO_VECTOR.
pub const NO_VECTOR: u16 = 0xFFFF;
/// Interrupt status bits (virtio 1.3 §4.1.4.5).
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// See the module.
#[derive(Debug)]
pub struct Signals {
    msix: Msix,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
    isr: AtomicU8,
    generation: AtomicU8,
    needs_reset: AtomicBool,
}

impl Signals {
    /// For a device with `queues` queues.
    pub fn new(msix: Msix, queues: usize) -> Self {
        Self {
            msix,
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            isr: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            needs_reset: AtomicBool::new(false),
        }
    }

    /// The function's MSI-X vectors.
    pub fn msix(&self) -> &Msix {
        &self.msix
    }

    /// Back to the state after a device reset. The generation goes on counting.
    pub fn reset(&self) {
        self.config_vector.store(NO_VECTOR, Ordering::Release);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, Ordering::Release);
        }
        self.isr.store(0, Ordering::Release);
        self.needs_reset.store(false, Ordering::Release);
    }

    /// Reads the interrupt status, which clears it.
    pub fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::AcqRel)
    }

    /// The configuration's generation.
    pub fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether the device has failed since the last reset.
    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    /// The vector of configuration changes.
    pub fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::Acquire)
    }

    /// Sets it; one that doesn't exist becomes [`NO_VECTOR`], by which the driver sees the refusal.
    pub fn set_config_vector(&self, vector: u16) {
        self.config_vector.store(self.known(vector), Ordering::Release);
    }

    /// The vector of queue `index`.
    pub fn queue_vector(&self, index: u16) -> u16 {
        self.queue_vectors.get(usize::from(index)).map_or(NO_VECTOR, |v| v.load(Ordering::Acquire))
    }

    /// Sets it, as [`Signals::set_config_vector`].
    pub fn set_queue_vector(&self, index: u16, vector: u16) {
        if let Some(slot) = self.queue_vectors.get(usize::from(index)) {
            slot.store(self.known(vector), Ordering::Release);
        }
    }

    fn known(&self, vector: u16) -> u16 {
        if vector < self.msix.len() { vector } else { NO_VECTOR }
    }

    fn raise(&self, vector: u16, isr: u8) {
        // With MSI-X off there is no line either: a driver that polls finds the cause in the status.
        if !self.msix.raise(vector) {
            self.isr.fetch_or(isr, Ordering::AcqRel);
        }
    }
}

impl Notify for Signals {
    fn queue(&self, index: u16) {
        self.raise(self.queue_vector(index), ISR_QUEUE);
    }

    fn direct(&self, index: u16) -> Option<EventFd> {
        self.msix.event(self.queue_vector(index))
    }

    fn config(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.raise(self.config_vector(), ISR_CONFIG);
    }

    fn failed(&self) {
        if !self.needs_reset.swap(true, Ordering::AcqRel) {
            self.raise(self.config_vector(), ISR_CONFIG);
        }
    }
}
