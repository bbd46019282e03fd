//! When a reconciliation that failed is tried again.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_millis(500);
/// No wait is longer.
const LONGEST: Duration = Duration::from_mins(5);

/// How often each object failed since it last didn't.
#[derive(Debug)]
pub struct Retries<K>(Mutex<HashMap<K, u32>>);

impl<K> Default for Retries<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Retries<K> {
    /// How long to wait now that it failed once more: twice as long as the last time, five minutes at most.
    pub fn failed(&self, key: K) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key).or_default();
        let wait = FIRST.saturating_mul(1 << (*count).min(20));
        *count += 1;
        wait.min(LONGEST)
    }

    /// It succeeded, or is gone.
    pub fn succeeded(&self, key: &K) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_waits_longer_until_it_succeeds() {
        let retries = Retries::default();
        let waits: Vec<_> = (0..12).map(|_| retries.failed("a")).collect();
        assert_eq!(waits[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert_eq!(waits[10..], [LONGEST, LONGEST]);
        assert_eq!(retries.failed("b"), FIRST);
        retries.succeeded(&"a");
        assert_eq!(retries.failed("a"), FIRST);
        for _ in 0..100 {
            assert!(retries.failed("a") <= LONGEST);
        }
    }
}
