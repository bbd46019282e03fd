//! One agent, and all who ask it.
//!
//! States: awaited (a task waits until it answers, however long that takes) → there → it doesn't answer → awaited again: its guest
//! reboots, or it was stopped. With its machine it is gone for good.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, watch};

use super::{AgentError, Exec, ExecStatus, GuestAgent, plain};

/// How long an agent that is awaited may make others wait.
const GRACE: Duration = Duration::from_secs(2);

/// See the module. A clone is the same agent.
#[derive(Debug, Clone)]
pub struct Agent(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Held by the waiting task while the agent is awaited.
    client: Mutex<GuestAgent>,
    there: watch::Sender<bool>,
    machine: String,
}

impl Agent {
    /// The agent of the machine called `machine`, awaited, and what is to be put at the machine's port. Needs a tokio runtime.
    pub fn pair(machine: String) -> io::Result<(Self, std::os::unix::net::UnixStream)> {
        let (client, port) = GuestAgent::pair()?;
        let agent = Self(Arc::new(Shared { client: Mutex::new(client), there: watch::Sender::new(false), machine }));
        tokio::spawn(agent.clone().introduce());
        Ok((agent, port))
    }

    /// Whether it answers.
    pub async fn ping(&self) -> Result<(), AgentError> {
        let mut client = self.client().await?;
        let result = client.ping().await;
        self.noted(client, result)
    }

    /// Runs a command in the guest. Returns its process there.
    pub async fn exec(&self, exec: &Exec) -> Result<i64, AgentError> {
        let mut client = self.client().await?;
        let result = client.exec(exec).await;
        self.noted(client, result)
    }

    /// What became of a command.
    pub async fn exec_status(&self, pid: i64) -> Result<ExecStatus, AgentError> {
        let mut client = self.client().await?;
        let result = client.exec_status(pid).await;
        self.noted(client, result)
    }

    async fn client(&self) -> Result<MutexGuard<'_, GuestAgent>, AgentError> {
        let mut there = self.0.there.subscribe();
        let came = tokio::time::timeout(GRACE, there.wait_for(|there| *there)).await.is_ok_and(|came| came.is_ok());
        if !came {
            return Err(AgentError::NotConnected);
        }
        let client = self.0.client.lock().await;
        // Lost by whoever had it before.
        if *self.0.there.borrow() { Ok(client) } else { Err(AgentError::NotConnected) }
    }

    /// Notices an agent that is no longer there.
    fn noted<T>(&self, client: MutexGuard<'_, GuestAgent>, result: Result<T, AgentError>) -> Result<T, AgentError> {
        match &result {
            Err(AgentError::NoAnswer { .. }) => {
                self.0.there.send_replace(false);
                drop(client);
                tokio::spawn(self.clone().introduce());
            }
            Err(AgentError::Closed | AgentError::Io(_)) => {
                self.0.there.send_replace(false);
            }
            _ => {}
        }
        result
    }

    /// Waits for the agent and tells the log what the guest calls itself, and which system it is. Ends with the machine at the latest.
    async fn introduce(self) {
        let Shared { client, there, machine } = &*self.0;
        let mut client = client.lock().await;
        let introduced = async {
            client.sync().await?;
            there.send_replace(true);
            Ok::<_, AgentError>((client.info().await?, client.host_name().await?, client.os_info().await?))
        };
        match introduced.await {
            Ok((info, host, os)) => {
                let (version, name, kernel) = (plain(&info.version), plain(&os.pretty_name), plain(&os.kernel_release));
                log::info!("{machine}: guest agent {version} on {}: {name}, kernel {kernel}", plain(&host.host_name));
            }
            Err(error) => {
                if !matches!(error, AgentError::Closed | AgentError::Io(_)) {
                    log::warn!("{machine}: {:#}", anyhow::Error::from(error));
                }
            }
        }
    }
}
