//! How much a disk or a network card may do in a second, and the check of it.

use serde::{Deserialize, Serialize};

use super::check::{ConfigError, Problem, wrong};

/// What may pass each second; without either there is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Bytes of data.
    pub bytes: Option<Rate>,
    /// Requests of a disk, packets of a network card.
    pub operations: Option<Rate>,
}

/// So much a second, and so much at once after a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// In the long run: 1 to [`MAX_RATE`].
    pub per_second: u64,
    /// At once: [`Rate::least_burst`] to [`MAX_RATE`].
    pub burst: u64,
}

/// The largest rate and the largest burst.
pub const MAX_RATE: u64 = 1 << 48;

impl RateLimit {
    /// Whether it bounds anything.
    pub fn is_some(self) -> bool {
        self.bytes.is_some() || self.operations.is_some()
    }
}

impl Rate {
    /// A tenth of a second's worth at once: long enough that nobody sees the steps, short enough that an average holds.
    pub fn new(per_second: u64) -> Self {
        Self { per_second, burst: (per_second / 10).max(1) }
    }

    /// The smallest burst that goes with the rate, what 2 ms let pass: queues sleep by the millisecond, and with less they would
    /// not reach their rate.
    pub fn least_burst(per_second: u64) -> u64 {
        per_second.div_ceil(500)
    }
}

pub(super) fn check_limit(path: &str, limit: RateLimit) -> Result<(), ConfigError> {
    for (name, rate) in [("bytes", limit.bytes), ("operations", limit.operations)] {
        let Some(Rate { per_second, burst }) = rate else { continue };
        if !(1..=MAX_RATE).contains(&per_second) {
            return Err(wrong(format!("{path}.{name}.per_second"), Problem::Rate(per_second)));
        }
        let least = Rate::least_burst(per_second);
        if !(least..=MAX_RATE).contains(&burst) {
            return Err(wrong(format!("{path}.{name}.burst"), Problem::Burst { burst, least }));
        }
    }
    Ok(())
}
