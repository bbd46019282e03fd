//! Serving queues on a loop that runs already, and stopping at once.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::virtqueue::KICKED;
use crate::event_loop::{Handle, Token};

/// What is done when a queue is kicked.
type Serve<S> = fn(&mut S, index: usize);

/// A device's working state `S`, served on an event loop until dropped. Once dropped nothing runs on it any more, nor while it is
/// paused.
#[derive(Debug)]
pub struct Served<S> {
    slot: Arc<Mutex<Slot<S>>>,
    tokens: Arc<Mutex<Vec<Token>>>,
    events: Handle,
}

#[derive(Debug)]
struct Slot<S> {
    state: Option<S>,
    paused: bool,
}

impl<S> Slot<S> {
    fn awake(&mut self) -> Option<&mut S> {
        self.state.as_mut().filter(|_| !self.paused)
    }
}

impl<S: Send + 'static> Served<S> {
    /// Calls `serve(state, i)` on the loop whenever `kicks[i]` is written, starting soon.
    pub fn new(events: &Handle, state: S, kicks: &[&EventFd], serve: Serve<S>) -> io::Result<Self> {
        let kicks = kicks.iter().map(|kick| kick.try_clone()).collect::<io::Result<Vec<_>>>()?;
        let slot = Arc::new(Mutex::new(Slot { state: Some(state), paused: false }));
        let tokens = Arc::new(Mutex::new(Vec::new()));
        let (shared, list) = (Arc::clone(&slot), Arc::clone(&tokens));
        events.run(move |events| {
            for (index, kick) in kicks.into_iter().enumerate() {
                let shared = Arc::clone(&shared);
                let added = events.add(kick.as_raw_fd(), KICKED, move |_, _| {
                    let _open = &kick;
                    if let Some(state) = shared.lock().unwrap_or_else(PoisonError::into_inner).awake() {
                        serve(state, index);
                    }
                });
                match added {
                    Ok(token) => list.lock().unwrap_or_else(PoisonError::into_inner).push(token),
                    Err(error) => eprintln!("virtqueue: can't wait for kicks: {error}"),
                }
            }
        });
        Ok(Self { slot, tokens, events: events.clone() })
    }
}

impl<S> Served<S> {
    /// Works on the state from another thread, unless it is gone or paused.
    pub fn with<R>(&self, work: impl FnOnce(&mut S) -> R) -> Option<R> {
        self.lock().awake().map(work)
    }

    /// Pauses it, or lets it go on. Kicks that come meanwhile are lost.
    pub fn set_paused(&self, paused: bool) {
        self.lock().paused = paused;
    }

    fn lock(&self) -> MutexGuard<'_, Slot<S>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Drop for Served<S> {
    fn drop(&mut self) {
        self.lock().state = None;
        let tokens = Arc::clone(&self.tokens);
        // In order after the registration, even if that has not run yet.
        self.events.run(move |events| {
            for token in tokens.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                events.remove(token);
            }
        });
    }
}
