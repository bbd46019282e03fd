//! How a run of the machine ends: decided once, by whoever is first, and reported once.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Why the guest stopped running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The guest asked to be reset (port 0xCF9, keyboard controller).
    Reset,
    /// The guest powered off (ACPI S5).
    PowerOff,
    /// Its kernel panicked and said so through pvpanic.
    GuestPanic,
    /// A triple fault.
    TripleFault,
    /// KVM could not go on; the text says where and why.
    KvmError(String),
}

type Report = Box<dyn FnOnce(Outcome) + Send>;

/// The end of one run, shared by everything that can bring it about. vCPUs look at [`Ending::stopped`] after every exit,
/// so that the one that asked for the end executes nothing after it.
#[derive(Default)]
pub struct Ending {
    stopped: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
enum State {
    #[default]
    Running,
    /// Running, and somebody wants to know.
    Watched(Report),
    /// Ended, and nobody has asked yet.
    Ended(Outcome),
    Reported,
}

impl fmt::Debug for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ending").field("stopped", &self.stopped()).finish_non_exhaustive()
    }
}

impl Ending {
    /// Ends the run with `outcome`, unless it has ended already. Any thread.
    pub fn end(&self, outcome: Outcome) {
        self.stop();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::take(&mut *state) {
            State::Running => *state = State::Ended(outcome),
            State::Watched(report) => {
                *state = State::Reported;
                drop(state);
                report(outcome);
            }
            ended => *state = ended,
        }
    }

    /// Calls `report` with the outcome, on the thread that brings it about, at once if it has come already.
    pub fn watch(&self, report: impl FnOnce(Outcome) + Send + 'static) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::take(&mut *state) {
            State::Ended(outcome) => {
                *state = State::Reported;
                drop(state);
                report(outcome);
            }
            _ => *state = State::Watched(Box::new(report)),
        }
    }

    /// Stops the vCPUs without an outcome: whoever calls this needs none.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Whether no vCPU may run any more.
    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn the_first_outcome_is_reported_once() {
        let ending = Ending::default();
        let (tx, rx) = channel();
        ending.watch(move |outcome| tx.send(outcome).unwrap());
        assert!(!ending.stopped());
        ending.end(Outcome::PowerOff);
        ending.end(Outcome::TripleFault);
        assert!(ending.stopped());
        assert_eq!(rx.iter().collect::<Vec<_>>(), [Outcome::PowerOff]);
    }

    #[test]
    fn an_early_outcome_waits_for_its_watcher() {
        let ending = Ending::default();
        ending.end(Outcome::Reset);
        let (tx, rx) = channel();
        ending.watch(move |outcome| tx.send(outcome).unwrap());
        assert_eq!(rx.iter().collect::<Vec<_>>(), [Outcome::Reset]);
    }
}
