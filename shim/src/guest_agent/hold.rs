//! Whether a guest's file systems are held, and who lets them go when their time is over.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// What is known of an agent's freezes. A guest can undo one by itself, unheard.
#[derive(Debug, Default)]
pub(super) struct Hold(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    frozen: bool,
    /// The task that thaws.
    timer: Option<AbortHandle>,
}

impl Hold {
    /// Whether they are.
    pub(super) fn is_held(&self) -> bool {
        self.lock().frozen
    }

    /// They are, until `timer` or somebody else thaws them. The timer before is ended.
    pub(super) fn begin(&self, timer: Option<AbortHandle>) {
        self.set(Held { frozen: true, timer });
    }

    /// They aren't any more, and need no timer.
    pub(super) fn end(&self) {
        self.set(Held::default());
    }

    fn set(&self, held: Held) {
        if let Some(timer) = std::mem::replace(&mut *self.lock(), held).timer {
            timer.abort();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
