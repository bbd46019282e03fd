//! The block device: features, configuration space, starting and stopping its queue threads.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use virtio_bindings::virtio_blk as vb;

use super::request::{MAX_RANGES, Serial};
use super::worker::QueueWorker;
use crate::disk::{Image, SECTOR};
use crate::virtio::device::{ActivateError, Activation, DeviceId, VirtioDevice, read_bytes};
use crate::virtio::virtqueue::{KICKED, Virtqueue};
use crate::worker::Worker;

/// Requests that may be under way.
const QUEUE_SIZE: u16 = 256;
/// Data segments of one request; with header and status they fit an indirect table as long as the queue.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Sectors of one range of discard or write-zeroes: 1 GiB, so that a request doesn't block the queue for long.
const MAX_RANGE_SECTORS: u32 = 1 << 21;
/// A host page: what holes are punched in.
const DISCARD_ALIGNMENT: u32 = 8;
/// Bytes of the configuration space that the features offered here have.
const CONFIG_SIZE: usize = 60;

/// A disk. See the module.
#[derive(Debug)]
pub struct Block {
    name: String,
    image: Arc<dyn Image>,
    serial: Serial,
    config: [u8; CONFIG_SIZE],
    workers: Vec<Worker>,
}

impl Block {
    /// A disk on `image`; `name` is for messages and thread names.
    pub fn new(name: String, image: Arc<dyn Image>, serial: Option<Serial>) -> Self {
        let config = configuration(&*image);
        Self { name, image, serial: serial.unwrap_or_default(), config, workers: Vec::new() }
    }
}

/// `struct virtio_blk_config` (virtio 1.3 §5.2.4).
fn configuration(image: &dyn Image) -> [u8; CONFIG_SIZE] {
    let mut config = [0; CONFIG_SIZE];
    let mut put = |offset: usize, bytes: &[u8]| config[offset..offset + bytes.len()].copy_from_slice(bytes);
    let ranges = u32::try_from(MAX_RANGES).unwrap_or(1);
    put(0, &(image.size() / SECTOR).to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &512_u32.to_le_bytes()); // blk_size
    put(34, &1_u16.to_le_bytes()); // num_queues
    put(36, &MAX_RANGE_SECTORS.to_le_bytes());
    put(40, &ranges.to_le_bytes());
    put(44, &DISCARD_ALIGNMENT.to_le_bytes());
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
        let always = 1 << vb::VIRTIO_BLK_F_SEG_MAX | 1 << vb::VIRTIO_BLK_F_BLK_SIZE | 1 << vb::VIRTIO_BLK_F_FLUSH;
        let writable = 1 << vb::VIRTIO_BLK_F_DISCARD | 1 << vb::VIRTIO_BLK_F_WRITE_ZEROES;
        always | if self.image.readonly() { 1 << vb::VIRTIO_BLK_F_RO } else { writable }
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { ram, features, queues, notify, .. } = activation;
        if queues.is_empty() {
            return Err(ActivateError::MissingQueue(0));
        }
        // A driver that can't flush takes each write for durable (virtio 1.3 §5.2.6.2).
        let writethrough = features & 1 << vb::VIRTIO_BLK_F_FLUSH == 0;
        for queue in queues {
            let name = format!("blk{} {}", queue.index, self.name);
            let queue = Virtqueue::new(queue, Arc::clone(&notify));
            let kick = queue.kick().as_raw_fd();
            let image = Arc::clone(&self.image);
            let mut worker = QueueWorker::new(ram.clone(), queue, image, self.serial, writethrough);
            let thread =
                Worker::spawn(&name, move |events| events.add(kick, KICKED, move |_, _| worker.kicked()).map(|_| ()));
            self.workers.push(thread.map_err(|source| ActivateError::Host { what: "block queue thread", source })?);
        }
        Ok(())
    }

    fn reset(&mut self) {
        if self.workers.is_empty() {
            return;
        }
        self.workers.clear();
        // What the guest wrote and never flushed is still what it wrote: whoever opens the image next shall find it.
        if !self.image.readonly()
            && let Err(error) = self.image.flush()
        {
            eprintln!("disk {:?}: last flush: {error}", self.name);
        }
    }

    fn pause(&mut self) {
        self.workers.iter_mut().for_each(Worker::pause);
    }

    fn resume(&mut self) {
        self.workers.iter_mut().for_each(Worker::resume);
    }
}
