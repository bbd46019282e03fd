//! Whether a card's cable is plugged in (VIRTIO_NET_F_STATUS, virtio 1.3 §5.1.4). While it isn't, packets are lost both ways.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::pairs::Pairs;
use crate::virtio::device::Notify;

/// The link of one card. Clones are the same link.
#[derive(Debug, Clone)]
pub struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    up: AtomicBool,
    /// While the device is active.
    watcher: Mutex<Option<Watcher>>,
}

/// Who is to be told of a change.
#[derive(Debug, Clone)]
pub(super) struct Watcher {
    pub driver: Arc<dyn Notify>,
    /// What carries the packets.
    pub pairs: Weak<Mutex<Pairs>>,
}

impl Link {
    /// A link that is up or down at first.
    pub fn new(up: bool) -> Self {
        Self(Arc::new(Inner { up: AtomicBool::new(up), watcher: Mutex::default() }))
    }

    /// Whether packets pass.
    pub fn is_up(&self) -> bool {
        self.0.up.load(Ordering::Relaxed)
    }

    /// Plugs the cable in, or pulls it, and tells the driver.
    pub fn set(&self, up: bool) {
        self.0.up.store(up, Ordering::Relaxed);
        let watcher = self.0.watcher.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(Watcher { driver, pairs }) = watcher {
            if let Some(pairs) = pairs.upgrade() {
                pairs.lock().unwrap_or_else(PoisonError::into_inner).follow_link();
            }
            driver.config();
        }
    }

    /// Who is to be told from now on.
    pub(super) fn watch(&self, watcher: Option<Watcher>) {
        *self.0.watcher.lock().unwrap_or_else(PoisonError::into_inner) = watcher;
    }
}
