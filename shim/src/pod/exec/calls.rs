//! What containerd asks of a container's commands and channels.

use std::pin::Pin;
use std::sync::Arc;

use containerd_shim::api::ExecProcessRequest;
use containerd_shim::protos::events::task::{TaskExecAdded, TaskExecStarted, TaskExit};
use containerd_shim::protos::protobuf::MessageField;
use vireo_runtimeclass::machine_service::CHANNEL;

use super::channel::{Channel, MAX_CHANNELS};
use super::command::Program;
use super::streams::Streams;
use super::{Exec, signal};
use crate::pod::container::{Container, lock};
use crate::pod::error::illegal;
use crate::pod::lifecycle::{Exit, Illegal, Phase, Step};
use crate::pod::machine::State;
use crate::pod::supervise::timestamp;
use crate::pod::{Pod, PodError};
use crate::service::events::Publisher;
use crate::stdio::Paths;

/// A command or channel that runs.
#[derive(Debug)]
pub struct StartedExec {
    /// The process that stands for it: the machine's, since it has none here.
    pub pid: u32,
    /// What is to be spoken at, if it is a channel.
    pub channel: Option<Channel>,
}

fn illegal_exec(exec: &Exec, source: Illegal) -> PodError {
    PodError::IllegalExec { exec: exec.id.clone(), source }
}

impl Pod {
    /// The command `exec` of a container.
    pub fn exec(&self, id: &str, exec: &str) -> Result<(Arc<Container>, Arc<Exec>), PodError> {
        let container = self.container(id)?;
        let found = lock(&container.execs).get(exec).cloned();
        let found = found.ok_or_else(|| PodError::NoExec { container: id.into(), exec: exec.into() })?;
        Ok((container, found))
    }

    /// Makes a command, to be started.
    pub fn add_exec(&self, request: &ExecProcessRequest) -> Result<(), PodError> {
        let container = self.container(&request.id)?;
        let agent = container.agent().ok_or_else(|| PodError::Sandbox(request.id.clone(), "processes"))?;
        let program = Program::read(request)?;
        running(&container, &program)?;
        let stdio = Paths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: false,
        };
        let exec = Arc::new(Exec::new(request.exec_id.clone(), program, stdio, agent));
        let mut execs = lock(&container.execs);
        if execs.contains_key(&request.exec_id) {
            return Err(PodError::ExecExists(request.exec_id.clone()));
        }
        let channels =
            execs.values().filter(|other| other.program == Program::Channel && other.phase().exit().is_none());
        if exec.program == Program::Channel && channels.count() >= MAX_CHANNELS {
            return Err(PodError::Invalid(format!(
                "exec of {CHANNEL}: there are {MAX_CHANNELS} already, which is the most"
            )));
        }
        execs.insert(request.exec_id.clone(), exec);
        drop(execs);
        self.events.publish(&TaskExecAdded {
            container_id: request.id.clone(),
            exec_id: request.exec_id.clone(),
            ..Default::default()
        });
        Ok(())
    }

    /// Starts a command or a channel.
    pub async fn start_exec(&self, id: &str, exec: &str) -> Result<StartedExec, PodError> {
        let (container, exec) = self.exec(id, exec)?;
        let machine = container.machine().ok_or_else(|| PodError::Sandbox(id.into(), "processes"))?;
        exec.life.step(Step::Start).map_err(|source| illegal_exec(&exec, source))?;
        let events = self.events.clone();
        // A task of its own: containerd may stop waiting, and the start must be decided all the same.
        let starting = tokio::spawn(async move {
            let (channel, followed) = match begin(&container, &exec, machine.state()).await {
                Ok(begun) => begun,
                Err(error) => {
                    exec.ended(super::NOT_RUN);
                    return Err(error);
                }
            };
            exec.life.step(Step::Started).map_err(|source| illegal_exec(&exec, source))?;
            let pid = container.pid();
            events.publish(&TaskExecStarted {
                container_id: container.id.clone(),
                exec_id: exec.id.clone(),
                pid,
                ..Default::default()
            });
            tokio::spawn(follow(container, exec, followed, events));
            Ok(StartedExec { pid, channel })
        });
        starting.await.unwrap_or_else(|error| Err(PodError::DidNotStart(error.to_string())))
    }

    /// Sends a signal to a command. SIGKILL, and any signal to one that isn't in the guest yet, ends it here at once.
    pub fn kill_exec(&self, id: &str, exec: &str, number: u32) -> Result<(), PodError> {
        let (container, exec) = self.exec(id, exec)?;
        let gone = || PodError::NoExec { container: id.into(), exec: exec.id.clone() };
        let guest_pid = *lock(&exec.guest_pid);
        match exec.phase() {
            Phase::Stopped(_) => return Err(gone()),
            _ if number == 0 => return Ok(()),
            Phase::Creating | Phase::Created => {
                exec.ended(128 + number.min(64));
                return Ok(());
            }
            Phase::Starting | Phase::Running => {}
        }
        if let (Some(pid), Some(machine)) = (guest_pid, container.machine()) {
            tokio::spawn(signal(exec.agent.clone(), pid, number, machine.state()));
        }
        if guest_pid.is_none() || number == libc::SIGKILL.unsigned_abs() {
            exec.killed.notify_one();
        }
        Ok(())
    }

    /// Ends a command's input.
    pub fn close_exec_stdin(&self, id: &str, exec: &str) -> Result<(), PodError> {
        self.exec(id, exec)?.1.input_closed.notify_one();
        Ok(())
    }

    /// Waits until a command is over.
    pub async fn wait_exec(&self, id: &str, exec: &str) -> Result<Exit, PodError> {
        let (_, found) = self.exec(id, exec)?;
        found.life.exited().await.ok_or_else(|| PodError::NoExec { container: id.into(), exec: exec.into() })
    }

    /// Forgets a command that is over, or was never started.
    pub fn delete_exec(&self, id: &str, exec: &str) -> Result<(u32, Exit), PodError> {
        let (container, found) = self.exec(id, exec)?;
        if found.phase() == Phase::Created {
            found.ended(0);
        }
        let Phase::Stopped(exit) = found.phase() else { return Err(illegal_exec(&found, Illegal::Started)) };
        lock(&container.execs).remove(exec);
        Ok((container.pid(), exit))
    }
}

