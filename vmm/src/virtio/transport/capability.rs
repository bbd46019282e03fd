//! What the BAR holds, and the vendor capabilities that say so (virtio 1.3 §4.1.4).

use crate::pci::config_space::ConfigSpace;

/// The one memory BAR: index, size and what lies at which offset.
pub mod layout {
    /// BARs 0 and 1 together.
    pub const BAR: u8 = 0;
    /// Size of the BAR, bytes.
    pub const BAR_SIZE: u64 = 0x8000;
    /// Size of each part of it: its own page.
    pub const PART: u64 = 0x1000;
    /// Common configuration.
    pub const COMMON: u64 = 0;
    /// Interrupt status.
    pub const ISR: u64 = 0x1000;
    /// The device's own configuration.
    pub const DEVICE: u64 = 0x2000;
    /// Queue notifications: 4 bytes per queue, each an ioeventfd.
    pub const NOTIFY: u64 = 0x3000;
    /// MSI-X vector table.
    pub const MSIX_TABLE: u64 = 0x4000;
    /// MSI-X pending bits.
    pub const MSIX_PENDING: u64 = 0x5000;
}

/// Distance of two queues' notification addresses, bytes (`notify_off_multiplier`).
pub const NOTIFY_MULTIPLIER: u32 = 4;
/// Queues that a device may have: each has a vector, and the table is one page (one vector is the configuration's).
pub const MAX_QUEUES: u16 = 255;

/// Capability id: vendor specific.
const VENDOR: u8 = 0x09;
/// `cfg_type` values.
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

/// Adds all vendor capabilities and returns where the window of VIRTIO_PCI_CAP_PCI_CFG is.
pub fn add_all(space: &mut ConfigSpace) -> u8 {
    add(space, COMMON_CFG, layout::COMMON, super::common_config::SIZE, &[]);
    add(space, ISR_CFG, layout::ISR, 1, &[]);
    add(space, DEVICE_CFG, layout::DEVICE, layout::PART, &[]);
    add(space, NOTIFY_CFG, layout::NOTIFY, layout::PART, &NOTIFY_MULTIPLIER.to_le_bytes());
    window::add(space)
}

#[expect(clippy::cast_possible_truncation, reason = "offsets and lengths inside a BAR of 32 KiB")]
fn add(space: &mut ConfigSpace, kind: u8, offset: u64, length: u64, extra: &[u8]) -> u8 {
    // Fields of virtio_pci_cap after id and link: cap_len, cfg_type, bar, id, padding[2], offset, length.
    let mut body = vec![16 + extra.len() as u8, kind, layout::BAR, 0, 0, 0];
    body.extend((offset as u32).to_le_bytes());
    body.extend((length as u32).to_le_bytes());
    body.extend(extra);
    space.add_capability(VENDOR, &body, &[])
}

/// VIRTIO_PCI_CAP_PCI_CFG (virtio 1.3 §4.1.4.9): the BAR through configuration space, for firmware that can't map it.
pub mod window {
    use super::{ConfigSpace, PCI_CFG, VENDOR, layout};
    use std::ops::Range;

    /// Offsets in the capability.
    const BAR: u8 = 4;
    const OFFSET: u8 = 8;
    const LENGTH: u8 = 12;
    const DATA: u8 = 16;

    pub(super) fn add(space: &mut ConfigSpace) -> u8 {
        let body = [[20, PCI_CFG, layout::BAR, 0, 0, 0].as_slice(), &[0; 12]].concat();
        // bar, offset, length and the data are the driver's.
        let writable = [[0, 0, 0xFF, 0, 0, 0].as_slice(), &[0xFF; 12]].concat();
        space.add_capability(VENDOR, &body, &writable)
    }

    /// Where the data register of the capability at `at` is in configuration space.
    pub fn data(at: u8) -> Range<usize> {
        let start = usize::from(at) + usize::from(DATA);
        start..start + 4
    }

    /// The BAR offset and length that the driver has chosen in the capability at `at`, if they make an access.
    pub fn target(space: &ConfigSpace, at: u8) -> Option<(u64, usize)> {
        let mut bar = [0];
        let (mut offset, mut length) = ([0; 4], [0; 4]);
        space.read(at + BAR, &mut bar);
        space.read(at + OFFSET, &mut offset);
        space.read(at + LENGTH, &mut length);
        let (offset, length) = (u64::from(u32::from_le_bytes(offset)), u32::from_le_bytes(length));
        let fits = bar == [layout::BAR] && offset + u64::from(length) <= layout::BAR_SIZE;
        let length = usize::try_from(length).ok().filter(|l| matches!(l, 1 | 2 | 4))?;
        (fits && offset.is_multiple_of(u64::try_from(length).ok()?)).then_some((offset, length))
    }
}
