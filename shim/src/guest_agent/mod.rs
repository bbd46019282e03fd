//! A client of the stock QEMU guest agent (`qemu-ga`), which listens to JSON lines on the port `org.qemu.guest_agent.0`.
//!
//! The agent is the guest's, so nothing that it says is believed, waited for without a deadline, or kept without a bound.
//!
//! States: out of step → [`GuestAgent::sync`] → in step; a reply that doesn't come, or makes no sense, leads back. An agent that
//! isn't there yet is waited for by `sync` with no deadline: what is sent to it waits at the machine's port.

mod hold;
mod messages;
mod replies;
mod shared;
#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

pub use messages::{Exec, ExecStatus, FileSystem, HostName, Info, OsInfo, User};
pub use replies::{MAX_REPLY, Replies, ReplyError, read};
pub use shared::Agent;

use crate::log::bounded;

/// How long an agent may take to answer a question about its guest.
const ANSWER: Duration = Duration::from_secs(10);
/// How long it may take where much data comes with it, or file systems are flushed for it.
const LONG_ANSWER: Duration = Duration::from_secs(30);
/// Bytes read at once.
const READ_SIZE: usize = 4096;
/// The longest text of an agent's that is passed on, bytes.
const MAX_TEXT: usize = 256;

/// Why an agent didn't do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It isn't there, or not yet, or not any more.
    #[error("the guest agent is not connected: qemu-guest-agent has to be installed and running in the guest")]
    NotConnected,
    /// The machine is gone, or another client has the port.
    #[error("guest agent: the channel is closed")]
    Closed,
    /// The channel is broken.
    #[error("guest agent: the channel")]
    Io(#[from] io::Error),
    /// Nothing came.
    #[error("guest agent: no answer to {command} within {limit:?}; is qemu-guest-agent installed and running?")]
    NoAnswer {
        /// The question.
        command: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// The guest rebooted, and its agent with it.
    #[error("guest agent: {command}: the guest rebooted before the answer")]
    Rebooted {
        /// The question.
        command: &'static str,
    },
    /// What came is of no use.
    #[error("guest agent: {command}")]
    Reply {
        /// The question.
        command: &'static str,
        /// What is wrong with it.
        #[source]
        source: ReplyError,
    },
}

/// One question.
struct Question {
    command: &'static str,
    arguments: Option<serde_json::Value>,
    /// How long its answer may take.
    limit: Duration,
    /// How long its answer may be, bytes.
    reply: usize,
}

impl Question {
    fn new(command: &'static str) -> Self {
        Self { command, arguments: None, limit: ANSWER, reply: MAX_REPLY }
    }
}

/// See the module.
#[derive(Debug)]
pub struct GuestAgent {
    stream: UnixStream,
    replies: Replies,
    /// Whether the next reply belongs to the next question.
    in_step: bool,
    /// The id of the last sync.
    id: u32,
}

impl GuestAgent {
    /// A client, and what is to be put at the machine's port. Needs a tokio runtime.
    pub fn pair() -> io::Result<(Self, std::os::unix::net::UnixStream)> {
        let (ours, port) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((Self::new(UnixStream::from_std(ours)?), port))
    }

    fn new(stream: UnixStream) -> Self {
        Self { stream, replies: Replies::default(), in_step: false, id: 0 }
    }

    /// Whether it answers.
    pub async fn ping(&mut self) -> Result<(), AgentError> {
        self.ask::<serde::de::IgnoredAny>("guest-ping").await.map(|_| ())
    }

    /// Which agent it is.
    pub async fn info(&mut self) -> Result<Info, AgentError> {
        self.ask("guest-info").await
    }

    /// Which system the guest is.
    pub async fn os_info(&mut self) -> Result<OsInfo, AgentError> {
        self.ask("guest-get-osinfo").await
    }

    /// What the guest calls itself.
    pub async fn host_name(&mut self) -> Result<HostName, AgentError> {
        self.ask("guest-get-host-name").await
    }

    /// Gets in step with the agent, however long it takes to come.
    pub async fn sync(&mut self) -> Result<(), AgentError> {
        const COMMAND: &str = "guest-sync-delimited";
        self.in_step = false;
        self.id = self.id.wrapping_add(1);
        self.replies.skip_to_sentinel();
        // The byte ends whatever half a question the agent may have.
        self.stream.write_all(&[0xFF]).await?;
        self.send(&json!({"execute": COMMAND, "arguments": {"id": self.id}})).await?;
        loop {
            let reply = self.receive(COMMAND, MAX_REPLY).await?;
            if read::<u32>(&reply).is_ok_and(|id| id == self.id) {
                self.in_step = true;
                return Ok(());
            }
            // An answer to an older one.
            self.replies.skip_to_sentinel();
        }
    }

    async fn ask<T: DeserializeOwned>(&mut self, command: &'static str) -> Result<T, AgentError> {
        self.ask_for(Question::new(command)).await
    }

    /// Asks one question.
    async fn ask_for<T: DeserializeOwned>(&mut self, question: Question) -> Result<T, AgentError> {
        let Question { command, arguments, limit, reply } = question;
        let asked = async {
            if !self.in_step {
                self.sync().await?;
            }
            // Until it's answered: a question that is dropped leaves its answer behind.
            self.in_step = false;
            let mut question = json!({"execute": command});
            if let Some(arguments) = arguments {
                question["arguments"] = arguments;
            }
            self.send(&question).await?;
            self.receive(command, reply).await
        };
        let reply = tokio::time::timeout(limit, asked).await;
        let reply = reply.map_err(|_| AgentError::NoAnswer { command, limit })??;
        let answer = read(&reply);
        self.in_step = matches!(answer, Ok(_) | Err(ReplyError::Refused(_)));
        answer.map_err(|source| AgentError::Reply { command, source })
    }

    async fn send(&mut self, question: &serde_json::Value) -> Result<(), AgentError> {
        Ok(self.stream.write_all(format!("{question}\n").as_bytes()).await?)
    }

    async fn receive(&mut self, command: &'static str, limit: usize) -> Result<Vec<u8>, AgentError> {
        loop {
            let reply = self.replies.take(limit).map_err(|source| AgentError::Reply { command, source })?;
            if let Some(reply) = reply {
                return Ok(reply);
            }
            let mut bytes = [0; READ_SIZE];
            match self.stream.read(&mut bytes).await? {
                0 => return Err(AgentError::Closed),
                count => self.replies.push(&bytes[..count]),
            }
        }
    }
}

/// A guest's text as it may stand in a log or on a terminal.
pub(crate) fn plain(text: &str) -> String {
    bounded(text, MAX_TEXT).chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}
