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
/// Exit codes, as a shell has them: the command couldn't be run; what became of it isn't known.
const NOT_RUN: u32 = 126;
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
            () = self.killed.notified() => 128 + libc::SIGKILL.unsigned_abs(),
        }
    }

    /// Follows a command to its end. Returns its exit code.
    async fn follow(&self, command: &Command, mut streams: Streams, mut state: watch::Receiver<State>) -> u32 {
        let machine = state.clone();
        let finished = async {
            match self.finish(command, &mut streams, &machine).await {
                Ok(code) => code,
                Err((code, text)) => {
                    streams.complain(&text).await;
                    code
                }
            }
        };
        tokio::select! {
            code = finished => code,
            () = self.killed.notified() => 128 + libc::SIGKILL.unsigned_abs(),
            _ = state.wait_for(|state| matches!(state, State::Ended { .. })) => 128 + libc::SIGKILL.unsigned_abs(),
        }
    }

    async fn finish(
        &self,
        command: &Command,
        streams: &mut Streams,
        state: &watch::Receiver<State>,
    ) -> Result<u32, (u32, String)> {
        let told = |error: AgentError| format!("exec: {:#}", anyhow::Error::from(error));
        if streams.has_input() {
            let input = streams.input(&self.input_closed).await;
            let input = input.map_err(|error| (NOT_RUN, format!("exec: stdin: {error}")))?;
            self.run(command, &input).await.map_err(|error| (NOT_RUN, told(error)))?;
        }
        let Some(pid) = *lock(&self.guest_pid) else { return Ok(UNKNOWN) };
        let status = wait(&self.agent, pid, state).await.map_err(|error| (UNKNOWN, told(error)))?;
        let decoded = status.stdout().and_then(|stdout| Ok((stdout, status.stderr()?)));
        let (stdout, stderr) = decoded.map_err(|error| (UNKNOWN, format!("exec: output: {error}")))?;
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
