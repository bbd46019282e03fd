//! A queue under its device's rate limit: its thread sleeps until something may pass again.
//!
//! A queue asks [`Throttle::is_open`] before it takes a chain, and leaves the rest in the rings if not, without asking the driver for
//! kicks; [`Throttle::rest`] then has the loop kick the queue when the time has come. Nothing is under way meanwhile, so that a
//! pause, a reset or an end finds the queue as it finds an idle one.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use crate::event_loop::EventLoop;
use crate::rate_limiter::RateLimiter;

/// See the module. One for each queue; without a limit it is always open.
#[derive(Debug)]
pub struct Throttle(Option<Limited>);

#[derive(Debug)]
struct Limited {
    limiter: Arc<RateLimiter>,
    /// The queue's.
    kick: Arc<EventFd>,
    /// Why the queue was left, if it was.
    closed: Cell<Option<Duration>>,
    /// A kick is to come.
    resting: Arc<AtomicBool>,
}

impl Throttle {
    /// Puts the queue with this kick under a limit.
    pub fn new(limiter: Option<&Arc<RateLimiter>>, kick: &EventFd) -> io::Result<Self> {
        let Some(limiter) = limiter else { return Ok(Self(None)) };
        let (kick, resting) = (Arc::new(kick.try_clone()?), Arc::default());
        Ok(Self(Some(Limited { limiter: Arc::clone(limiter), kick, closed: Cell::new(None), resting })))
    }

    /// Whether the next chain may be taken.
    pub fn is_open(&self) -> bool {
        self.0.as_ref().is_none_or(|limited| {
            limited.closed.set(limited.limiter.wait());
            limited.closed.get().is_none()
        })
    }

    /// Whether the last chain that was asked for may not be taken yet.
    pub fn is_closed(&self) -> bool {
        self.0.as_ref().is_some_and(|limited| limited.closed.get().is_some())
    }

    /// One operation with so many bytes is done.
    pub fn take(&self, bytes: u64) {
        if let Some(limited) = &self.0 {
            limited.limiter.take(bytes);
        }
    }

    /// Has the queue kicked when its time has come, if it was left. Called after each turn of the queue.
    pub fn rest(&self, events: &mut EventLoop) {
        let Some(Limited { kick, closed, resting, .. }) = &self.0 else { return };
        if let Some(wait) = closed.take()
            && !resting.swap(true, Ordering::Relaxed)
        {
            let (kick, resting) = (Arc::clone(kick), Arc::clone(resting));
            events.after(wait, move |_| {
                resting.store(false, Ordering::Relaxed);
                // Fails only when the counter is full, and then the queue is awake anyway.
                let _ = kick.write(1);
            });
        }
    }
}
