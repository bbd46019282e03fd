//! One agent, and all who ask it.
//!
//! States: awaited (a task waits until it answers, however long that takes) → there → it doesn't answer → awaited again: its guest
//! reboots, or it was stopped. With its machine it is gone for good.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as STANDARD;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard, watch};

use super::messages::{MAX_OUTPUT_REPLY, Started};
use super::{
    AgentError, Exec, ExecStatus, FileSystem, GuestAgent, HostName, Info, LONG_ANSWER, OsInfo, Question, User, plain,
};

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

    /// Whether it has answered, and not failed to since.
    pub fn is_connected(&self) -> bool {
        *self.0.there.borrow()
    }

    /// Whether it is there, as that changes; closed when the agent is gone for good.
    pub fn presence(&self) -> watch::Receiver<bool> {
        self.0.there.subscribe()
    }

    /// Makes `keys` the SSH keys of a user of the guest, all that it has.
    pub async fn set_ssh_keys(&self, user: &str, keys: &[String]) -> Result<(), AgentError> {
        let arguments = Some(json!({"username": user, "keys": keys, "reset": true}));
        let question = Question { arguments, limit: LONG_ANSWER, ..Question::new("guest-ssh-add-authorized-keys") };
        self.ask::<serde::de::IgnoredAny>(question).await.map(|_| ())
    }

    /// Gives a user of the guest a password.
    pub async fn set_password(&self, user: &str, password: &str) -> Result<(), AgentError> {
        let password = STANDARD.encode(password);
        let arguments = Some(json!({"username": user, "password": password, "crypted": false}));
        let question = Question { arguments, limit: LONG_ANSWER, ..Question::new("guest-set-user-password") };
        self.ask::<serde::de::IgnoredAny>(question).await.map(|_| ())
    }

    /// Whether it answers.
    pub async fn ping(&self) -> Result<(), AgentError> {
        self.ask::<serde::de::IgnoredAny>(Question::new("guest-ping")).await.map(|_| ())
    }

    /// Which agent it is.
    pub async fn info(&self) -> Result<Info, AgentError> {
        self.ask(Question::new("guest-info")).await
    }

    /// What the guest calls itself.
    pub async fn host_name(&self) -> Result<HostName, AgentError> {
        self.ask(Question::new("guest-get-host-name")).await
    }

    /// Which system the guest is.
    pub async fn os_info(&self) -> Result<OsInfo, AgentError> {
        self.ask(Question::new("guest-get-osinfo")).await
    }

    /// Who is logged in.
    pub async fn users(&self) -> Result<Vec<User>, AgentError> {
        self.ask(Question::new("guest-get-users")).await
    }

    /// What is mounted.
    pub async fn file_systems(&self) -> Result<Vec<FileSystem>, AgentError> {
        self.ask(Question::new("guest-get-fsinfo")).await
    }

    /// Flushes the guest's file systems and holds writes. Returns how many.
    pub async fn freeze(&self) -> Result<u32, AgentError> {
        self.ask(Question { limit: LONG_ANSWER, ..Question::new("guest-fsfreeze-freeze") }).await
    }

    /// Undoes a freeze. Returns how many.
    pub async fn thaw(&self) -> Result<u32, AgentError> {
        self.ask(Question { limit: LONG_ANSWER, ..Question::new("guest-fsfreeze-thaw") }).await
    }

    /// Runs a command in the guest; [`exec_status`](Self::exec_status) tells what becomes of it. Returns its process there.
    pub async fn exec(&self, exec: &Exec) -> Result<i64, AgentError> {
        let arguments = Some(json!(exec));
        let question = Question { arguments, limit: LONG_ANSWER, ..Question::new("guest-exec") };
        self.ask::<Started>(question).await.map(|started| started.pid)
    }

    /// What became of a command. The agent forgets one of which it has said that it is over.
    pub async fn exec_status(&self, pid: i64) -> Result<ExecStatus, AgentError> {
        self.ask(Question {
            arguments: Some(json!({"pid": pid})),
            limit: LONG_ANSWER,
            reply: MAX_OUTPUT_REPLY,
            ..Question::new("guest-exec-status")
        })
        .await
    }

    async fn ask<T: DeserializeOwned>(&self, question: Question) -> Result<T, AgentError> {
        let mut client = self.client().await?;
        let result = client.ask_for(question).await;
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
