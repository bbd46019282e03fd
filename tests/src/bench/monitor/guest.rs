//! What a monitor under test gets to run.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A guest, the same for every monitor but for the names of its files.
#[derive(Debug, Clone)]
pub struct Guest {
    /// What runs first.
    pub boot: Boot,
    /// virtio disks, in this order.
    pub disks: Vec<Disk>,
    /// virtio network cards, in this order.
    pub cards: Vec<Card>,
    /// The context id of its vsock device.
    pub vsock: Option<u32>,
}

/// What runs first.
#[derive(Debug, Clone)]
pub enum Boot {
    /// No firmware: a kernel with a PVH entry, or a bzImage.
    Kernel {
        /// The kernel.
        kernel: PathBuf,
        /// The initial RAM file system.
        initrd: Option<PathBuf>,
        /// The kernel's command line.
        cmdline: String,
    },
    /// SeaBIOS, and what it finds on the first disk.
    Bios(PathBuf),
    /// OVMF, and what it finds on the first disk.
    Efi {
        /// Its code.
        code: PathBuf,
        /// Its variables, which it writes to.
        variables: PathBuf,
    },
}

/// A disk on an image that nobody else has open.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Its file.
    pub path: PathBuf,
    /// `raw` or `qcow2`.
    pub format: &'static str,
    /// Through the host's page cache; else past it.
    pub cached: bool,
}

/// A card on a tap of the host's.
#[derive(Debug, Clone)]
pub struct Card {
    /// The tap.
    pub tap: Tap,
    /// The hardware address.
    pub mac: [u8; 6],
    /// The host's kernel moves the packets (vhost-net).
    pub vhost: bool,
}

/// A tap, of one queue.
#[derive(Debug, Clone)]
pub enum Tap {
    /// In the monitor's own network namespace, by its name.
    Named(String),
    /// Somebody else's, open.
    Open(Arc<File>),
}

impl Guest {
    /// One that has nothing but a kernel.
    pub fn kernel(kernel: &Path, initrd: Option<&Path>, cmdline: &str) -> Self {
        let (kernel, initrd, cmdline) = (kernel.to_owned(), initrd.map(Path::to_owned), cmdline.to_owned());
        Self { boot: Boot::Kernel { kernel, initrd, cmdline }, disks: Vec::new(), cards: Vec::new(), vsock: None }
    }
}
