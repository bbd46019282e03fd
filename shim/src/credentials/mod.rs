//! Access credentials: SSH keys and passwords out of the pod's secrets, which get into the guest by cloud-init's disk or by its agent.
//!
//! By the agent: they are set when it answers, again when it comes back, and again when the kubelet has changed a secret. What
//! fails is tried again, later each time, because cloud-init may make a guest's users long after its agent has answered.

mod secrets;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

pub use secrets::{Credential, CredentialError, ReadError, by_agent, by_cloud_init};
use secrets::{Wanted, wanted};
use watch::Watch;

use crate::guest_agent::{Agent, AgentError};

/// Between attempts, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(5));

/// Why credentials are not set.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// A secret can't be read.
    #[error("{at}")]
    Read {
        /// The field.
        at: String,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// The agent doesn't.
    #[error("the {what} of user {user:?}")]
    Agent {
        /// What.
        what: &'static str,
        /// Whose.
        user: String,
        /// Why.
        #[source]
        source: AgentError,
    },
}

/// A machine's credentials being kept as its secrets have them; it ends with this value.
#[derive(Debug)]
pub struct Propagation(JoinHandle<()>);

impl Propagation {
    /// Begins; `None` if there is nothing to do. `machine` is what the log calls it. Needs a tokio runtime.
    pub fn begin(machine: String, agent: Agent, credentials: Vec<Credential>) -> Option<Self> {
        (!credentials.is_empty()).then(|| Self(tokio::spawn(propagate(machine, agent, credentials.into()))))
    }
}

impl Drop for Propagation {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn propagate(machine: String, agent: Agent, credentials: Arc<[Credential]>) {
    let mut watch = Watch::new(credentials.iter().map(|credential| credential.secret.source()));
    if let Err(error) = &watch {
        log::warn!("{machine}: access credentials: changes of their secrets will not be seen: {error}");
    }
    let mut there = agent.presence();
    let (mut last, mut retry) = (None, RETRY.0);
    // An error means that the machine is gone.
    while there.wait_for(|there| *there).await.is_ok() {
        there.mark_unchanged();
        let done = set(&agent, &credentials).await;
        let failed = done.as_ref().err().map(|failure| chain(failure));
        if failed != last || failed.is_none() {
            match &failed {
                Some(why) => log::warn!("{machine}: access credentials: not set: {why}"),
                None => log::info!("{machine}: access credentials: set"),
            }
        }
        let pause = done.is_err().then_some(retry);
        let again = async {
            match pause {
                None => std::future::pending().await,
                Some(pause) => tokio::time::sleep(pause).await,
            }
        };
        retry = if failed.is_some() { (retry * 2).min(RETRY.1) } else { RETRY.0 };
        last = failed;
        tokio::select! {
            () = again => {}
            () = changed(&mut watch) => {}
            gone = there.changed() => if gone.is_err() { return },
        }
    }
}

async fn changed(watch: &mut std::io::Result<Watch>) {
    match watch {
        Ok(watching) => {
            if let Err(error) = watching.changed().await {
                *watch = Err(error);
            }
        }
        Err(_) => std::future::pending().await,
    }
}

/// Sets all that can be; the first failure counts.
async fn set(agent: &Agent, credentials: &Arc<[Credential]>) -> Result<(), Failure> {
    let credentials = credentials.clone();
    let read = tokio::task::spawn_blocking(move || wanted(&credentials)).await;
    let Wanted { keys, passwords, unread } = read.unwrap_or_default();
    let mut result = unread.map_or(Ok(()), |(at, source)| Err(Failure::Read { at, source }));
    for (user, keys) in keys {
        let done = agent.set_ssh_keys(&user, &keys).await;
        result = result.and(done.map_err(|source| Failure::Agent { what: "SSH keys", user, source }));
    }
    for (user, password) in passwords {
        let done = agent.set_password(&user, &password).await;
        result = result.and(done.map_err(|source| Failure::Agent { what: "password", user, source }));
    }
    result
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
