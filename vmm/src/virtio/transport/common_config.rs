//! The common configuration structure (virtio 1.3 §4.1.4.3): features, status and queue set-up.
//!
//! Reading and writing registers is all that happens here. What a write asks for beyond that comes back as a [`Step`].

use std::sync::Arc;

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use super::signals::Signals;
use super::status::{Phase, Status, Step, bit};
use crate::memory::GuestRam;
use crate::virtio::device::Notify;

/// Bytes of the structure, without the fields of features that aren't offered.
pub const SIZE: u64 = 56;
/// Where `queue_msix_vector` is.
pub const QUEUE_VECTOR: u64 = 26;
/// Feature bits of the transport and the rings (virtio 1.3 §6).
pub mod feature {
    /// VIRTIO_F_INDIRECT_DESC.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// VIRTIO_F_EVENT_IDX.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// VIRTIO_F_VERSION_1: without it a driver is not for this transport.
    pub const VERSION_1: u64 = 1 << 32;
    /// All of them.
    pub const OFFERED: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;
}

/// What the driver has written about one queue.
#[derive(Debug, Clone, Copy, Default)]
struct QueueSetup {
    max_size: u16,
    size: u16,
    enabled: bool,
    desc: u64,
    driver: u64,
    device: u64,
}

/// The registers.
#[derive(Debug)]
pub struct CommonConfig {
    ram: GuestRam,
    signals: Arc<Signals>,
    offered: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    status: Status,
    queue_select: u16,
    queues: Vec<QueueSetup>,
}

impl CommonConfig {
    /// For a device that offers `features` and has queues of at most `sizes`.
    pub fn new(features: u64, sizes: &[u16], ram: GuestRam, signals: Arc<Signals>) -> Self {
        let queues = sizes.iter().map(|&size| QueueSetup { max_size: size, size, ..QueueSetup::default() }).collect();
        Self {
            ram,
            signals,
            offered: features | feature::OFFERED,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            status: Status::default(),
            queue_select: 0,
            queues,
        }
    }

    /// How far the driver has come.
    pub fn phase(&self) -> Phase {
        self.status.phase()
    }

    /// The features that both sides agreed on.
    pub fn features(&self) -> u64 {
        self.driver_features
    }

    /// Back to the state after a device reset.
    pub fn reset(&mut self) {
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = 0;
        self.status = Status::default();
        self.queue_select = 0;
        for queue in &mut self.queues {
            *queue = QueueSetup { max_size: queue.max_size, size: queue.max_size, ..QueueSetup::default() };
        }
        self.signals.reset();
    }

    /// The queues that the driver has enabled, ready to run.
    pub fn enabled_queues(&self) -> Vec<(u16, Queue)> {
        let set_up = (0..).zip(&self.queues).filter(|(_, setup)| setup.enabled);
        set_up.filter_map(|(index, setup)| Some((index, self.build(setup)?))).collect()
    }

    /// The rings as set up, if they are aligned and lie in guest memory (virtio 1.3 §2.7).
    fn build(&self, setup: &QueueSetup) -> Option<Queue> {
        let mut queue = Queue::new(setup.max_size).ok()?;
        queue.try_set_size(setup.size).ok()?;
        queue.try_set_desc_table_address(GuestAddress(setup.desc)).ok()?;
        queue.try_set_avail_ring_address(GuestAddress(setup.driver)).ok()?;
        queue.try_set_used_ring_address(GuestAddress(setup.device)).ok()?;
        queue.set_event_idx(self.driver_features & feature::EVENT_IDX != 0);
        queue.set_ready(true);
        (setup.driver != 0 && queue.is_valid(&*self.ram)).then_some(queue)
    }

    fn acceptable(&self) -> bool {
        self.driver_features & feature::VERSION_1 != 0 && self.driver_features & !self.offered == 0
    }

