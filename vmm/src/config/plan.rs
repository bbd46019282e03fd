//! A machine that may be built: every value is in range, every file is open and of the right kind.
//!
//! Made only by [`check`](super::check()). Its files stay open for as long as the plan lives, so that a reset builds the machine
//! anew from the same plan.

use std::fs::File;

use super::{AutoconfPlan, BootDevice, ConsoleKind, CpuPlan, DiskPlan, HugePageSize, IdentityConfig, RateLimit};

/// The machine. See [`MachineConfig`](super::MachineConfig) for what each part means.
#[derive(Debug)]
pub struct MachinePlan {
    /// For messages only.
    pub name: String,
    /// `/dev/kvm`.
    pub kvm: File,
    /// Number of vCPUs, 1 to [`MAX_VCPUS`](super::check::MAX_VCPUS).
    pub vcpus: u8,
    /// What the vCPUs are.
    pub cpu: CpuPlan,
    /// The guest's RAM.
    pub memory: MemoryPlan,
    /// What runs first.
    pub boot: BootPlan,
    /// virtio-blk devices, in PCI order.
    pub disks: Vec<DiskPlan>,
    /// virtio-net devices, in PCI order after the disks.
    pub nics: Vec<NicPlan>,
    /// A virtio-rng device.
    pub rng: bool,
    /// A virtio-balloon device; RAM is of ordinary pages then.
    pub balloon: bool,
    /// The context id of its virtio-vsock device, neither a reserved one nor wider than 32 bits.
    pub vsock: Option<u64>,
    /// What the machine calls itself: no string is longer than [`MAX_TEXT`](super::identity::MAX_TEXT).
    pub identity: IdentityConfig,
    /// Which device the machine's console is.
    pub console: ConsoleKind,
}

/// The guest's RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Bytes: a multiple of 1 MiB and of the huge page size.
    pub size: u64,
    /// The pages that back it; `None` is the host's ordinary size.
    pub hugepages: Option<HugePageSize>,
}

/// What runs first.
#[derive(Debug)]
pub enum BootPlan {
    /// A kernel without firmware.
    Kernel(KernelPlan),
    /// Firmware.
    Firmware(FirmwarePlan),
}

/// Firmware.
#[derive(Debug)]
pub struct FirmwarePlan {
    /// Which, and its files.
    pub flash: FlashPlan,
    /// What to boot from: devices that there are, each once.
    pub order: Vec<BootDevice>,
    /// Its messages go to the VMM's log.
    pub log: bool,
}

/// Firmware's files: regular ones, of the right size and with the right headers when checked.
#[derive(Debug)]
pub enum FlashPlan {
    /// A BIOS.
    Bios {
        /// Its image.
        image: File,
        /// Bytes: a multiple of 64 KiB up to 256 KiB.
        size: u64,
        /// Its screen and keyboard are the serial port.
        serial: bool,
    },
    /// EFI.
    Efi {
        /// Its code.
        code: File,
        /// Bytes: a multiple of 4 KiB.
        code_size: u64,
        /// Its variables, opened for writing.
        variables: File,
        /// Bytes: a multiple of 4 KiB; both sizes together are a power of two up to 16 MiB.
        variables_size: u64,
    },
}

/// A kernel without firmware.
#[derive(Debug)]
pub struct KernelPlan {
    /// A regular file that fits in RAM; its content is not checked yet.
    pub kernel: File,
    /// A regular file that fits in RAM together with the kernel.
    pub initrd: Option<File>,
    /// At most [`MAX_CMDLINE`](super::check::MAX_CMDLINE) bytes, no NUL.
    pub cmdline: String,
}

/// A virtio-net device.
#[derive(Debug)]
pub struct NicPlan {
    /// For messages: the interface's name.
    pub name: String,
    /// 1 to [`MAX_PAIRS`](super::check::MAX_PAIRS) queues of one tap, attached with `IFF_NO_PI | IFF_VNET_HDR`, non-blocking.
    pub taps: Vec<File>,
    /// `/dev/vhost-net`, as many as taps or none; none with a limit.
    pub vhosts: Vec<File>,
    /// The cable is plugged in.
    pub link_up: bool,
    /// Unicast, not zero, no other card's.
    pub mac: [u8; 6],
    /// At least [`MIN_MTU`](super::check::MIN_MTU).
    pub mtu: Option<u16>,
    /// What may reach the guest, in bounds.
    pub receive_limit: RateLimit,
    /// What the guest may send, in bounds.
    pub transmit_limit: RateLimit,
    /// What the guest is told that asks for its configuration.
    pub autoconf: Option<AutoconfPlan>,
}
