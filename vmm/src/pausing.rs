//! How the machine comes to be paused by one of its own devices: the device asks, and whoever runs the machine does it soon.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Why a machine is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PauseReason {
    /// It was asked for.
    User,
    /// A device can't go on until someone has mended what is behind it; the text says which, and what is wrong.
    IoError(String),
}

type Pause = Box<dyn Fn(PauseReason) + Send>;

/// Where devices ask for a pause. Clones are the same place.
#[derive(Clone, Default)]
pub struct PauseRequests(Arc<Mutex<Option<Pause>>>);

impl fmt::Debug for PauseRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PauseRequests")
    }
}

impl PauseRequests {
    /// Asks for a pause, from any thread. The machine runs on for a moment: the caller keeps what it can't finish, lets its
    /// thread go on to [be paused](crate::virtio::device::VirtioDevice::pause), and tries again when it is resumed.
    pub fn ask(&self, reason: PauseReason) {
        if let Some(pause) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            pause(reason);
        }
    }

    /// Has `pause` called whenever a device asks; on the device's thread, so it must not wait for the pause itself.
    pub fn watch(&self, pause: impl Fn(PauseReason) + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(pause));
    }
}
