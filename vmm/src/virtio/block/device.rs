//! The block device: features, configuration space, starting and stopping its queue threads.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::virtio_blk as vb;
use vmm_sys_util::eventfd::EventFd;

use super::request::{MAX_RANGES, Serial};
use super::worker::{Disk, QueueWorker};
use crate::config::{BlockSize, ErrorPolicy, RateLimit};
use crate::disk::{Image, SECTOR};
use crate::rate_limiter::RateLimiter;
use crate::virtio::device::{ActivateError, Activation, DeviceId, VirtioDevice, read_bytes};
use crate::virtio::throttle::Throttle;
use crate::virtio::virtqueue::{KICKED, Virtqueue};
use crate::worker::Worker;

/// Requests that may be under way in each queue.
const QUEUE_SIZE: u16 = 256;
/// Data segments of one request; with header and status they fit an indirect table as long as the queue.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Sectors of one range of discard or write-zeroes: 1 GiB, so that a request doesn't block the queue for long.
const MAX_RANGE_SECTORS: u32 = 1 << 21;
/// A host page: what holes are punched in.
const DISCARD_ALIGNMENT: u32 = 8;
/// Bytes of the configuration space that the features offered here have.
const CONFIG_SIZE: usize = 60;
/// Where the driver reads and sets whether writes are cached.
const WRITEBACK: usize = 32;

/// How a disk is offered.
#[derive(Debug, Clone, Copy)]
pub struct Traits {
    /// What the guest reads as its serial.
    pub serial: Serial,
    /// Queues, at least one; each is served by a thread of its own.
    pub queues: u16,
    /// Writes stay in the host's cache until a flush, unless the driver wants it otherwise.
    pub writeback: bool,
    /// The units that the disk says it is read and written in.
    pub block_size: BlockSize,
    /// What becomes of requests that fail.
    pub on_error: ErrorPolicy,
    /// Its queues take rings, as far as there are any.
    pub ring: bool,
    /// What all queues together may do.
    pub limit: RateLimit,
}

impl Default for Traits {
    fn default() -> Self {
        let (block_size, on_error) = (BlockSize::default(), ErrorPolicy::Report);
        let limit = RateLimit::default();
        Self { serial: Serial::default(), queues: 1, writeback: true, block_size, on_error, ring: true, limit }
    }
}

/// A disk. See the module.
#[derive(Debug)]
pub struct Block {
    disk: Arc<Disk>,
    config: [u8; CONFIG_SIZE],
    queue_sizes: Vec<u16>,
    /// What `writeback` is when the device comes out of a reset.
    writeback: bool,
    limiter: Option<Arc<RateLimiter>>,
    workers: Vec<Worker>,
    kicks: Vec<EventFd>,
}

impl Block {
    /// A disk on `image`; `name` is for messages and thread names.
    pub fn new(name: String, image: Arc<dyn Image>, traits: Traits) -> Self {
        let Traits { serial, queues, writeback, block_size, on_error, ring, limit } = traits;
        let config = configuration(&*image, queues, block_size);
        let (cached, held) = (AtomicBool::new(writeback), AtomicBool::new(false));
        let disk = Arc::new(Disk { name, image, serial, on_error, ring, writeback: cached, held });
        let queue_sizes = vec![QUEUE_SIZE; usize::from(queues)];
        let limiter = RateLimiter::new(limit).map(Arc::new);
        Self { disk, config, queue_sizes, writeback, limiter, workers: Vec::new(), kicks: Vec::new() }
    }
}

