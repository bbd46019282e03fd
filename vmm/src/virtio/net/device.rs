//! The network device: features, configuration space, starting and stopping its two threads.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use virtio_bindings::virtio_net as vn;

use super::receive::{Mode, Receive};
use super::tap::Tap;
use super::transmit::Transmit;
use super::{ETHERNET, HEADER, MAX_PACKET};
use crate::virtio::device::{ActivateError, Activation, ActiveQueue, DeviceId, VirtioDevice, read_bytes};
use crate::virtio::virtqueue::{KICKED, Virtqueue};
use crate::worker::Worker;

/// Packets that may be queued each way.
const QUEUE_SIZES: [u16; 2] = [256, 256];
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Payload of an Ethernet frame where nobody says otherwise, bytes.
const DEFAULT_MTU: u16 = 1500;
/// Bytes of the configuration space up to and with `mtu` (virtio 1.3 §5.1.4).
const CONFIG_SIZE: usize = 12;

/// A network card. See the module.
#[derive(Debug)]
pub struct Net {
    name: String,
    tap: Arc<Tap>,
    mtu: Option<u16>,
    config: [u8; CONFIG_SIZE],
    workers: Vec<Worker>,
}

impl Net {
    /// A card on `tap` (attached with `IFF_NO_PI | IFF_VNET_HDR`); `name` is for messages and thread names.
    pub fn new(name: String, tap: File, mac: [u8; 6], mtu: Option<u16>) -> io::Result<Self> {
        Ok(Self::on(name, Tap::new(tap)?, mac, mtu))
    }

    pub(super) fn on(name: String, tap: Tap, mac: [u8; 6], mtu: Option<u16>) -> Self {
        let mut config = [0; CONFIG_SIZE];
        config[..6].copy_from_slice(&mac);
        config[8..10].copy_from_slice(&1_u16.to_le_bytes()); // max_virtqueue_pairs
        config[10..].copy_from_slice(&mtu.unwrap_or(0).to_le_bytes());
        Self { name, tap: Arc::new(tap), mtu, config, workers: Vec::new() }
    }

    fn mode(&self, features: u64) -> Mode {
        let segmented = 1 << vn::VIRTIO_NET_F_GUEST_TSO4 | 1 << vn::VIRTIO_NET_F_GUEST_TSO6;
        let frame = HEADER + ETHERNET + usize::from(self.mtu.unwrap_or(DEFAULT_MTU));
        Mode {
            mergeable: features & 1 << vn::VIRTIO_NET_F_MRG_RXBUF != 0,
            largest: if features & segmented != 0 { MAX_PACKET } else { frame },
        }
    }

    pub(super) fn start(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { ram, features, queues, notify, .. } = activation;
        let mut queues = queues.into_iter();
        let mut take = |index: u16| {
            let queue = queues.next().filter(|q: &ActiveQueue| q.index == index);
            Ok(Virtqueue::new(queue.ok_or(ActivateError::MissingQueue(index))?, Arc::clone(&notify)))
        };
        let (receive, transmit) = (take(RECEIVE)?, take(TRANSMIT)?);
        let host = |source| ActivateError::Host { what: "network queue thread", source };
        let receive = Receive::new(Arc::clone(&ram), receive, Arc::clone(&self.tap), self.mode(features));
        let name = format!("rx {}", self.name);
        self.workers.push(Worker::spawn(&name, |events| receive.register(events)).map_err(host)?);
        let kick = transmit.kick().as_raw_fd();
        let mut transmit = Transmit::new(ram, transmit, Arc::clone(&self.tap));
        let register = move |events: &mut crate::event_loop::EventLoop| {
            events.add(kick, KICKED, move |_, _| transmit.kicked()).map(|_| ())
        };
        self.workers.push(Worker::spawn(&format!("tx {}", self.name), register).map_err(host)?);
        Ok(())
    }
}

impl VirtioDevice for Net {
    fn id(&self) -> DeviceId {
        DeviceId::Net
    }

    fn features(&self) -> u64 {
        let bits = [
            vn::VIRTIO_NET_F_CSUM,
            vn::VIRTIO_NET_F_GUEST_CSUM,
            vn::VIRTIO_NET_F_MAC,
            vn::VIRTIO_NET_F_GUEST_TSO4,
            vn::VIRTIO_NET_F_GUEST_TSO6,
            vn::VIRTIO_NET_F_GUEST_ECN,
            vn::VIRTIO_NET_F_HOST_TSO4,
            vn::VIRTIO_NET_F_HOST_TSO6,
            vn::VIRTIO_NET_F_HOST_ECN,
            vn::VIRTIO_NET_F_MRG_RXBUF,
        ];
        let mtu = if self.mtu.is_some() { 1 << vn::VIRTIO_NET_F_MTU } else { 0 };
        bits.iter().fold(mtu, |features, bit| features | 1 << bit)
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let offloads = self.tap.set_offloads(activation.features);
        offloads.map_err(|source| ActivateError::Host { what: "tap offloads", source })?;
        self.start(activation)
    }

    fn reset(&mut self) {
        self.workers.clear();
    }

    fn pause(&mut self) {
        self.workers.iter_mut().for_each(Worker::pause);
    }

    fn resume(&mut self) {
        self.workers.iter_mut().for_each(Worker::resume);
    }
}
