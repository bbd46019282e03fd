//! Token buckets: how much may pass in a second, and how much at once after a rest.
//!
//! What is asked for goes if a token is there, however much it is; what the bucket lacks becomes a debt that time pays before
//! anything else goes. So a request larger than the bucket goes too, and the average holds.
//!
//! [`Bucket`] is arithmetic on a clock that is passed in. [`RateLimiter`] is what the queues of a device share: one lock, which
//! devices without a limit don't have.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{Rate, RateLimit};

const NANOS: u128 = 1_000_000_000;

/// One bucket. Times are since some moment before it was made, below 2⁶⁴ ns.
///
/// All amounts are in billionths of a token, so that nothing is ever rounded: `rate` of them come in each nanosecond.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    rate: u128,
    size: u128,
    /// What will have come in, since time 0, when the bucket is full.
    full_at: u128,
}

impl Bucket {
    /// A full bucket; `rate` is in the bounds that it states.
    fn new(rate: Rate) -> Self {
        Self { rate: rate.per_second.into(), size: u128::from(rate.burst) * NANOS, full_at: 0 }
    }

    /// How long there is no token; `None` if there is one.
    fn wait(&self, now: Duration) -> Option<Duration> {
        let missing = (self.full_at + NANOS).checked_sub(self.came(now) + self.size)?;
        let nanos = u64::try_from(missing.div_ceil(self.rate)).unwrap_or(u64::MAX);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }

    /// Takes out `amount`.
    fn take(&mut self, now: Duration, amount: u64) {
        self.full_at = self.full_at.max(self.came(now)) + u128::from(amount) * NANOS;
    }

    fn came(&self, now: Duration) -> u128 {
        now.as_nanos() * self.rate
    }
}

/// A limit on bytes, operations, or both.
#[derive(Debug)]
pub struct RateLimiter {
    start: Instant,
    buckets: Mutex<Buckets>,
}

#[derive(Debug)]
struct Buckets {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
}

impl RateLimiter {
    /// A limiter with full buckets, if there is anything to limit.
    pub fn new(limit: RateLimit) -> Option<Self> {
        let RateLimit { bytes, operations } = limit;
        if bytes.is_none() && operations.is_none() {
            return None;
        }
        let buckets = Buckets { bytes: bytes.map(Bucket::new), operations: operations.map(Bucket::new) };
        Some(Self { start: Instant::now(), buckets: Mutex::new(buckets) })
    }

    /// How long nothing may pass; `None` if something may now.
    pub fn wait(&self) -> Option<Duration> {
        let now = self.start.elapsed();
        let Buckets { bytes, operations } = *self.lock();
        let waits = [bytes, operations].map(|bucket| bucket.and_then(|bucket| bucket.wait(now)));
        waits.into_iter().max().flatten()
    }

    /// One operation with so many bytes passes.
    pub fn take(&self, bytes: u64) {
        let now = self.start.elapsed();
        let mut buckets = self.lock();
        if let Some(bucket) = &mut buckets.bytes {
            bucket.take(now, bytes);
        }
        if let Some(bucket) = &mut buckets.operations {
            bucket.take(now, 1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::MAX_RATE;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_burst_goes_at_once_and_then_the_rate_holds() {
        let mut bucket = Bucket::new(Rate { per_second: 1000, burst: 10 });
        for _ in 0..10 {
            assert_eq!(bucket.wait(ms(5)), None);
            bucket.take(ms(5), 1);
        }
        assert_eq!(bucket.wait(ms(5)), Some(ms(1)));
        assert_eq!(bucket.wait(ms(6)), None);
        bucket.take(ms(6), 1);
        assert_eq!(bucket.wait(ms(6) + Duration::from_micros(400)), Some(Duration::from_micros(600)));
        // A long rest fills it up, and no further.
        for _ in 0..10 {
            assert_eq!(bucket.wait(ms(9000)), None);
            bucket.take(ms(9000), 1);
        }
        assert!(bucket.wait(ms(9000)).is_some());
    }

    #[test]
    fn what_is_larger_than_the_bucket_goes_and_is_paid_for() {
        let mut bucket = Bucket::new(Rate { per_second: 1000, burst: 10 });
        assert_eq!(bucket.wait(ms(0)), None);
        bucket.take(ms(0), 510);
        assert_eq!(bucket.wait(ms(0)), Some(ms(501)));
        assert_eq!(bucket.wait(ms(400)), Some(ms(101)));
        assert_eq!(bucket.wait(ms(501)), None);
    }

    #[test]
    fn the_stricter_of_two_limits_holds() {
        assert!(RateLimiter::new(RateLimit::default()).is_none());
        let limit = RateLimit { bytes: Some(Rate::new(100)), operations: Some(Rate::new(1_000_000)) };
        let limiter = RateLimiter::new(limit).unwrap();
        assert_eq!(limiter.wait(), None);
        limiter.take(1000);
        assert!(limiter.wait().unwrap() > Duration::from_secs(9));
        let limiter = RateLimiter::new(RateLimit { operations: Some(Rate::new(1)), ..RateLimit::default() }).unwrap();
        limiter.take(u64::MAX);
        assert!(limiter.wait().unwrap() <= Duration::from_secs(1));
    }

    proptest! {
        /// Whatever is asked for and whenever: what passes in any time is at most the burst, the rate times that time, and one
        /// request; and a wait is exactly as long as it says.
        #[test]
        fn the_average_holds(
            per_second in 1..=MAX_RATE,
            burst in 1..=MAX_RATE,
            requests in prop::collection::vec((0..=u64::from(u32::MAX), 0..2_000_000_000_u64), 1..50),
        ) {
            let mut bucket = Bucket::new(Rate { per_second, burst });
            let (mut now, mut passed) = (Duration::ZERO, 0_u128);
            for (amount, rest) in requests {
                now += Duration::from_nanos(rest);
                if let Some(wait) = bucket.wait(now) {
                    let before = now + wait.saturating_sub(Duration::from_nanos(1));
                    prop_assert!(bucket.wait(before).is_some());
                    now += wait;
                }
                prop_assert_eq!(bucket.wait(now), None);
                prop_assert!(passed * NANOS < u128::from(burst) * NANOS + now.as_nanos() * u128::from(per_second));
                bucket.take(now, amount);
                passed += u128::from(amount);
            }
        }
    }
}
