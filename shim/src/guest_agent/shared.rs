//! One agent, and all who ask it.
//!
//! States: awaited (a task waits until it answers, however long that takes) → there → it doesn't answer, or its guest has rebooted →
//! awaited again. With its machine it is gone for good.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as STANDARD;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::time::Sleep;

use super::hold::Hold;
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
    /// Counts the machine's reboots; closed with it.
    reboots: watch::Receiver<u64>,
    hold: Hold,
}

impl Agent {
    /// The agent of the machine called `machine`, awaited, and what is to be put at the machine's port. `reboots` counts the
    /// machine's, and is closed with it. Needs a tokio runtime.
    pub fn pair(machine: String, reboots: watch::Receiver<u64>) -> io::Result<(Self, std::os::unix::net::UnixStream)> {
        let (client, port) = GuestAgent::pair()?;
        let (client, there) = (Mutex::new(client), watch::Sender::new(false));
        let agent = Self(Arc::new(Shared { client, there, machine, reboots, hold: Hold::default() }));
        tokio::spawn(agent.clone().follow());
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

    /// Flushes the guest's file systems and holds writes, to a [`thaw`](Self::thaw), or for `limit`. Returns how many.
    pub async fn freeze(&self, limit: Option<Duration>) -> Result<u32, AgentError> {
        let over = limit.map(tokio::time::sleep);
        let frozen = self.ask(Question { limit: LONG_ANSWER, ..Question::new("guest-fsfreeze-freeze") }).await;
        // One that hasn't answered may yet do it.
        if matches!(frozen, Ok(_) | Err(AgentError::NoAnswer { .. })) {
            let timer = over.map(|over| tokio::spawn(self.clone().thaw_after(over)).abort_handle());
            self.0.hold.begin(timer);
        }
        frozen
    }

    /// Undoes a freeze. Returns how many.
    pub async fn thaw(&self) -> Result<u32, AgentError> {
        let thawed = self.ask_to_thaw().await;
        if thawed.is_ok() {
            self.0.hold.end();
        }
        thawed
    }

    /// Whether file systems are held, as far as is known.
    pub fn holds_file_systems(&self) -> bool {
        self.0.hold.is_held()
    }

    async fn ask_to_thaw(&self) -> Result<u32, AgentError> {
        self.ask(Question { limit: LONG_ANSWER, ..Question::new("guest-fsfreeze-thaw") }).await
    }

    /// Undoes a freeze when its time is `over`, as soon as the agent answers. A guest that has rebooted holds nothing.
    async fn thaw_after(self, over: Sleep) {
        let (machine, mut reboots) = (&self.0.machine, self.reboots());
        let thaw = async {
            over.await;
            loop {
                match self.ask_to_thaw().await {
                    Ok(thawed) => break log::info!("{machine}: {thawed} file systems are thawed: their time is over"),
                    Err(AgentError::NotConnected | AgentError::NoAnswer { .. }) => {
                        // The sender is this agent's own.
                        let _ = self.presence().wait_for(|there| *there).await;
                    }
                    Err(error) => {
                        log::warn!("{machine}: not thawed in time: {:#}", anyhow::Error::from(error));
                        // They stay held.
                        std::future::pending::<()>().await;
                    }
                }
            }
        };
        tokio::select! {
            () = thaw => self.0.hold.end(),
            // Another reboot, or the machine's end.
            _ = reboots.changed() => {}
        }
    }

    /// Asks the guest to reboot, and waits a while for its refusal. [`AgentError::NotConnected`] and [`AgentError::NoAnswer`] mean that
    /// nobody was asked.
    pub async fn reboot(&self) -> Result<(), AgentError> {
        self.ping().await?;
        let arguments = Some(json!({"mode": "reboot"}));
        match self.ask(Question { arguments, ..Question::new("guest-shutdown") }).await {
            // To this question silence is consent.
            Ok(serde::de::IgnoredAny) | Err(AgentError::NoAnswer { .. } | AgentError::Rebooted { .. }) => Ok(()),
            Err(error) => Err(error),
        }
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
        let (command, mut reboots) = (question.command, self.reboots());
        let rebooted = async {
            // With the machine the channel is closed, which is heard below.
            if reboots.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let result = tokio::select! {
            result = client.ask_for(question) => result,
            () = rebooted => Err(AgentError::Rebooted { command }),
        };
        // Before the next one has the client.
        let lost = matches!(
            result,
            Err(AgentError::NoAnswer { .. } | AgentError::Rebooted { .. } | AgentError::Closed | AgentError::Io(_))
        );
        if lost {
            self.0.there.send_replace(false);
        }
        result
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

    /// Tells of reboots from now on.
    fn reboots(&self) -> watch::Receiver<u64> {
        let mut reboots = self.0.reboots.clone();
        reboots.mark_unchanged();
        reboots
    }

    /// Waits for the agent whenever it isn't there, to the machine's end.
    async fn follow(self) {
        let Shared { there, machine, hold, .. } = &*self.0;
        let (mut reboots, mut presence) = (self.0.reboots.clone(), self.presence());
        loop {
            let lost = async {
                // Of its own, so that no room is kept for it afterwards.
                match Box::pin(self.introduce()).await {
                    Ok(()) => {}
                    Err(AgentError::Closed | AgentError::Io(_)) => {
                        there.send_replace(false);
                        // Its channel doesn't come back.
                        std::future::pending::<()>().await;
                    }
                    Err(error) => log::warn!("{machine}: {:#}", anyhow::Error::from(error)),
                }
                // The sender is this agent's own.
                let _ = presence.wait_for(|there| !*there).await;
            };
            tokio::select! {
                () = lost => {}
                rebooted = reboots.changed() => {
                    there.send_replace(false);
                    if rebooted.is_err() {
                        return;
                    }
                    // What was held is no more, and what an agent was asked before is lost.
                    hold.end();
                }
            }
        }
    }

    /// Waits for the agent and tells the log what the guest calls itself, and which system it is.
    async fn introduce(&self) -> Result<(), AgentError> {
        let Shared { client, there, machine, .. } = &*self.0;
        let mut client = client.lock().await;
        client.sync().await?;
        there.send_replace(true);
        let (info, host, os) = (client.info().await?, client.host_name().await?, client.os_info().await?);
        let (version, name, kernel) = (plain(&info.version), plain(&os.pretty_name), plain(&os.kernel_release));
        log::info!("{machine}: guest agent {version} on {}: {name}, kernel {kernel}", plain(&host.host_name));
        Ok(())
    }
}