/// Whether the machine is there for `program`: what runs in the guest needs one that isn't paused.
fn running(container: &Container, program: &Program) -> Result<(), PodError> {
    let paused = || {
        let machine = container.machine();
        machine.is_some_and(|machine| matches!(*machine.state().borrow(), State::Paused(_)))
    };
    match container.phase() {
        Phase::Running if *program != Program::Channel && paused() => Err(illegal(container, Illegal::Paused)),
        Phase::Running => Ok(()),
        Phase::Stopped(_) => Err(illegal(container, Illegal::Stopped)),
        _ => Err(illegal(container, Illegal::NotStarted)),
    }
}

/// Its end, to be waited for: its exit code.
type Followed = Pin<Box<dyn Future<Output = u32> + Send>>;

async fn begin(
    container: &Arc<Container>,
    exec: &Arc<Exec>,
    state: tokio::sync::watch::Receiver<State>,
) -> Result<(Option<Channel>, Followed), PodError> {
    running(container, &exec.program)?;
    let exec = exec.clone();
    match exec.program.clone() {
        Program::Channel => {
            let (channel, done) = Channel::open(container.clone(), &exec)?;
            Ok((Some(channel), Box::pin(async move { exec.follow_channel(done).await })))
        }
        Program::Ping => {
            let streams = Streams::open(&exec.stdio)?;
            Ok((None, Box::pin(async move { exec.ping(streams).await })))
        }
        Program::Command(command) => {
            let streams = Streams::open(&exec.stdio)?;
            exec.begin(&command, &streams).await.map_err(PodError::Exec)?;
            Ok((None, Box::pin(async move { exec.follow(&command, streams, state).await })))
        }
    }
}

async fn follow(container: Arc<Container>, exec: Arc<Exec>, followed: Followed, events: Publisher) {
    let code = followed.await;
    if let Some(exit) = exec.ended(code) {
        events.publish(&TaskExit {
            container_id: container.id.clone(),
            id: exec.id.clone(),
            pid: container.pid(),
            exit_status: exit.code,
            exited_at: MessageField::some(timestamp(exit.at)),
            ..Default::default()
        });
    }
}
