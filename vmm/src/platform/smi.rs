//! `SMI_EN` of an ICH9 (Intel ICH9 datasheet §13.8.3.7), which says that system management mode is set up already. There is
//! none: SeaBIOS would wait for ever for the SMI that it asks for.

use crate::bus::BusDevice;

/// SMIs by writes to port 0xB2 are on: what firmware looks at.
const APMC_ENABLED: u32 = 1 << 5;

/// The register; it can't be written.
#[derive(Debug)]
pub struct SmiEnable;

impl SmiEnable {
    /// Bytes of its port range.
    pub const PORTS: u64 = 4;
}

impl BusDevice for SmiEnable {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let bytes = APMC_ENABLED.to_le_bytes();
        let register = bytes.iter().skip(usize::try_from(offset).unwrap_or(bytes.len()));
        data.iter_mut().zip(register).for_each(|(to, from)| *to = *from);
    }

    fn write(&self, _: u64, _: &[u8]) {}
}
