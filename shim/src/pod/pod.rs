//! The pod: creates, starts, ends and deletes its containers, and tells containerd in the order that it expects.
//!
//! Invariants: one machine at a time; no lock is held across an await but [`Container::starting`], so that a question is
//! answered while a machine is being built, runs or hangs; whatever a failed or abandoned creation made is undone
//! before its error is told.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use containerd_shim::api::CreateTaskRequest;
use containerd_shim::protos::cgroups_v2::metrics::Metrics;
use containerd_shim::protos::events::task::{TaskCreate, TaskDelete, TaskExit, TaskIO, TaskOOM, TaskStart};
use containerd_shim::protos::protobuf::MessageField;
use containerd_shim::protos::protobuf::well_known_types::timestamp::Timestamp;
use oci_spec::runtime::LinuxResources;
use tokio::sync::watch;

use super::container::{Body, Container, MachineBody, ShimPlace};
use super::lifecycle::{Exit, Illegal, Phase, Step};
use super::machine::{Builder, CommandError, Machine, Outcome, Request, State};
use crate::bundle::{Bundle, BundleError, Role};
use crate::cgroup::{self, Cgroup, CgroupError, OomWatch};
use crate::rootfs::{Rootfs, RootfsError};
use crate::service::events::Publisher;
use crate::stdio::{Console, Paths, StdioError};
use crate::termination;

/// How long a VMM may take to build its machine, or to start it.
const ANSWER: Duration = Duration::from_secs(30);
/// `SIGRTMIN + 3`: systemd's "power off", the stop signal of images that run it.
const SIGRTMIN_3: u32 = 37;

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
    #[error("a VM pod has one container, and {running:?} is its machine; remove the other containers from the pod")]
    SecondMachine {
        /// The one that is there.
        running: String,
    },
    /// Not now.
    #[error("container {id:?}: {source}")]
    Illegal {
        /// Which.
        id: String,
        /// Why not.
        source: Illegal,
    },
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

/// One pod.
#[derive(Debug)]
pub struct Pod {
    builder: Arc<dyn Builder>,
    events: Publisher,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    done: watch::Sender<bool>,
}

impl Pod {
    /// A pod without containers.
    pub fn new(builder: Arc<dyn Builder>, events: Publisher) -> Arc<Pod> {
        Arc::new(Pod { builder, events, containers: Mutex::default(), done: watch::Sender::new(false) })
    }

