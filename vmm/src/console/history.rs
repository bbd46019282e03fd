//! The last bytes of a stream, addressed by their place since its beginning.

/// Bytes kept.
pub const CAPACITY: usize = 64 << 10;

/// A ring of the stream's last [`CAPACITY`] bytes.
#[derive(Debug, Default)]
pub struct History {
    bytes: Vec<u8>,
    /// Bytes written since the beginning.
    end: u64,
}

impl History {
    /// One past the newest byte.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The oldest byte that is still here.
    pub fn start(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    /// Adds bytes, dropping the oldest.
    pub fn push(&mut self, mut new: &[u8]) {
        let skipped = new.len().saturating_sub(CAPACITY);
        new = &new[skipped..];
        if skipped > 0 {
            // All that is here will be overwritten.
            self.bytes.resize(CAPACITY, 0);
            self.end += skipped as u64;
        }
        while !new.is_empty() {
            let at = place(self.end);
            let count = new.len().min(CAPACITY - at);
            let (now, later) = new.split_at(count);
            let overlap = count.min(self.bytes.len().saturating_sub(at));
            self.bytes[at..at + overlap].copy_from_slice(&now[..overlap]);
            self.bytes.extend(&now[overlap..]);
            self.end += count as u64;
            new = later;
        }
    }

    /// The longest piece that lies in one run from `from` on, and `from` itself moved up to the oldest byte there is. Empty
    /// at the end.
    pub fn from(&self, from: u64) -> (u64, &[u8]) {
        let from = from.clamp(self.start(), self.end);
        let at = place(from);
        let len = usize::try_from(self.end - from).unwrap_or(usize::MAX).min(CAPACITY - at);
        (from, self.bytes.get(at..at + len).unwrap_or_default())
    }
}

/// Where in the ring the stream's byte `offset` lies.
fn place(offset: u64) -> usize {
    usize::try_from(offset % CAPACITY as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(history: &History, mut from: u64) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            let (at, piece) = history.from(from);
            if piece.is_empty() {
                return out;
            }
            out.extend(piece);
            from = at + piece.len() as u64;
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(32))]
        #[test]
        fn keeps_the_last_bytes(sizes in proptest::collection::vec(0usize..50_000, 0..12)) {
            let (mut history, mut model, mut next) = (History::default(), Vec::new(), 0u8);
            for size in sizes {
                let piece: Vec<u8> = (0..size).map(|_| { next = next.wrapping_mul(5).wrapping_add(1); next }).collect();
                history.push(&piece);
                model.extend(piece);
                let tail = &model[model.len().saturating_sub(CAPACITY)..];
                assert_eq!(history.end(), model.len() as u64);
                assert_eq!(all(&history, 0), tail);
            }
        }
    }

    #[test]
    fn one_huge_write_keeps_its_end() {
        let mut history = History::default();
        let bytes: Vec<u8> = (0..CAPACITY + 10).map(|i| u8::try_from(i % 251).unwrap()).collect();
        history.push(&bytes);
        assert_eq!(all(&history, 0), &bytes[10..]);
    }
}
