//! The network device: features, configuration space, starting and stopping its queues.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_net as vn;

use super::control::Control;
use super::link::{Link, Watcher};
use super::pairs::{Common, Pairs, Ring};
use super::receive::Mode;
use super::tap::Tap;
use super::{ETHERNET, HEADER, MAX_PACKET};
use crate::config::RateLimit;
use crate::rate_limiter::RateLimiter;
use crate::virtio::device::{ActivateError, Activation, DeviceId, VirtioDevice, read_bytes};
use crate::virtio::served::Served;
use crate::virtio::virtqueue::Virtqueue;

/// Packets that may be queued each way, and commands.
const QUEUE_SIZE: u16 = 256;
const CONTROL_SIZE: u16 = 16;
/// Payload of an Ethernet frame where nobody says otherwise, bytes.
const DEFAULT_MTU: u16 = 1500;
/// Bytes of the configuration space up to and with `mtu`, and where `status` is (virtio 1.3 §5.1.4).
const CONFIG_SIZE: usize = 12;
const STATUS: usize = 6;
/// Offloads that a driver may switch while it runs.
const SWITCHABLE: [u32; 4] =
    [vn::VIRTIO_NET_F_GUEST_CSUM, vn::VIRTIO_NET_F_GUEST_TSO4, vn::VIRTIO_NET_F_GUEST_TSO6, vn::VIRTIO_NET_F_GUEST_ECN];

/// What a card may do, all its queues together.
#[derive(Debug, Clone, Default)]
pub struct Limiters {
    /// Towards the guest.
    pub receive: Option<Arc<RateLimiter>>,
    /// From the guest.
    pub transmit: Option<Arc<RateLimiter>>,
}

impl Limiters {
    /// A limiter each way, where there is a limit.
    pub fn new(receive: RateLimit, transmit: RateLimit) -> Self {
        let limiter = |limit| RateLimiter::new(limit).map(Arc::new);
        Self { receive: limiter(receive), transmit: limiter(transmit) }
    }
}

/// A network card. See the module.
#[derive(Debug)]
pub struct Net {
    name: String,
    /// The tap's queues; one for each pair.
    taps: Vec<Arc<Tap>>,
    /// The kernel's part, one for each pair or none.
    vhosts: Vec<Arc<File>>,
    mtu: Option<u16>,
    link: Link,
    limiters: Limiters,
    config: [u8; CONFIG_SIZE],
    queue_sizes: Vec<u16>,
    active: Option<Active>,
}

/// A card in use.
#[derive(Debug)]
struct Active {
    pairs: Arc<Mutex<Pairs>>,
    control: Option<Served<Control>>,
}

impl Active {
    fn pairs(&self) -> MutexGuard<'_, Pairs> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Net {
    /// A card on the queues of one tap (attached with `IFF_NO_PI | IFF_VNET_HDR`, several with `IFF_MULTI_QUEUE`; at least one);
    /// `name` is for messages and thread names. Packets pass while `link` is up.
    pub fn new(name: String, taps: Vec<File>, mac: [u8; 6], mtu: Option<u16>, link: Link) -> io::Result<Self> {
        let taps = taps.into_iter().map(Tap::new).collect::<io::Result<_>>()?;
        Ok(Self::on(name, taps, mac, mtu, link))
    }

    /// Has the host's kernel serve its pairs: `vhosts` are open `/dev/vhost-net`, one for each. It knows of no limits.
    pub fn accelerate(&mut self, vhosts: Vec<File>) {
        self.vhosts = vhosts.into_iter().map(Arc::new).collect();
    }

    /// Bounds what passes from now on.
    pub fn limit(&mut self, limiters: Limiters) {
        self.limiters = limiters;
    }