    /// The container `id`.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, PodError> {
        self.containers().get(id).cloned().ok_or_else(|| PodError::NotFound(id.into()))
    }

    /// Makes a container, up to the point where it only needs to be started. Returns its process.
    pub async fn create(&self, request: &CreateTaskRequest) -> Result<u32, PodError> {
        if !request.checkpoint.is_empty() || !request.parent_checkpoint.is_empty() {
            return Err(PodError::Unsupported("restore from a checkpoint: not supported by vireo"));
        }
        let bundle = Bundle::open(Path::new(&request.bundle))?;
        let stdio = Paths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let container = Arc::new(Container::new(request.id.clone(), bundle, stdio));
        let creation = Creation::begin(self, container.clone())?;
        let (pid, body) = tokio::select! {
            made = self.make(&container, request) => made?,
            () = container.cancel.notified() => return Err(PodError::Cancelled(request.id.clone())),
        };
        let watched = match &body {
            Body::Machine(body) => Some((body.machine.state(), OomWatch::new(body.cgroup.path()))),
            Body::Sandbox(_) => None,
        };
        container.built(pid, body).map_err(|source| illegal(&container, source))?;
        creation.finish();
        self.events.publish(&TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: MessageField::some(TaskIO {
                stdin: request.stdin.clone(),
                stdout: request.stdout.clone(),
                stderr: request.stderr.clone(),
                terminal: request.terminal,
                ..Default::default()
            }),
            pid,
            ..Default::default()
        });
        if let Some((state, oom)) = watched {
            let oom = oom.unwrap_or_else(|error| {
                log::warn!("container {}: OOM kills will not be told: {error}", container.id);
                None
            });
            tokio::spawn(supervise(container, state, oom, self.events.clone()));
        }
        Ok(pid)
    }

    /// The network namespace that CNI has set up. Only the sandbox's spec names it: the other containers' say "that of
    /// the sandbox's process", which is this one, in the node's.
    fn netns(&self, bundle: &Bundle) -> Option<PathBuf> {
        let sandbox = bundle.sandbox_id().map(|id| self.containers().get(id).cloned());
        match &sandbox {
            Some(sandbox) => sandbox.as_ref()?.bundle.netns(),
            None => bundle.netns(),
        }
        .map(Path::to_owned)
    }

    async fn make(&self, container: &Container, request: &CreateTaskRequest) -> Result<(u32, Body), PodError> {
        let bundle = &container.bundle;
        let place = cgroup::place(Some(bundle.spec()), &container.id)?;
        if container.role == Role::Sandbox {
            // Its limits are meant for a process that only sleeps (a CPU share of almost nothing): the pod's hold.
            let place = ShimPlace::take(Cgroup::create(&place, None)?)?;
            return Ok((std::process::id(), Body::Sandbox(place)));
        }
        let resources = bundle.spec().linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let rootfs = Rootfs::mount(request, bundle.rootfs()).await?;
        let cgroup = Cgroup::create(&place, resources)?;
        let netns = self.netns(bundle);
        let machine = self.builder.build(Request { id: &container.id, bundle, cgroup: &cgroup, netns }).await?;
        let mut state = machine.state();
        let built = tokio::time::timeout(ANSWER, state.wait_for(|state| *state != State::Building)).await;
        match built.map_err(|_| PodError::NoAnswer("build its machine"))?.as_deref() {
            Ok(State::Ended { outcome, .. }) => return Err(PodError::Refused(reason(outcome))),
            Ok(_) => {}
            Err(_) => return Err(PodError::NoAnswer("build its machine")),
        }
        let console = if container.stdio.stdin.is_empty() && container.stdio.stdout.is_empty() {
            None
        } else {
            let (console, socket) = Console::open(&container.stdio)?;
            machine.attach_console(socket)?;
            Some(Arc::new(console))
        };
        let pid = machine.pid();
        Ok((pid, Body::Machine(MachineBody { machine, console, cgroup, rootfs })))
    }

    /// Starts a container; when this returns its guest runs. Returns its process.
    pub async fn start(&self, id: &str) -> Result<u32, PodError> {
        let container = self.container(id)?;
        let gate = container.clone();
        let _undecided = gate.starting.lock().await;
        container.step(Step::Start).map_err(|source| illegal(&container, source))?;
        let events = self.events.clone();
        // A task of its own: containerd may stop waiting, and the start must be decided all the same.
        let starting = tokio::spawn(async move {
            if let Some(machine) = container.machine()
                && let Err(error) = run(machine.as_ref()).await
            {
                // Whatever it is doing, it can't be started again.
                machine.kill();
                return Err(error);
            }
            container.step(Step::Started).map_err(|source| illegal(&container, source))?;
            let pid = container.pid();
            events.publish(&TaskStart { container_id: container.id.clone(), pid, ..Default::default() });
            Ok(pid)
        });
        starting.await.unwrap_or_else(|error| Err(PodError::DidNotStart(error.to_string())))
    }

    /// Delivers a signal.
    pub fn kill(&self, id: &str, signal: u32) -> Result<(), PodError> {
        let container = self.container(id)?;
        let phase = container.phase();
        if phase.exit().is_some() {
            return Err(PodError::AlreadyStopped(id.into()));
        }
        let number = i32::try_from(signal).unwrap_or(-1);
        let ends = number == libc::SIGKILL;
        let asks = matches!(number, libc::SIGTERM | libc::SIGINT | libc::SIGQUIT | libc::SIGHUP | libc::SIGPWR)
            || signal == SIGRTMIN_3;
        match (signal, ends || asks, phase, container.machine()) {
            (0, ..) => Ok(()),
            (_, false, ..) => Err(PodError::Signal(signal)),
            (_, _, Phase::Creating, _) => {
                container.cancel.notify_one();
                Ok(())
            }
            (_, _, _, None) => {
                self.end_sandbox(&container, if ends { 128 + signal } else { 0 });
                Ok(())
            }
            (_, _, Phase::Running, Some(machine)) if asks => Ok(machine.power_button()?),
            (_, _, _, Some(machine)) => {
                machine.kill();
                Ok(())
            }
        }
    }

    fn end_sandbox(&self, container: &Container, code: u32) {
        let exit = Exit { code, at: SystemTime::now() };
        if container.step(Step::Ended(exit.clone())).is_ok() {
            self.events.publish(&task_exit(container, &exit));
        }
    }

    /// Forgets a container that has stopped, or was never started, and gives back what it held.
    pub async fn delete(&self, id: &str) -> Result<(u32, Exit), PodError> {
        let container = self.container(id)?;
        let exit = match container.phase() {
            Phase::Stopped(exit) => exit,
            Phase::Creating => {
                container.cancel.notify_one();
                return Err(PodError::NotFound(id.into()));
            }
            Phase::Created => {
                match container.machine() {
                    Some(machine) => machine.kill(),
                    None => self.end_sandbox(&container, 0),
                }
                container.exited().await.ok_or_else(|| PodError::NotFound(id.into()))?
            }
            Phase::Starting | Phase::Running => return Err(illegal(&container, Illegal::Started)),
        };
        if self.containers().remove(id).is_none() {
            return Err(PodError::NotFound(id.into()));
        }
        container.release().await;
        let pid = container.pid();
        self.events.publish(&TaskDelete {
            container_id: id.into(),
            pid,
            exit_status: exit.code,
            exited_at: MessageField::some(timestamp(exit.at)),
            ..Default::default()
        });
        Ok((pid, exit))
    }

    /// Waits until a container is over.
    pub async fn wait(&self, id: &str) -> Result<Exit, PodError> {
        let container = self.container(id)?;
        container.exited().await.ok_or_else(|| PodError::NotFound(id.into()))
    }

    /// The numbers of a container's cgroup, also after it has stopped.
    pub fn stats(&self, id: &str) -> Result<Metrics, PodError> {
        let container = self.container(id)?;
        let metrics = container.with_cgroup(cgroup::metrics).ok_or_else(|| illegal(&container, Illegal::Creating))?;
        Ok(metrics?)
    }

    /// Changes a container's limits.
    pub fn update(&self, id: &str, resources: &LinuxResources) -> Result<(), PodError> {
        let container = self.container(id)?;
        let limited = container.with_cgroup(|path| cgroup::limit(path, resources));
        Ok(limited.ok_or_else(|| illegal(&container, Illegal::Creating))??)
    }

    /// Tells a machine its console's size, characters.
    pub fn resize(&self, id: &str, columns: u32, rows: u32) -> Result<(), PodError> {
        let container = self.container(id)?;
        let machine = container.machine().ok_or_else(|| PodError::Sandbox(id.into(), "console"))?;
        if container.phase().exit().is_some() {
            return Err(illegal(&container, Illegal::Stopped));
        }
        let (Ok(columns), Ok(rows)) = (u16::try_from(columns), u16::try_from(rows)) else {
            return Err(PodError::Invalid(format!("console size {columns}x{rows}: at most 65535x65535")));
        };
        Ok(machine.resize_console(columns, rows)?)
    }

    /// Closes a container's stdin.
    pub fn close_stdin(&self, id: &str) -> Result<(), PodError> {
        if let Some(console) = self.container(id)?.console() {
            console.close_stdin();
        }
        Ok(())
    }

    /// Ends the shim, if nothing is left to answer for. containerd asks after each container; one that it has given up
    /// (stopped, never deleted) does not keep the shim once the sandbox is gone.
    pub fn shutdown(&self) {
        let left = |container: &Container| container.role == Role::Sandbox || container.phase().exit().is_none();
        if !self.containers().values().any(|container| left(container)) {
            self.done.send_replace(true);
        }
    }

    /// Waits for the shim's end.
    pub async fn done(&self) {
        // An error means that the pod itself is gone: then the shim is done, too.
        let _ = self.done.subscribe().wait_for(|done| *done).await;
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A container's place in the pod while it is being created: taken back unless the creation finishes.
struct Creation<'a> {
    pod: &'a Pod,
    id: Option<String>,
}

