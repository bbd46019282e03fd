//! What a machine is made of: the wire form ([`MachineConfig`]) that the shim sends, and what [`check()`] makes of it, a
//! [`MachinePlan`] that can't be wrong.
//!
//! Files are named by [`FdIndex`], their place among the descriptors that came with the message: a config never holds a
//! path, so that nothing in it can reach the host.

mod autoconf;
pub mod check;
pub mod cpu;
mod disks;
mod files;
mod firmware;
pub mod identity;
pub mod plan;
mod rates;

use serde::{Deserialize, Serialize};

pub use autoconf::{AutoconfAnswers, AutoconfConfig, AutoconfPlan, Ipv4Answers, Ipv6Answers, MAX_OPTIONS};
pub use check::{ConfigError, check};
pub use cpu::{CpuConfig, CpuFeature, CpuModel, CpuPlan, FeaturePolicy, Topology, TopologyConfig};
pub use disks::{BlockSize, CacheMode, DiskConfig, DiskPlan, ErrorPolicy, ImageFormat, MAX_QUEUES};
pub use firmware::FirmwareProblem;
pub use identity::{ChassisIdentity, IdentityConfig, SystemIdentity};
pub use plan::{BootPlan, FirmwarePlan, FlashPlan, KernelPlan, MachinePlan, MemoryPlan, NicPlan};
pub use rates::{MAX_RATE, Rate, RateLimit};

/// The place of an open file among the descriptors sent with a config.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FdIndex(pub u16);

/// A machine as asked for, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// For messages only.
    pub name: String,
    /// An open `/dev/kvm`.
    pub kvm: FdIndex,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// What the vCPUs are.
    pub cpu: CpuConfig,
    /// The guest's RAM.
    pub memory: MemoryConfig,
    /// What runs first.
    pub boot: BootConfig,
    /// virtio-blk devices, in PCI order.
    pub disks: Vec<DiskConfig>,
    /// virtio-net devices, in PCI order after the disks.
    pub nics: Vec<NicConfig>,
    /// A virtio-rng device, fed from the host's getrandom.
    pub rng: bool,
    /// A virtio-balloon device; none with huge pages.
    pub balloon: bool,
    /// A virtio-vsock device.
    pub vsock: Option<VsockConfig>,
    /// What the machine calls itself.
    pub identity: IdentityConfig,
    /// Which device the machine's console is.
    pub console: ConsoleKind,
}

/// The guest's RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryConfig {
    /// Size in bytes, a multiple of 1 MiB (of the page size with huge pages).
    pub size: u64,
    /// Back it by huge pages of this size instead of ordinary ones.
    pub hugepages: Option<HugePageSize>,
}

/// Size of a huge page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HugePageSize {
    /// 2 MiB.
    Size2M,
    /// 1 GiB.
    Size1G,
}

impl HugePageSize {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Size2M => 2 << 20,
            Self::Size1G => 1 << 30,
        }
    }
}

/// What the machine boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootConfig {
    /// A kernel without firmware: a bzImage, or an ELF with a PVH entry.
    Kernel {
        /// The kernel image.
        kernel: FdIndex,
        /// The initial RAM file system.
        initrd: Option<FdIndex>,
        /// The kernel's command line.
        cmdline: String,
    },
    /// Stock firmware, which looks for something to boot itself.
    Firmware {
        /// Which.
        firmware: FirmwareConfig,
        /// What to boot from, the first one first. What isn't named comes after those that are.
        order: Vec<BootDevice>,
        /// Let its messages (port 0x402) go to the VMM's log.
        log: bool,
    },
}

/// Firmware and its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FirmwareConfig {
    /// SeaBIOS.
    Bios {
        /// Its image.
        image: FdIndex,
        /// Its screen and keyboard are the serial port.
        serial: bool,
    },
    /// OVMF.
    Efi {
        /// Its code.
        code: FdIndex,
        /// Its variables: opened for reading and writing, and this machine's alone.
        variables: FdIndex,
    },
}

/// A device that firmware can boot from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootDevice {
    /// The disk with this index.
    Disk(u16),
    /// The network card with this index.
    Nic(u16),
}

/// A virtio-net device on a tap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicConfig {
    /// For messages: the interface's name.
    pub name: String,
    /// The queues of one tap, one for each pair of the card's, attached with `IFF_NO_PI | IFF_VNET_HDR`, non-blocking; several with
    /// `IFF_MULTI_QUEUE`.
    pub taps: Vec<FdIndex>,
    /// An open `/dev/vhost-net` for each of them, to have the host's kernel move the packets; or none. Not with a limit.
    pub vhosts: Vec<FdIndex>,
    /// The cable is plugged in.
    pub link_up: bool,
    /// The guest's hardware address.
    pub mac: [u8; 6],
    /// The MTU that the guest is told, bytes.
    pub mtu: Option<u16>,
    /// What may reach the guest, packets and their bytes.
    pub receive_limit: RateLimit,
    /// What the guest may send.
    pub transmit_limit: RateLimit,
    /// What the guest is told that asks for its configuration; without, nobody answers here.
    pub autoconf: Option<AutoconfConfig>,
}

impl NicConfig {
    /// A card on these queues, with nothing special about it.
    pub fn new(name: impl Into<String>, taps: Vec<FdIndex>, mac: [u8; 6]) -> Self {
        let (receive_limit, transmit_limit) = (RateLimit::default(), RateLimit::default());
        let vhosts = Vec::new();
        let (link_up, mtu, autoconf) = (true, None, None);
        Self { name: name.into(), taps, vhosts, link_up, mac, mtu, receive_limit, transmit_limit, autoconf }
    }
}

/// A virtio-vsock device. Its sockets come later, one by one, over the control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockConfig {
    /// The guest's context id, 3 to 2³² - 2. It means nothing outside of the machine.
    pub cid: u64,
}

/// The device whose input and output the console streams carry. Both devices are always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConsoleKind {
    /// The 16550 (`ttyS0`).
    Serial,
    /// Port 0 of the virtio console (`hvc0`).
    Virtio,
}

/// Whom the VMM becomes, once it has what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailConfig {
    /// User id, not 0.
    pub uid: u32,
    /// Group id, not 0.
    pub gid: u32,
}