    pub(super) fn on(name: String, taps: Vec<Tap>, mac: [u8; 6], mtu: Option<u16>, link: Link) -> Self {
        let pairs = u16::try_from(taps.len()).unwrap_or(u16::MAX);
        let mut config = [0; CONFIG_SIZE];
        config[..6].copy_from_slice(&mac);
        config[8..10].copy_from_slice(&pairs.to_le_bytes()); // max_virtqueue_pairs
        config[10..].copy_from_slice(&mtu.unwrap_or(0).to_le_bytes());
        let mut queue_sizes = vec![QUEUE_SIZE; 2 * taps.len()];
        queue_sizes.push(CONTROL_SIZE);
        Self {
            name,
            taps: taps.into_iter().map(Arc::new).collect(),
            vhosts: Vec::new(),
            mtu,
            link,
            limiters: Limiters::default(),
            config,
            queue_sizes,
            active: None,
        }
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
        let Activation { ram, features, mut queues, notify, events, .. } = activation;
        if let Some(missing) = (0..2).find(|index| !queues.iter().any(|queue| queue.index == *index)) {
            return Err(ActivateError::MissingQueue(missing));
        }
        let mut take = |index: usize| {
            let at = queues.iter().position(|queue| usize::from(queue.index) == index)?;
            Some(queues.swap_remove(at))
        };
        // A driver that knows of one pair only has its control queue right after it (virtio 1.3 §5.1.2).
        let most = if features & 1 << vn::VIRTIO_NET_F_MQ != 0 { self.taps.len() } else { 1 };
        let both = |pair: usize| Some([take(2 * pair)?, take(2 * pair + 1)?].map(Ring::new));
        let rings: Vec<_> = (0..most).map(both).collect();
        let control = take(2 * most).filter(|_| features & 1 << vn::VIRTIO_NET_F_CTRL_VQ != 0);
        let common = Common {
            name: self.name.clone(),
            ram: ram.clone(),
            mode: self.mode(features),
            link: self.link.clone(),
            limiters: self.limiters.clone(),
            features,
            notify: Arc::clone(&notify),
            events: events.clone(),
        };
        let mut pairs = Pairs::new(common, &self.taps, &self.vhosts, rings);
        pairs.serve(1)?;
        let pairs = Arc::new(Mutex::new(pairs));
        let watching = Arc::downgrade(&pairs);
        let control = control.map(|queue| {
            let queue = Virtqueue::new(queue, Arc::clone(&notify));
            let kick = queue.kick().try_clone()?;
            let offloads = SWITCHABLE.iter().fold(0, |bits, bit| bits | 1 << bit) & features;
            let most = u16::try_from(most).unwrap_or(u16::MAX);
            let (pairs, tap) = (Arc::clone(&pairs), Arc::clone(&self.taps[0]));
            let control = Control { ram, queue, pairs, tap, offloads, most, broken: false };
            Served::new(&events, control, &[&kick], |control, _| control.kicked())
        });
        let host = |source| ActivateError::Host { what: "control queue's eventfd", source };
        self.active = Some(Active { pairs, control: control.transpose().map_err(host)? });
        self.link.watch(Some(Watcher { driver: notify, pairs: watching }));
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
            vn::VIRTIO_NET_F_STATUS,
            vn::VIRTIO_NET_F_CTRL_VQ,
            vn::VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
        ];
        let mtu = if self.mtu.is_some() { 1 << vn::VIRTIO_NET_F_MTU } else { 0 };
        let several = if self.taps.len() > 1 { 1 << vn::VIRTIO_NET_F_MQ } else { 0 };
        bits.iter().fold(mtu | several, |features, bit| features | 1 << bit)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = self.config;
        config[STATUS] = u8::from(self.link.is_up());
        read_bytes(&config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let offloads = self.taps[0].set_offloads(activation.features);
        offloads.map_err(|source| ActivateError::Host { what: "tap offloads", source })?;
        self.start(activation)
    }

    fn reset(&mut self) {
        self.link.watch(None);
        self.active = None;
    }

    fn pause(&mut self) {
        if let Some(active) = &self.active {
            active.control.iter().for_each(|control| control.set_paused(true));
            active.pairs().pause();
        }
    }

    fn rewire(&mut self) {
        if let Some(active) = &self.active {
            active.pairs().rewire();
        }
    }

    fn resume(&mut self) {
        if let Some(active) = &self.active {
            active.pairs().resume();
            active.control.iter().for_each(|control| control.set_paused(false));
        }
    }
}
