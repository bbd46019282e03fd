//! What a guest's kernel says of its memory (virtio 1.3 §5.5.6.3).

use serde::{Deserialize, Serialize};

/// Bytes of one entry: a 16-bit tag and a 64-bit value, packed.
pub const ENTRY: usize = 10;

/// Counts since the guest's boot, and amounts in bytes. Each is there if the guest tells it; nothing of it is checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Bytes swapped in.
    pub swapped_in: Option<u64>,
    /// Bytes swapped out.
    pub swapped_out: Option<u64>,
    /// Page faults that needed I/O.
    pub major_faults: Option<u64>,
    /// Page faults that didn't.
    pub minor_faults: Option<u64>,
    /// Bytes that nothing uses.
    pub free: Option<u64>,
    /// Bytes that there are.
    pub total: Option<u64>,
    /// Bytes that new processes could have without swapping.
    pub available: Option<u64>,
    /// Bytes of files that could be dropped.
    pub caches: Option<u64>,
    /// Huge pages taken.
    pub huge_pages: Option<u64>,
    /// Huge pages that could not be had.
    pub huge_page_failures: Option<u64>,
}

impl Statistics {
    /// Reads the driver's entries. Unknown tags, and a cut one at the end, are passed over.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut all = Self::default();
        for entry in bytes.as_chunks::<ENTRY>().0 {
            let [t0, t1, value @ ..] = *entry;
            let field = match u16::from_le_bytes([t0, t1]) {
                0 => &mut all.swapped_in,
                1 => &mut all.swapped_out,
                2 => &mut all.major_faults,
                3 => &mut all.minor_faults,
                4 => &mut all.free,
                5 => &mut all.total,
                6 => &mut all.available,
                7 => &mut all.caches,
                8 => &mut all.huge_pages,
                9 => &mut all.huge_page_failures,
                _ => continue,
            };
            *field = Some(u64::from_le_bytes(value));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_known_entries_and_passes_over_the_others() {
        let entry = |tag: u16, value: u64| [tag.to_le_bytes().as_slice(), &value.to_le_bytes()].concat();
        let bytes = [entry(4, 7), entry(5, 8), entry(99, 9), vec![6, 0, 1]].concat();
        let expected = Statistics { free: Some(7), total: Some(8), ..Statistics::default() };
        assert_eq!(Statistics::parse(&bytes), expected);
        assert_eq!(Statistics::parse(&[]), Statistics::default());
    }
}
