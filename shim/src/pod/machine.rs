//! What a pod asks of its machine, and of whoever builds one: the seam between the pod and the process that runs the
//! guest.

use std::fmt::Debug;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
pub use vireo_vmm::control::message::Request as MachineRequest;

use crate::bundle::Bundle;
use crate::cgroup::Cgroup;
use crate::cpuset::Placement;

/// How long a VMM may take to build its machine, or to start it.
pub const ANSWER: Duration = Duration::from_secs(30);

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// 0 for a guest that powered off, 137 for a kill, 1 for anything else.
    pub code: u32,
    /// Why, unless the guest powered off: one line, to stand after `vireo: `.
    pub reason: Option<String>,
}

/// Where a machine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The process is being told what to become.
    Building,
    /// Built and jailed.
    Ready,
    /// The guest runs.
    Started,
    /// It has been started, and stands still: nothing of it runs. Why, if a device wanted it.
    Paused(Option<String>),
    /// The process is gone.
    Ended {
        /// How.
        outcome: Outcome,
        /// Whether the guest ran at all.
        started: bool,
    },
}

/// A machine does not do what it is told.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It can't be told.
    #[error("the machine does not take {command}: {reason}")]
    NotTaken {
        /// What.
        command: &'static str,
        /// Why.
        reason: String,
    },
    /// It refuses, and says why.
    #[error("{0}")]
    Refused(String),
    /// It ended instead.
    #[error("{0}: the machine has ended")]
    Ended(&'static str),
    /// It says nothing.
    #[error("{0}: the VMM did not answer within {ANSWER:?}")]
    NoAnswer(&'static str),
    /// Its threads stay where they are.
    #[error("the machine's threads can't be bound to their CPUs")]
    Place(#[source] std::io::Error),
}

/// A machine and the process that runs it. The process is killed on drop.
#[async_trait]
pub trait Machine: Debug + Send + Sync {
    /// The process.
    fn pid(&self) -> u32;
    /// Where it is; [`State::Ended`] comes once, after the process is gone.
    fn state(&self) -> watch::Receiver<State>;
    /// Counts its reboots; closed once the process is gone.
    fn reboots(&self) -> watch::Receiver<u64>;
    /// Lets the guest run, or pauses it before its first instruction if its spec says so.
    fn start(&self) -> Result<(), CommandError>;
    /// Presses the power button, and doesn't wait until it is.
    fn power_button(&self) -> Result<(), CommandError>;
    /// Asks it to do something, and waits until that is done.
    async fn request(&self, request: MachineRequest) -> Result<(), CommandError>;
    /// Gives the console another client.
    fn attach_console(&self, client: UnixStream) -> Result<(), CommandError>;
    /// Puts `client` at the guest agent's port, in the place of the one before.
    fn attach_agent(&self, client: UnixStream) -> Result<(), CommandError>;
    /// Connects `client` to a port of the guest's vsock. Once the guest has accepted, `OK <number>` and a line feed come first; it is
    /// closed if the guest doesn't.
    fn connect_vsock(&self, port: u32, client: UnixStream) -> Result<(), CommandError>;
    /// Tells the console's size.
    fn resize_console(&self, columns: u16, rows: u16) -> Result<(), CommandError>;
    /// Which of the container's CPUs it keeps to, if it does.
    fn placement(&self) -> Option<Placement>;
    /// Binds its threads to `placement`, which is of its own kind.
    fn place(&self, placement: Placement) -> Result<(), CommandError>;
    /// Ends the process at once; the outcome's code is 137.
    fn kill(&self);
}

/// What a machine is built from.
#[derive(Debug)]
pub struct Request<'a> {
    /// containerd's id of the container.
    pub id: &'a str,
    /// The spec.
    pub bundle: &'a Bundle,
    /// Where the process starts.
    pub cgroup: &'a Cgroup,
    /// The bundle of the pod's sandbox, if it is known; the container's own if it belongs to no pod. Only its spec names the network namespace that
    /// CNI has set up: the other containers' say "that of the sandbox's process", which is the shim, in the node's.
    pub sandbox: Option<&'a Bundle>,
}

/// Builds machines.
#[async_trait]
pub trait Builder: Debug + Send + Sync {
    /// Launches the machine of a container; it may still be [`State::Building`]. An error has undone everything.
    async fn build(&self, request: Request<'_>) -> anyhow::Result<Arc<dyn Machine>>;
}
