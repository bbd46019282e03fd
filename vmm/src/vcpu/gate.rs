//! Where vCPU threads stand while the machine is paused.
//!
//! Whoever pauses closes the gate, kicks every thread out of `KVM_RUN`, and waits until each one that lives is parked here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The gate of one machine's vCPUs. Open at first.
#[derive(Debug, Default)]
pub struct Gate {
    /// What is looked at on the way into the guest, without the lock.
    closed: AtomicBool,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    /// Threads that may pass.
    live: usize,
    /// Of these, those that stand here.
    parked: usize,
}

/// One thread's right to pass; given up on drop, however the thread ends.
#[derive(Debug)]
pub struct Pass(Arc<Gate>);

impl Gate {
    /// Admits a thread. Called before it is started, so that a pause waits for it.
    pub fn admit(self: &Arc<Self>) -> Pass {
        self.lock().live += 1;
        Pass(Arc::clone(self))
    }

    /// Lets nobody pass from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Waits until every thread stands at the closed gate, or has ended.
    pub fn wait_parked(&self) {
        let mut inner = self.lock();
        while inner.parked < inner.live {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets all pass again.
    pub fn open(&self) {
        let _inner = self.lock();
        self.closed.store(false, Ordering::SeqCst);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// Stands still while the gate is closed; whether it was.
    pub fn wait(&self) -> bool {
        if !self.0.closed.load(Ordering::SeqCst) {
            return false;
        }
        let mut inner = self.0.lock();
        if self.0.closed.load(Ordering::SeqCst) {
            inner.parked += 1;
            self.0.changed.notify_all();
            while self.0.closed.load(Ordering::SeqCst) {
                inner = self.0.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
            }
            inner.parked -= 1;
        }
        true
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.lock().live -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_closed_gate_holds_the_living_and_waits_for_nobody_else() {
        let gate = Arc::new(Gate::default());
        gate.close();
        gate.wait_parked();
        let (first, second) = (gate.admit(), gate.admit());
        let (tx, passed) = channel();
        let thread = std::thread::spawn(move || tx.send(first.wait()).unwrap());
        // One thread ends without ever coming here.
        std::thread::spawn(move || drop(second)).join().unwrap();
        gate.wait_parked();
        assert!(passed.try_recv().is_err());
        gate.open();
        assert!(passed.recv().unwrap());
        thread.join().unwrap();
        assert!(!gate.admit().wait(), "an open gate holds nobody");
    }
}
