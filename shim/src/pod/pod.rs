//! The pod's own state, and what containerd asks of it: start, signal, delete and look at its containers.
//!
//! Invariants: one machine at a time; no lock is held across an await but [`Container::starting`], so that a question is
//! answered while a machine is being built, runs or hangs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use containerd_shim::protos::events::task::{TaskDelete, TaskStart};
use containerd_shim::protos::protobuf::MessageField;
use oci_spec::runtime::LinuxResources;
use tokio::sync::watch;

use super::container::Container;
use super::error::{PodError, illegal};
use super::lifecycle::{Exit, Illegal, Phase, Step};
use super::machine::{Builder, MachineRequest};
use super::supervise::{run, task_exit, timestamp};
use crate::bundle::Role;
use crate::cgroup;
use crate::service::events::Publisher;

/// `SIGRTMIN + 3`: systemd's "power off", the stop signal of images that run it.
const SIGRTMIN_3: u32 = 37;

/// One pod.
#[derive(Debug)]
pub struct Pod {
    pub(super) builder: Arc<dyn Builder>,
    pub(super) events: Publisher,
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

    /// Starts a container; when this returns its guest runs. Returns its process.
    pub async fn start(&self, id: &str) -> Result<u32, PodError> {
        let container = self.container(id)?;
        let gate = container.clone();
        let _undecided = gate.starting.lock().await;
        container.step(Step::Start).map_err(|source| illegal(&container, source))?;
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
            container.events.publish(&TaskStart { container_id: container.id.clone(), pid, ..Default::default() });
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
                end_sandbox(&container, if ends { 128 + signal } else { 0 });
                Ok(())
            }
            (_, _, Phase::Running, Some(machine)) if asks => Ok(machine.power_button()?),
            (_, _, _, Some(machine)) => {
                machine.kill();
                Ok(())
            }
        }
    }

    /// Asks the machine of a running container to do something, and waits until it is done.
    pub async fn request(&self, id: &str, request: MachineRequest) -> Result<(), PodError> {
        self.container(id)?.request(request).await
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
                    None => end_sandbox(&container, 0),
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
        container.events.publish(&TaskDelete {
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
    pub fn stats(&self, id: &str) -> Result<cgroup::Metrics, PodError> {
        let container = self.container(id)?;
        let metrics = container.with_cgroup(cgroup::metrics).ok_or_else(|| illegal(&container, Illegal::Creating))?;
        Ok(metrics?)
    }

    /// Changes a container's limits. A machine with CPUs of its own moves to the new ones.
    pub fn update(&self, id: &str, resources: &LinuxResources) -> Result<(), PodError> {
        let container = self.container(id)?;
        let cpus = resources.cpu().as_ref().and_then(|cpu| cpu.cpus().as_deref()).filter(|cpus| !cpus.is_empty());
        let moved = match (container.machine(), cpus) {
            (Some(machine), Some(cpus)) => {
                let placement = machine.placement().map(|placement| placement.moved(cpus)).transpose();
                placement.map_err(PodError::Invalid)?.map(|placement| (machine, placement))
            }
            _ => None,
        };
        if moved.is_some() && container.phase() != Phase::Running {
            return Err(illegal(
                &container,
                if container.phase().exit().is_some() { Illegal::Stopped } else { Illegal::NotStarted },
            ));
        }
        let limited = container.with_cgroup(|folders| cgroup::limit(folders, resources));
        limited.ok_or_else(|| illegal(&container, Illegal::Creating))??;
        // Narrowed or not, the kernel lets every thread use all of the new CPUs.
        match moved {
            Some((machine, placement)) => Ok(machine.place(placement)?),
            None => Ok(()),
        }
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
            self.finish();
        }
    }

    /// Ends the shim, whatever is left.
    pub(super) fn finish(&self) {
        self.done.send_replace(true);
    }

    /// Whether it has no container, nor one that is being created.
    pub fn is_empty(&self) -> bool {
        self.containers().is_empty()
    }

    /// Waits for the shim's end.
    pub async fn done(&self) {
        // An error means that the pod itself is gone: then the shim is done, too.
        let _ = self.done.subscribe().wait_for(|done| *done).await;
    }

    pub(super) fn containers(&self) -> MutexGuard<'_, HashMap<String, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sandbox has no process: its end is what the shim says.
pub(super) fn end_sandbox(container: &Container, code: u32) {
    let exit = Exit { code, at: SystemTime::now() };
    if container.step(Step::Ended(exit.clone())).is_ok() {
        container.events.publish(&task_exit(container, &exit));
    }
}