    /// Reads a register; anything but a whole one (or half of an address) reads as zero.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let queue = self.queues.get(usize::from(self.queue_select)).copied().unwrap_or_default();
        let needs_reset = if self.signals.needs_reset() { bit::NEEDS_RESET } else { 0 };
        let value: u64 = match (offset, data.len()) {
            (0, 4) => self.device_feature_select.into(),
            (4, 4) => half(self.offered, self.device_feature_select),
            (8, 4) => self.driver_feature_select.into(),
            (12, 4) => half(self.driver_features, self.driver_feature_select),
            (16, 2) => self.signals.config_vector().into(),
            (18, 2) => self.queues.len() as u64,
            (20, 1) => (self.status.bits() | needs_reset).into(),
            (21, 1) => self.signals.generation().into(),
            // queue_select and queue_notify_off: a queue's place on the notification page is its index.
            (22 | 30, 2) => self.queue_select.into(),
            (24, 2) => queue.size.into(),
            (QUEUE_VECTOR, 2) => self.signals.queue_vector(self.queue_select).into(),
            (28, 2) => queue.enabled.into(),
            (32, 4 | 8) => queue.desc,
            (36, 4) => queue.desc >> 32,
            (40, 4 | 8) => queue.driver,
            (44, 4) => queue.driver >> 32,
            (48, 4 | 8) => queue.device,
            (52, 4) => queue.device >> 32,
            _ => 0,
        };
        data.fill(0);
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
    }

    /// Writes a register. What isn't one, is read-only, or comes at a time when the driver may not write it is ignored.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Step {
        let mut bytes = [0; 8];
        let len = data.len().min(8);
        bytes[..len].copy_from_slice(&data[..len]);
        let value = u64::from_le_bytes(bytes);
        let phase = self.phase();
        if phase == Phase::Stopping {
            return Step::None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "the access has just the width of the register")]
        match (offset, len) {
            (0, 4) => self.device_feature_select = value as u32,
            (8, 4) => self.driver_feature_select = value as u32,
            (12, 4) if phase < Phase::FeaturesOk => {
                set_half(&mut self.driver_features, self.driver_feature_select, value as u32);
            }
            (16, 2) => self.signals.set_config_vector(value as u16),
            (20, 1) => return self.write_status(value as u8),
            (22, 2) => self.queue_select = value as u16,
            (QUEUE_VECTOR, 2) => self.signals.set_queue_vector(self.queue_select, value as u16),
            (24 | 28 | 32..56, _) => self.write_queue(offset, len, value),
            _ => {}
        }
        Step::None
    }

    fn write_status(&mut self, value: u8) -> Step {
        let step = self.status.write(value, self.acceptable());
        if step == Step::Clear {
            self.reset();
        }
        step
    }

    // A queue is fixed once it is enabled (virtio 1.3 §4.1.4.3.2), and no queue is set up before features are.
    fn write_queue(&mut self, offset: u64, len: usize, value: u64) {
        let phase = self.phase();
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else { return };
        if queue.enabled || phase != Phase::FeaturesOk {
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "the access has just the width of the register")]
        let (half, size) = (value as u32, value as u16);
        match (offset, len) {
            (24, 2) if size.is_power_of_two() && size <= queue.max_size => queue.size = size,
            (32, 8) => queue.desc = value,
            (32 | 36, 4) => set_half(&mut queue.desc, u32::from(offset == 36), half),
            (40, 8) => queue.driver = value,
            (40 | 44, 4) => set_half(&mut queue.driver, u32::from(offset == 44), half),
            (48, 8) => queue.device = value,
            (48 | 52, 4) => set_half(&mut queue.device, u32::from(offset == 52), half),
            (28, 2) if value == 1 => {
                let setup = *queue;
                if self.build(&setup).is_some() {
                    self.queues[usize::from(self.queue_select)].enabled = true;
                } else {
                    // Rings outside of RAM: the driver can only start over.
                    self.signals.failed();
                }
            }
            _ => {}
        }
    }
}

/// 32 bits of a 64-bit value; those past it are zero.
fn half(value: u64, select: u32) -> u64 {
    match select {
        0 => value & 0xFFFF_FFFF,
        1 => value >> 32,
        _ => 0,
    }
}

fn set_half(value: &mut u64, select: u32, half: u32) {
    match select {
        0 => *value = *value & !0xFFFF_FFFF | u64::from(half),
        1 => *value = *value & 0xFFFF_FFFF | u64::from(half) << 32,
        _ => {}
    }
}
