//! What `start`, `stop` and `restart` do to a guest: the subresources write what [`command`] says, and the controller acts
//! on that.

use std::collections::BTreeMap;

use vireo_runtimeclass::cluster::{InstancePhase, RunStrategy, StateChange, StateChangeRequest};

use super::{Guest, Instance};

/// What a client of the subresources asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `start`.
    Start {
        /// It is to stand still before its first instruction.
        paused: bool,
    },
    /// `stop`.
    Stop {
        /// Seconds that the guest has to end.
        grace_period: Option<i64>,
    },
    /// `restart`.
    Restart {
        /// 0: at once.
        grace_period: Option<i64>,
    },
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The instance's `spec.terminationGracePeriodSeconds`, first.
    pub grace_period: Option<i64>,
    /// Then what is wanted of the guest.
    pub want: Want,
    /// Then the instance's pod is deleted, with a second to end.
    pub deletes_pod: bool,
}

/// What is wanted of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want {
    /// This strategy: `spec.runStrategy`, or `spec.running` where that is what the spec names.
    Strategy(RunStrategy),
    /// These requests in the place of `status.stateChangeRequests`; `status.startFailure` goes.
    Requests(Vec<StateChangeRequest>),
}

/// Why nothing is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The guest isn't in a state for it: 409.
    #[error("{0}")]
    Conflict(String),
    /// It makes no sense for any guest: 400.
    #[error("{0}")]
    BadRequest(String),
}

/// What `asked` does to a guest.
///
/// # Errors
/// Why it does nothing.
pub fn command(guest: &Guest<'_>, asked: Command) -> Result<Effect, Refusal> {
    match asked {
        Command::Start { paused } => start(guest, paused),
        Command::Stop { grace_period } => stop(guest, grace_period),
        Command::Restart { grace_period } => restart(guest, grace_period),
    }
}

fn start(guest: &Guest<'_>, paused: bool) -> Result<Effect, Refusal> {
    let phase = guest.instance.and_then(|instance| instance.status.phase);
    if guest.instance.is_some_and(|instance| !instance.is_final())
        && !matches!(phase, None | Some(InstancePhase::Unknown))
    {
        return conflict("VM is already running");
    }
    let data = if paused { BTreeMap::from([("paused".to_owned(), "true".to_owned())]) } else { BTreeMap::new() };
    let request = StateChangeRequest { action: StateChange::Start, data, uid: None };
    let ended = guest.instance.filter(Instance::is_final);
    match (guest.strategy, ended) {
        // The controller makes it `Always` when it sees the request, which says more than a strategy can.
        (RunStrategy::Halted, _) if paused => requests(guest, vec![request]),
        (RunStrategy::Halted, _) => Ok(strategy(RunStrategy::Always)),
        (strategy @ (RunStrategy::Always | RunStrategy::Once), _) => {
            conflict(format!("{strategy:?} does not support manual start requests"))
        }
        (RunStrategy::RerunOnFailure, Some(_)) if phase == Some(InstancePhase::Failed) => {
            conflict("RerunOnFailure does not support starting VM from failed state")
        }
        (RunStrategy::Manual | RunStrategy::RerunOnFailure, Some(ended)) => {
            requests(guest, vec![stop_request(ended), request])
        }
        (RunStrategy::Manual | RunStrategy::RerunOnFailure, None) => requests(guest, vec![request]),
    }
}

fn stop(guest: &Guest<'_>, grace_period: Option<i64>) -> Result<Effect, Refusal> {
    let live = guest.instance.filter(|instance| !instance.is_final());
    let effect = match (guest.strategy, live) {
        (RunStrategy::Always | RunStrategy::Once, _) => strategy(RunStrategy::Halted),
        (_, None) => return conflict("VM is not running"),
        (RunStrategy::Halted, Some(live)) if !is_shorter(grace_period, live.grace_period) => {
            return conflict("Halted only supports manual stop requests with a shorter graceperiod");
        }
        (RunStrategy::Halted | RunStrategy::Manual | RunStrategy::RerunOnFailure, Some(live)) => {
            requests(guest, vec![stop_request(live)])?
        }
    };
    Ok(Effect { grace_period: grace_period.filter(|_| live.is_some()), ..effect })
}

/// One that says nothing is taken for longer than any.
fn is_shorter(asked: Option<i64>, has: Option<i64>) -> bool {
    asked.is_some_and(|asked| has.is_none_or(|has| asked < has))
}

fn restart(guest: &Guest<'_>, grace_period: Option<i64>) -> Result<Effect, Refusal> {
    match grace_period {
        Some(1..) => {
            return bad_request("For force restart, only gracePeriod=0 is supported for now");
        }
        Some(..0) => return bad_request("gracePeriod has to be greater or equal to 0"),
        None | Some(0) => {}
    }
    if let strategy @ (RunStrategy::Halted | RunStrategy::Once) = guest.strategy {
        return conflict(format!("{strategy:?} does not support manual restart requests"));
    }
    let Some(instance) = guest.instance else { return conflict("VM is not running") };
    let start = StateChangeRequest { action: StateChange::Start, data: BTreeMap::new(), uid: None };
    let effect = requests(guest, vec![stop_request(instance), start])?;
    Ok(Effect { deletes_pod: grace_period.is_some(), ..effect })
}

fn stop_request(instance: Instance<'_>) -> StateChangeRequest {
    StateChangeRequest { action: StateChange::Stop, data: BTreeMap::new(), uid: Some(instance.uid.to_owned()) }
}

fn strategy(strategy: RunStrategy) -> Effect {
    Effect { grace_period: None, want: Want::Strategy(strategy), deletes_pod: false }
}

/// A stop takes the place of whatever was asked for; anything else waits until there is nothing.
fn requests(guest: &Guest<'_>, requests: Vec<StateChangeRequest>) -> Result<Effect, Refusal> {
    let is_stop = matches!(&requests[..], [StateChangeRequest { action: StateChange::Stop, .. }]);
    if !is_stop && guest.first_request().is_some() {
        return conflict("unable to complete request: stop/start already underway");
    }
    Ok(Effect { grace_period: None, want: Want::Requests(requests), deletes_pod: false })
}

fn conflict<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Conflict(why.into()))
}

fn bad_request<T>(why: &str) -> Result<T, Refusal> {
    Err(Refusal::BadRequest(why.to_owned()))
}

#[cfg(test)]
mod tests;
