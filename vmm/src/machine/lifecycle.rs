//! What may be done with a machine, and when: a pure state machine.
//!
//! ```text
//!          start                    pause (asked for, or by a device)
//! Built ───────────> Running ─────────────────────────────> Paused ──┐ reset
//!   │ start, paused     │ ^ └ reset, power button, NMI, …     │ ^    │ power button
//!   └───────────────────│─│───────────────────────────────────│─┘ <──┘
//!                       │ └───────────────── resume ──────────┤
//!                       v                                     v
//!                     Ended <─── (power-off, panic, fault) ───┘
//! ```
//! A network card's link can be changed at any time.
//!
//! A reset leaves a machine as it was, running or paused: a paused one has its first instruction before it again. A power button
//! pressed in a pause is latched and seen once the guest runs. An NMI would have nobody to take it, so it is refused then, and so
//! is a reboot, for which a guest has only so long.
//! A guest may end, or reset itself, while a pause is under way; that is not lost, and counts as having come before it.

/// Where a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Assembled; nothing has run yet.
    Built,
    /// vCPUs and devices run.
    Running,
    /// Nothing of it runs: no vCPU is in the guest, no device touches guest memory, no I/O is under way.
    Paused,
    /// Over.
    Ended,
}

/// What is asked of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Run for the first time.
    Start,
    /// Be started, but paused before the first instruction.
    StartPaused,
    /// Stand still.
    Pause,
    /// Go on.
    Resume,
    /// Begin anew, as by a reset button.
    Reset,
    /// Press the ACPI power button.
    PowerButton,
    /// Press it, and begin anew once the guest has powered off.
    Reboot,
    /// A non-maskable interrupt to every vCPU.
    Nmi,
    /// Plug a network card's cable in, or pull it.
    Link,
}

/// Why a machine doesn't do what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too early.
    #[error("the machine has not been started")]
    NotStarted,
    /// Started before.
    #[error("the machine was started before")]
    Started,
    /// A pause of a paused machine.
    #[error("the machine is already paused")]
    Paused,
    /// A resume of one that runs.
    #[error("the machine is not paused")]
    NotPaused,
    /// Only a running machine can do it.
    #[error("the machine is paused; resume it first")]
    Still,
    /// Too late.
    #[error("the machine has ended")]
    Ended,
}

impl State {
    /// Where the machine is after `action`.
    pub fn after(self, action: Action) -> Result<Self, Refusal> {
        match (self, action) {
            (Self::Built, Action::Link) => Ok(Self::Built),
            (Self::Built, Action::Start)
            | (Self::Running, Action::Reset | Action::PowerButton | Action::Reboot | Action::Nmi | Action::Link)
            | (Self::Paused, Action::Resume) => Ok(Self::Running),
            (Self::Built, Action::StartPaused)
            | (Self::Running, Action::Pause)
            | (Self::Paused, Action::Reset | Action::PowerButton | Action::Link) => Ok(Self::Paused),
            (Self::Ended, _) => Err(Refusal::Ended),
            (Self::Built, _) => Err(Refusal::NotStarted),
            (Self::Running | Self::Paused, Action::Start | Action::StartPaused) => Err(Refusal::Started),
            (Self::Running, Action::Resume) => Err(Refusal::NotPaused),
            (Self::Paused, Action::Pause) => Err(Refusal::Paused),
            (Self::Paused, Action::Nmi | Action::Reboot) => Err(Refusal::Still),
        }
    }
}

impl Action {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::StartPaused => "start paused",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Reset => "reset",
            Self::PowerButton => "power button",
            Self::Reboot => "reboot",
            Self::Nmi => "NMI",
            Self::Link => "link",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIONS: [Action; 9] = [
        Action::Start,
        Action::StartPaused,
        Action::Pause,
        Action::Resume,
        Action::Reset,
        Action::PowerButton,
        Action::Nmi,
        Action::Reboot,
        Action::Link,
    ];

    #[test]
    fn every_transition_is_decided() {
        use Refusal as No;
        use State::{Built, Ended, Paused, Running};
        let table = [
            (Built, [Ok(Running), Ok(Paused)], [Err(No::NotStarted); 6], Ok(Built)),
            (
                Running,
                [Err(No::Started); 2],
                [Ok(Paused), Err(No::NotPaused), Ok(Running), Ok(Running), Ok(Running), Ok(Running)],
                Ok(Running),
            ),
            (
                Paused,
                [Err(No::Started); 2],
                [Err(No::Paused), Ok(Running), Ok(Paused), Ok(Paused), Err(No::Still), Err(No::Still)],
                Ok(Paused),
            ),
            (Ended, [Err(No::Ended); 2], [Err(No::Ended); 6], Err(No::Ended)),
        ];
        for (state, starts, others, link) in table {
            for (action, expected) in ACTIONS.into_iter().zip(starts.into_iter().chain(others).chain([link])) {
                assert_eq!(state.after(action), expected, "{state:?}: {}", action.name());
            }
        }
    }
}