impl<'a> Creation<'a> {
    fn begin(pod: &'a Pod, container: Arc<Container>) -> Result<Creation<'a>, PodError> {
        let id = container.id.clone();
        let mut containers = pod.containers();
        if containers.contains_key(&id) {
            return Err(PodError::Exists(id));
        }
        let other = containers.values().find(|other| {
            other.role == Role::Machine && container.role == Role::Machine && other.phase().exit().is_none()
        });
        if let Some(other) = other {
            return Err(PodError::SecondMachine { running: other.id.clone() });
        }
        containers.insert(id.clone(), container);
        Ok(Creation { pod, id: Some(id) })
    }

    fn finish(mut self) {
        self.id = None;
    }
}

impl Drop for Creation<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.pod.containers().remove(&id);
        }
    }
}

/// Follows a machine to its end and tells of it.
async fn supervise(
    container: Arc<Container>,
    mut state: watch::Receiver<State>,
    mut oom: Option<OomWatch>,
    events: Publisher,
) {
    let killed = TaskOOM { container_id: container.id.clone(), ..Default::default() };
    let mut out_of_memory = false;
    let mut outcome = loop {
        tokio::select! {
            kill = next_kill(&mut oom) => match kill {
                Ok(()) => {
                    out_of_memory = true;
                    events.publish(&killed);
                }
                Err(error) => {
                    log::warn!("container {}: OOM kills are no longer told: {error}", container.id);
                    oom = None;
                }
            },
            ended = state.wait_for(|state| matches!(state, State::Ended { .. })) => break match ended.as_deref() {
                Ok(State::Ended { outcome, .. }) => outcome.clone(),
                _ => Outcome { code: 1, reason: Some("lost".into()) },
            },
        }
    };
    // The kill may have been told to the parent before inotify told of it.
    if oom.as_mut().is_some_and(OomWatch::check) {
        out_of_memory = true;
        events.publish(&killed);
    }
    if out_of_memory {
        outcome = Outcome { code: 137, reason: Some("out of memory: the container's limit is too low".into()) };
    }
    let at = SystemTime::now();
    let last = outcome.reason.as_ref().map(|reason| format!("vireo: {reason}"));
    if let Some(console) = container.console() {
        console.finish(last.as_deref()).await;
    }
    if let Some(last) = &last {
        log::info!("container {}: exit {}: {last}", container.id, outcome.code);
        termination::write(container.bundle.spec(), last);
    }
    let _decided = container.starting.lock().await;
    let exit = Exit { code: outcome.code, at };
    if container.step(Step::Ended(exit.clone())).is_ok() {
        events.publish(&task_exit(&container, &exit));
    }
}

