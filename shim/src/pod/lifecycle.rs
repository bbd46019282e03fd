//! The life of a container, or of a command in one, as a pure state machine.
//!
//! ```text
//! Creating ──built──> Created ──start──> Starting ──started──> Running
//!    │                   │                   │                    │
//!  failed              ended               ended                ended
//!    v                   v                   v                    v
//!  (gone)             Stopped <───────────────────────────────────┘
//! ```
//!
//! Invariants: an exit is recorded once and never changes; an exit during `Starting` waits until the start is decided, so
//! that containerd hears of the start first.

use std::time::SystemTime;

use containerd_shim::api::Status;

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// What containerd reports: 0 for a guest that powered off, 137 for a kill, 1 for anything else.
    pub code: u32,
    /// When.
    pub at: SystemTime,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Its parts are being made.
    Creating,
    /// Made, not started.
    Created,
    /// Told to start.
    Starting,
    /// The guest runs.
    Running,
    /// Over.
    Stopped(Exit),
}

/// What happens to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Its parts are made.
    Built,
    /// containerd wants it started.
    Start,
    /// It runs.
    Started,
    /// It is over.
    Ended(Exit),
}

/// A step that its phase doesn't allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// Too early.
    #[error("it is still being created")]
    Creating,
    /// Started before.
    #[error("it was started before")]
    Started,
    /// Not started.
    #[error("it has not been started")]
    NotStarted,
    /// Over.
    #[error("it has stopped")]
    Stopped,
    /// Nothing runs in a machine that stands still.
    #[error("it is paused")]
    Paused,
}

impl Phase {
    /// The phase after `step`.
    pub fn after(&self, step: Step) -> Result<Phase, Illegal> {
        match (self, step) {
            (Phase::Creating, Step::Built) => Ok(Phase::Created),
            (Phase::Created, Step::Start) => Ok(Phase::Starting),
            (Phase::Starting, Step::Started) => Ok(Phase::Running),
            (Phase::Created | Phase::Starting | Phase::Running, Step::Ended(exit)) => Ok(Phase::Stopped(exit)),
            (Phase::Stopped(_), _) => Err(Illegal::Stopped),
            (Phase::Creating, _) => Err(Illegal::Creating),
            (Phase::Created, Step::Started) => Err(Illegal::NotStarted),
            (Phase::Created | Phase::Starting | Phase::Running, _) => Err(Illegal::Started),
        }
    }

    /// How it ended, if it did.
    pub fn exit(&self) -> Option<&Exit> {
        match self {
            Phase::Stopped(exit) => Some(exit),
            _ => None,
        }
    }

    /// containerd's word for it.
    pub fn status(&self) -> Status {
        match self {
            Phase::Creating | Phase::Created | Phase::Starting => Status::CREATED,
            Phase::Running => Status::RUNNING,
            Phase::Stopped(_) => Status::STOPPED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit() -> Exit {
        Exit { code: 0, at: SystemTime::UNIX_EPOCH }
    }

    #[test]
    fn only_the_drawn_arrows_are_legal() {
        let phases = [Phase::Creating, Phase::Created, Phase::Starting, Phase::Running, Phase::Stopped(exit())];
        let steps = [Step::Built, Step::Start, Step::Started, Step::Ended(exit())];
        let legal: Vec<(usize, usize)> = (0..phases.len())
            .flat_map(|phase| (0..steps.len()).map(move |step| (phase, step)))
            .filter(|&(phase, step)| phases[phase].after(steps[step].clone()).is_ok())
            .collect();
        assert_eq!(legal, [(0, 0), (1, 1), (1, 3), (2, 2), (2, 3), (3, 3)]);
    }

    #[test]
    fn an_exit_is_kept() {
        let stopped = Phase::Running.after(Step::Ended(exit())).unwrap();
        let later = Exit { code: 137, ..exit() };
        assert_eq!(stopped.after(Step::Ended(later)), Err(Illegal::Stopped));
        assert_eq!(stopped.exit(), Some(&exit()));
        assert_eq!(stopped.status(), Status::STOPPED);
    }
}
