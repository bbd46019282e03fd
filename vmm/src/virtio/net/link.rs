//! Whether a card's cable is plugged in (VIRTIO_NET_F_STATUS, virtio 1.3 §5.1.4). While it isn't, packets are lost both ways.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::virtio::device::Notify;

/// The link of one card. Clones are the same link.
#[derive(Debug, Clone)]
pub struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    up: AtomicBool,
    /// While the device is active.
    driver: Mutex<Option<Arc<dyn Notify>>>,
}

impl Link {
    /// A link that is up or down at first.
    pub fn new(up: bool) -> Self {
        Self(Arc::new(Inner { up: AtomicBool::new(up), driver: Mutex::default() }))
    }

    /// Whether packets pass.
    pub fn is_up(&self) -> bool {
        self.0.up.load(Ordering::Relaxed)
    }

    /// Plugs the cable in, or pulls it, and tells the driver.
    pub fn set(&self, up: bool) {
        self.0.up.store(up, Ordering::Relaxed);
        if let Some(driver) = &*self.0.driver.lock().unwrap_or_else(PoisonError::into_inner) {
            driver.config();
        }
    }

    /// Who is to be told from now on.
    pub(super) fn watch(&self, driver: Option<Arc<dyn Notify>>) {
        *self.0.driver.lock().unwrap_or_else(PoisonError::into_inner) = driver;
    }
}
