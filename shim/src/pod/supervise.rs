//! A machine's life after its creation: its start, its end, and what containerd is told of them.
//!
//! Invariant: an end is told after the start that it follows, and after the console's last output.

use std::sync::Arc;
use std::time::SystemTime;

use containerd_shim::protos::events::task::{TaskExit, TaskOOM, TaskPaused, TaskResumed};
use containerd_shim::protos::protobuf::MessageField;
use containerd_shim::protos::protobuf::well_known_types::timestamp::Timestamp;
use tokio::sync::watch;

use super::container::Container;
use super::error::PodError;
use super::lifecycle::{Exit, Step};
use super::machine::{ANSWER, Machine, Outcome, State};
use crate::cgroup::OomWatch;
use crate::termination;

/// Follows a machine to its end and tells of it.
pub async fn supervise(container: Arc<Container>, mut state: watch::Receiver<State>, mut oom: Option<OomWatch>) {
    let events = &container.events;
    let killed = TaskOOM { container_id: container.id.clone(), ..Default::default() };
    let (mut out_of_memory, mut pauses) = (false, Pauses(false));
    let mut outcome = loop {
        tokio::select! {
            kill = next_kill(&mut oom) => match kill {
                Ok(()) => {
                    out_of_memory = true;
                    events.publish(&killed);
                }
                Err(error) => {
                    log::warn!("container {}: OOM kills are no longer told: {error}", container.id);
                    oom = None;
                }
            },
            change = pauses.next(&mut state) => match change {
                Change::Ended(outcome) => break outcome,
                Change::Paused => {
                    // Not before its start.
                    drop(container.starting.lock().await);
                    events.publish(&TaskPaused { container_id: container.id.clone(), ..Default::default() });
                }
                Change::Resumed => {
                    events.publish(&TaskResumed { container_id: container.id.clone(), ..Default::default() });
                }
            },
        }
    };
    // The kill may have been told to the parent before inotify told of it.
    if oom.as_mut().is_some_and(OomWatch::check) {
        out_of_memory = true;
        events.publish(&killed);
    }
    if out_of_memory {
        outcome = Outcome { code: 137, reason: Some("out of memory: the container's limit is too low".into()) };
    }
    let at = SystemTime::now();
    let last = outcome.reason.as_ref().map(|reason| format!("vireo: {reason}"));
    if let Some(console) = container.console() {
        console.finish(last.as_deref()).await;
    }
    if let Some(last) = &last {
        log::info!("container {}: exit {}: {last}", container.id, outcome.code);
        termination::write(container.bundle.spec(), last);
    }
    let _decided = container.starting.lock().await;
    let exit = Exit { code: outcome.code, at };
    if container.step(Step::Ended(exit.clone())).is_ok() {
        events.publish(&task_exit(&container, &exit));
    }
}

/// Whether containerd has been told of a pause.
struct Pauses(bool);

/// What a machine does that containerd is told of.
enum Change {
    Paused,
    Resumed,
    Ended(Outcome),
}

impl Pauses {
    /// The next change. Nothing is lost if it isn't waited for to the end; a pause that is over already isn't told.
    async fn next(&mut self, state: &mut watch::Receiver<State>) -> Change {
        let paused = self.0;
        let news = |state: &State| match state {
            State::Ended { .. } => true,
            State::Paused(_) => !paused,
            State::Building | State::Ready => false,
            State::Started => paused,
        };
        let change = match state.wait_for(news).await.as_deref() {
            Ok(State::Ended { outcome, .. }) => Change::Ended(outcome.clone()),
            Ok(State::Paused(_)) => Change::Paused,
            Ok(_) => Change::Resumed,
            Err(_) => Change::Ended(Outcome { code: 1, reason: Some("lost".into()) }),
        };
        self.0 = matches!(change, Change::Paused);
        change
    }
}

async fn next_kill(oom: &mut Option<OomWatch>) -> std::io::Result<()> {
    match oom {
        Some(oom) => oom.killed().await,
        None => std::future::pending().await,
    }
}

/// Starts a machine and waits until its guest runs, or has run.
pub async fn run(machine: &dyn Machine) -> Result<(), PodError> {
    let mut state = machine.state();
    machine.start()?;
    let decided = |state: &State| matches!(state, State::Started | State::Paused(_) | State::Ended { .. });
    let started = tokio::time::timeout(ANSWER, state.wait_for(decided)).await;
    match started.map_err(|_| PodError::NoAnswer("start its machine"))?.as_deref() {
        Ok(State::Ended { outcome, started: false }) => Err(PodError::DidNotStart(reason(outcome))),
        Ok(_) => Ok(()),
        Err(_) => Err(PodError::NoAnswer("start its machine")),
    }
}

/// Why a machine ended, in words.
pub fn reason(outcome: &Outcome) -> String {
    outcome.reason.clone().unwrap_or_else(|| "it ended".into())
}

/// containerd's event for the end of a container.
pub fn task_exit(container: &Container, exit: &Exit) -> TaskExit {
    TaskExit {
        container_id: container.id.clone(),
        // The init process has the container's id.
        id: container.id.clone(),
        pid: container.pid(),
        exit_status: exit.code,
        exited_at: MessageField::some(timestamp(exit.at)),
        ..Default::default()
    }
}

/// A protobuf timestamp.
pub fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::from(at)
}