/// `struct virtio_blk_config` (virtio 1.3 §5.2.4), but for its `writeback`.
fn configuration(image: &dyn Image, queues: u16, block_size: BlockSize) -> [u8; CONFIG_SIZE] {
    let mut config = [0; CONFIG_SIZE];
    let mut put = |offset: usize, bytes: &[u8]| config[offset..offset + bytes.len()].copy_from_slice(bytes);
    let ranges = u32::try_from(MAX_RANGES).unwrap_or(1);
    let BlockSize { logical, physical } = block_size;
    put(0, &(image.size() / SECTOR).to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &logical.to_le_bytes());
    // The topology: a physical block is so many logical ones (as a power of two), and the least that is written well.
    put(24, &[u8::try_from((physical / logical).trailing_zeros()).unwrap_or(0)]);
    put(26, &u16::try_from(physical / logical).unwrap_or(u16::MAX).to_le_bytes());
    put(34, &queues.to_le_bytes());
    put(36, &MAX_RANGE_SECTORS.to_le_bytes());
    put(40, &ranges.to_le_bytes());
    put(44, &DISCARD_ALIGNMENT.max(logical / 512).to_le_bytes());
    put(48, &MAX_RANGE_SECTORS.to_le_bytes());
    put(52, &ranges.to_le_bytes());
    put(56, &[1]); // write_zeroes_may_unmap
    config
}

impl VirtioDevice for Block {
    fn id(&self) -> DeviceId {
        DeviceId::Block
    }

    fn features(&self) -> u64 {
        let always = 1 << vb::VIRTIO_BLK_F_SEG_MAX
            | 1 << vb::VIRTIO_BLK_F_BLK_SIZE
            | 1 << vb::VIRTIO_BLK_F_TOPOLOGY
            | 1 << vb::VIRTIO_BLK_F_FLUSH
            | 1 << vb::VIRTIO_BLK_F_CONFIG_WCE
            | 1 << vb::VIRTIO_BLK_F_MQ;
        let writable = 1 << vb::VIRTIO_BLK_F_DISCARD | 1 << vb::VIRTIO_BLK_F_WRITE_ZEROES;
        always | if self.disk.image.readonly() { 1 << vb::VIRTIO_BLK_F_RO } else { writable }
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = self.config;
        config[WRITEBACK] = self.disk.writeback.load(Ordering::Acquire).into();
        read_bytes(&config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        // Of the cache alone the driver has a say (virtio 1.3 §5.2.5.2); what it loses by that is its own.
        if let ([value @ (0 | 1)], true) = (data, offset == WRITEBACK as u64) {
            self.disk.writeback.store(*value == 1, Ordering::Release);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { ram, features, queues, notify, pauses, .. } = activation;
        if queues.is_empty() {
            return Err(ActivateError::MissingQueue(0));
        }
        let flushes = features & 1 << vb::VIRTIO_BLK_F_FLUSH != 0;
        for queue in queues {
            let name = format!("blk{} {}", queue.index, self.disk.name);
            let queue = Virtqueue::new(queue, Arc::clone(&notify));
            let host = |what| move |source| ActivateError::Host { what, source };
            self.kicks.push(queue.kick().try_clone().map_err(host("dup of a block queue's kick"))?);
            let kick = queue.kick().as_raw_fd();
            let throttle = Throttle::new(self.limiter.as_ref(), queue.kick());
            let throttle = throttle.map_err(host("dup of a block queue's kick"))?;
            let disk = Arc::clone(&self.disk);
            let mut worker = QueueWorker::new(ram.clone(), queue, disk, flushes, throttle, pauses.clone());
            let thread = Worker::spawn(&name, move |events| {
                events.add(kick, KICKED, move |events, _| worker.kicked(events)).map(|_| ())
            });
            self.workers.push(thread.map_err(host("block queue thread"))?);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.disk.writeback.store(self.writeback, Ordering::Release);
        self.disk.held.store(false, Ordering::Release);
        self.kicks.clear();
        if self.workers.is_empty() {
            return;
        }
        self.workers.clear();
        // What the guest wrote and never flushed is still what it wrote: whoever opens the image next shall find it.
        let _hold = self.disk.image.hold();
        if !self.disk.image.readonly()
            && let Err(error) = self.disk.image.flush()
        {
            eprintln!("disk {:?}: last flush: {error}", self.disk.name);
        }
    }

    fn pause(&mut self) {
        self.workers.iter_mut().for_each(Worker::pause);
    }

    fn resume(&mut self) {
        // What failed is tried again.
        if self.disk.held.swap(false, Ordering::AcqRel) {
            for kick in &self.kicks {
                // Fails only when the counter is full, and then the queue is awake anyway.
                let _ = kick.write(1);
            }
        }
        self.workers.iter_mut().for_each(Worker::resume);
    }
}