async fn next_kill(oom: &mut Option<OomWatch>) -> std::io::Result<()> {
    match oom {
        Some(oom) => oom.killed().await,
        None => std::future::pending().await,
    }
}

/// Starts a machine and waits until its guest runs, or has run.
async fn run(machine: &dyn Machine) -> Result<(), PodError> {
    let mut state = machine.state();
    machine.start()?;
    let decided = |state: &State| matches!(state, State::Started | State::Ended { .. });
    let started = tokio::time::timeout(ANSWER, state.wait_for(decided)).await;
    match started.map_err(|_| PodError::NoAnswer("start its machine"))?.as_deref() {
        Ok(State::Ended { outcome, started: false }) => Err(PodError::DidNotStart(reason(outcome))),
        Ok(_) => Ok(()),
        Err(_) => Err(PodError::NoAnswer("start its machine")),
    }
}

fn reason(outcome: &Outcome) -> String {
    outcome.reason.clone().unwrap_or_else(|| "it ended".into())
}

fn illegal(container: &Container, source: Illegal) -> PodError {
    PodError::Illegal { id: container.id.clone(), source }
}

fn task_exit(container: &Container, exit: &Exit) -> TaskExit {
    TaskExit {
        container_id: container.id.clone(),
        // The init process has the container's id.
        id: container.id.clone(),
        pid: container.pid(),
        exit_status: exit.code,
        exited_at: MessageField::some(timestamp(exit.at)),
        ..Default::default()
    }
}

/// A protobuf timestamp.
pub fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::from(at)
}
