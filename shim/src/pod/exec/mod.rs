//! containerd's other processes of a container: a command that runs in the guest, through its agent, or the [`channel`] to the
//! machine itself.
//!
//! An agent runs a command with all of its input, and tells of its end and output when it is asked: so a command with input starts
//! when its input has ended, output comes at the end, and until then the agent is asked again and again.
//!
//! Invariants: containerd hears of the start before the end; a command that is killed, or whose machine ends, is over at once,
//! whatever the guest does.

mod calls;
pub mod channel;
mod command;
mod streams;

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use super::container::lock;
use super::life::Life;
use super::lifecycle::{Exit, Phase, Step};
use super::machine::State;
use crate::guest_agent::{Agent, AgentError, ExecStatus};
use crate::stdio::Paths;
use command::{Command, Program};
use streams::Streams;

pub use calls::StartedExec;

/// Between questions: at first, and at most.
const POLL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// How long an agent may be away while a command runs, unless the machine is paused.
const AWAY: Duration = Duration::from_mins(1);
/// How long a guest may take to end a killed command, before that is no longer looked at.
const KILLED: Duration = Duration::from_secs(30);
/// How long a machine whose agent's channel has closed may take to be known to be over.
const ENDING: Duration = Duration::from_secs(2);
/// Exit codes, as a shell has them: a ping has no answer; the command couldn't be run; it was killed; what became of it isn't known.
const NO_ANSWER: u32 = 1;
const NOT_RUN: u32 = 126;
const KILLED_CODE: u32 = 128 + libc::SIGKILL.unsigned_abs();
const UNKNOWN: u32 = 255;

/// One command, or one channel.
#[derive(Debug)]
pub struct Exec {
    /// containerd's id.
    pub id: String,
    /// Its streams, as containerd named them.
    pub stdio: Paths,
    program: Program,
    agent: Agent,
    life: Life,
    /// Its process in the guest, once it has one.
    guest_pid: Mutex<Option<i64>>,
    input_closed: Notify,
    /// Ends it for containerd.
    killed: Notify,
}

impl Exec {
    fn new(id: String, program: Program, stdio: Paths, agent: Agent) -> Exec {
        Exec {
            id,
            stdio,
            program,
            agent,
            life: Life::new(Phase::Created),
            guest_pid: Mutex::new(None),
            input_closed: Notify::new(),
            killed: Notify::new(),
        }
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        self.life.phase()
    }

    /// Starts it; with input it is enough that the agent is there.
    async fn begin(&self, command: &Command, streams: &Streams) -> Result<(), AgentError> {
        if streams.has_input() { self.agent.ping().await } else { self.run(command, &[]).await }
    }

    async fn run(&self, command: &Command, input: &[u8]) -> Result<(), AgentError> {
        let pid = self.agent.exec(&command.with_input(input)).await?;
        *lock(&self.guest_pid) = Some(pid);
        Ok(())
    }

    /// Follows a channel to its end. Returns its exit code.
    async fn follow_channel(&self, done: oneshot::Receiver<()>) -> u32 {
        tokio::select! {
            _ = done => 0,
            () = self.killed.notified() => KILLED_CODE,
        }
    }

    /// Asks the agent. Returns an exit code: a probe fails by that, and would make nothing of an exec that can't be started.
    async fn ping(&self, mut streams: Streams) -> u32 {
        let answered = async {
            match self.agent.ping().await {
                Ok(()) => 0,
                Err(error) => {
                    streams.complain(&format!("{:#}", anyhow::Error::from(error))).await;
                    NO_ANSWER
                }
            }
        };
        tokio::select! {
            code = answered => code,
            () = self.killed.notified() => KILLED_CODE,
        }
    }

    /// Follows a command to its end. Returns its exit code.
    async fn follow(&self, command: &Command, mut streams: Streams, mut state: watch::Receiver<State>) -> u32 {
        let machine = state.clone();
        let finished = async {
            match self.finish(command, &mut streams, &machine).await {
                Ok(code) => code,
                Err(failure) if failure.closed && ends_soon(machine.clone()).await => KILLED_CODE,
                Err(failure) => {
                    streams.complain(&failure.text).await;
                    failure.code
                }
            }
        };
        tokio::select! {
            code = finished => code,
            () = self.killed.notified() => KILLED_CODE,
            _ = state.wait_for(|state| matches!(state, State::Ended { .. })) => KILLED_CODE,
        }
    }

