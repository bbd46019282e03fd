//! The creation of a container: its place in the pod, its cgroup, its file system, its machine.
//!
//! Invariant: whatever a failed or abandoned creation made is undone before its error is told.

use std::path::Path;
use std::sync::Arc;

use containerd_shim::api::CreateTaskRequest;
use containerd_shim::protos::events::task::{TaskCreate, TaskIO};
use containerd_shim::protos::protobuf::MessageField;

use super::container::{Body, Container, MachineBody, ShimPlace};
use super::error::{PodError, illegal};
use super::machine::{ANSWER, Request, State};
use super::pod::Pod;
use super::sidecar;
use super::supervise::{reason, supervise};
use crate::bundle::{Bundle, Role};
use crate::cgroup::{Cgroup, Folders, OomWatch};
use crate::credentials::Propagation;
use crate::guest_agent::Agent;
use crate::rootfs::Rootfs;
use crate::service::events::Publisher;
use crate::stdio::{Console, Paths};
use crate::translate::agent_credentials;

impl Pod {
    /// Makes a container, up to the point where it only needs to be started. Returns its process.
    pub async fn create(&self, request: &CreateTaskRequest) -> Result<u32, PodError> {
        self.create_told(request, self.events.clone()).await
    }

    /// Likewise; what becomes of it is told by `events`.
    pub(super) async fn create_told(&self, request: &CreateTaskRequest, events: Publisher) -> Result<u32, PodError> {
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
        let container = Arc::new(Container::new(request.id.clone(), bundle, stdio, events));
        let creation = Creation::begin(self, container.clone())?;
        let (pid, body) = tokio::select! {
            made = self.make(&container, request) => made?,
            () = container.cancel.notified() => return Err(PodError::Cancelled(request.id.clone())),
        };
        let watched = match &body {
            Body::Machine(body) => Some((body.machine.state(), OomWatch::new(body.cgroup.folders()))),
            Body::Sandbox(_) => None,
        };
        container.built(pid, body).map_err(|source| illegal(&container, source))?;
        creation.finish();
        container.events.publish(&TaskCreate {
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
            tokio::spawn(supervise(container, state, oom));
        }
        Ok(pid)
    }

    async fn make(&self, container: &Container, request: &CreateTaskRequest) -> Result<(u32, Body), PodError> {
        let bundle = &container.bundle;
        let folders = Folders::of_container(Some(bundle.spec()), &container.id)?;
        if container.role == Role::Sandbox {
            // Its limits are meant for a process that only sleeps (a CPU share of almost nothing): the pod's hold.
            let place = ShimPlace::take(Cgroup::create(&folders, None)?)?;
            return Ok((std::process::id(), Body::Sandbox(place)));
        }
        let resources = bundle.spec().linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let rootfs = Rootfs::mount(request, bundle.rootfs()).await?;
        sidecar::check(bundle, &bundle.rootfs())?;
        let cgroup = Cgroup::create(&folders, resources)?;
        let sandbox = bundle.sandbox_id().map(|id| self.containers().get(id).cloned());
        let sandbox = match &sandbox {
            Some(sandbox) => sandbox.as_ref().map(|sandbox| &sandbox.bundle),
            None => Some(bundle),
        };
        let machine = self.builder.build(Request { id: &container.id, bundle, cgroup: &cgroup, sandbox }).await?;
        let mut state = machine.state();
        let built = tokio::time::timeout(ANSWER, state.wait_for(|state| *state != State::Building)).await;
        match built.map_err(|_| PodError::NoAnswer("build its machine"))?.as_deref() {
            Ok(State::Ended { outcome, .. }) => return Err(PodError::Refused(reason(outcome))),
            Ok(_) => {}
            Err(_) => return Err(PodError::NoAnswer("build its machine")),
        }
        // The vCPUs' threads come later, and see to themselves.
        if let Some(placement) = machine.placement() {
            machine.place(placement)?;
        }
        let console = if container.stdio.stdin.is_empty() && container.stdio.stdout.is_empty() {
            None
        } else {
            let (console, socket) = Console::open(&container.stdio)?;
            machine.attach_console(socket)?;
            Some(Arc::new(console))
        };
        let name = format!("container {}", container.id);
        let (agent, port) = Agent::pair(name, machine.reboots()).map_err(PodError::Agent)?;
        machine.attach_agent(port)?;
        let spec = bundle.spec().clone();
        let credentials = tokio::task::spawn_blocking(move || agent_credentials(&spec)).await;
        let credentials = credentials.map_err(anyhow::Error::from)?.map_err(anyhow::Error::from)?;
        let credentials = Propagation::begin(format!("container {}", container.id), agent.clone(), credentials);
        let pid = machine.pid();
        Ok((pid, Body::Machine(MachineBody { machine, console, agent, credentials, cgroup, rootfs })))
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
            let named = |container: &Container| sidecar::name(&container.bundle).unwrap_or(&container.id).to_owned();
            return Err(PodError::SecondMachine { new: named(&container), running: named(other) });
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
