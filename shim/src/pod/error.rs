//! What the pod can't do, in words for the one who asked containerd for it.

use vireo_runtimeclass::pod::MACHINE_CONTAINER;

use super::container::Container;
use super::lifecycle::Illegal;
use super::machine::{ANSWER, CommandError};
use crate::bundle::BundleError;
use crate::cgroup::CgroupError;
use crate::guest_agent::AgentError;
use crate::rootfs::RootfsError;
use crate::stdio::StdioError;

/// The pod can't do what containerd asks.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// No such container.
    #[error("container {0:?} is not known to this shim")]
    NotFound(String),
    /// There is nothing left to signal.
    #[error("container {0:?} has already stopped")]
    AlreadyStopped(String),
    /// The id is taken.
    #[error("container {0:?} exists already")]
    Exists(String),
    /// The pod has its machine.
    #[error(
        "container {new:?}: a VM pod has one container, and {running:?} is its machine; remove the other containers from the pod"
    )]
    SecondMachine {
        /// The one that is refused.
        new: String,
        /// The one that is there.
        running: String,
    },
    /// A container that isn't the pod's machine.
    #[error(
        "container {0:?}: init containers and sidecars are not supported by vireo: a VM pod has one container, which is its \
         machine and called {MACHINE_CONTAINER:?}; remove the others from the pod"
    )]
    Sidecar(String),
    /// Not now.
    #[error("container {id:?}: {source}")]
    Illegal {
        /// Which.
        id: String,
        /// Why not.
        source: Illegal,
    },
    /// The id of a command is taken.
    #[error("process {0:?} exists already")]
    ExecExists(String),
    /// No such command.
    #[error("container {container:?} has no process {exec:?}")]
    NoExec {
        /// In which container.
        container: String,
        /// containerd's id of it.
        exec: String,
    },
    /// A command can't do that now.
    #[error("process {exec:?}: {source}")]
    IllegalExec {
        /// containerd's id of it.
        exec: String,
        /// Why not.
        source: Illegal,
    },
    /// A command that the guest's agent doesn't run.
    #[error("exec")]
    Exec(#[source] AgentError),
    /// A signal that means nothing to a machine.
    #[error("signal {0} means nothing to a machine: SIGTERM presses its power button, SIGKILL ends it")]
    Signal(u32),
    /// A sandbox isn't a machine.
    #[error("container {0:?} is the pod's sandbox and has no {1}")]
    Sandbox(String, &'static str),
    /// What vireo doesn't do.
    #[error("{0}")]
    Unsupported(&'static str),
    /// A request that can't be right.
    #[error("{0}")]
    Invalid(String),
    /// containerd gave up.
    #[error("container {0:?}: its creation was called off")]
    Cancelled(String),
    /// The VMM hangs.
    #[error("the VMM did not {0} within {ANSWER:?}")]
    NoAnswer(&'static str),
    /// The machine ended first.
    #[error("the machine did not start: {0}")]
    DidNotStart(String),
    /// The VMM refused the machine.
    #[error("{0}")]
    Refused(String),
    /// Its folder.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Its cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Its file system.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// Its guest agent's channel.
    #[error("guest agent: a socket pair")]
    Agent(#[source] std::io::Error),
    /// Its streams.
    #[error(transparent)]
    Stdio(#[from] StdioError),
    /// A command to it.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Its machine.
    #[error(transparent)]
    Build(#[from] anyhow::Error),
}

/// `container` can't take a step.
pub(super) fn illegal(container: &Container, source: Illegal) -> PodError {
    PodError::Illegal { id: container.id.clone(), source }
}