    async fn finish(
        &self,
        command: &Command,
        streams: &mut Streams,
        state: &watch::Receiver<State>,
    ) -> Result<u32, Failure> {
        if streams.has_input() {
            let input = streams.input(&self.input_closed).await;
            let input = input.map_err(|error| Failure::new(NOT_RUN, format!("exec: stdin: {error}")))?;
            self.run(command, &input).await.map_err(|error| Failure::of(NOT_RUN, error))?;
        }
        let Some(pid) = *lock(&self.guest_pid) else { return Ok(UNKNOWN) };
        let status = wait(&self.agent, pid, state).await.map_err(|error| Failure::of(UNKNOWN, error))?;
        let decoded = status.stdout().and_then(|stdout| Ok((stdout, status.stderr()?)));
        let (stdout, stderr) = decoded.map_err(|error| Failure::new(UNKNOWN, format!("exec: output: {error}")))?;
        streams.output(&stdout, &stderr).await;
        if status.truncated() {
            streams.complain("exec: the guest agent cut the output off").await;
        }
        Ok(status.code())
    }

    fn ended(&self, code: u32) -> Option<Exit> {
        let exit = Exit { code, at: SystemTime::now() };
        self.life.step(Step::Ended(exit.clone())).ok().map(|()| exit)
    }
}

/// Why nothing is known of a command's end.
struct Failure {
    code: u32,
    text: String,
    /// The agent's channel is closed, as it is when the machine ends.
    closed: bool,
}

impl Failure {
    fn new(code: u32, text: String) -> Failure {
        Failure { code, text, closed: false }
    }

    fn of(code: u32, error: AgentError) -> Failure {
        let closed = matches!(error, AgentError::Closed | AgentError::Io(_));
        Failure { code, text: format!("exec: {:#}", anyhow::Error::from(error)), closed }
    }
}

/// Whether a machine is over, or is within [`ENDING`]: its channels close before its end is told.
async fn ends_soon(mut state: watch::Receiver<State>) -> bool {
    let ended = state.wait_for(|state| matches!(state, State::Ended { .. }));
    tokio::time::timeout(ENDING, ended).await.is_ok()
}

/// Waits for the end of a process in the guest.
async fn wait(agent: &Agent, pid: i64, state: &watch::Receiver<State>) -> Result<ExecStatus, AgentError> {
    let mut pause = POLL.0;
    let mut heard = Instant::now();
    loop {
        match agent.exec_status(pid).await {
            Ok(status) if status.exited => return Ok(status),
            Ok(_) => heard = Instant::now(),
            Err(AgentError::NoAnswer { .. } | AgentError::NotConnected)
                if heard.elapsed() < AWAY || matches!(*state.borrow(), State::Paused(_)) => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(POLL.1);
    }
}

/// Sends a signal to a process in the guest, as far as the guest has the command `kill`.
async fn signal(agent: Agent, pid: i64, number: u32, state: watch::Receiver<State>) {
    let sent = async {
        let kill = agent.exec(&command::kill(pid, number)).await?;
        let status = wait(&agent, kill, &state).await?;
        if number == libc::SIGKILL.unsigned_abs() {
            // The agent keeps what became of it until it is asked.
            wait(&agent, pid, &state).await?;
        }
        Ok::<_, AgentError>(status.code())
    };
    match tokio::time::timeout(KILLED, sent).await {
        Ok(Ok(0)) => {}
        Ok(Ok(code)) => log::warn!("the guest's kill -{number} {pid} ended with {code}"),
        Ok(Err(error)) => log::warn!("kill -{number} {pid} in the guest: {:#}", anyhow::Error::from(error)),
        Err(_) => log::warn!("kill -{number} {pid} in the guest: not over within {KILLED:?}"),
    }
}

#[cfg(test)]
mod tests;
