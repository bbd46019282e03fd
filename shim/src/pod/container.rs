//! One container of a pod: what containerd said of it, where it is in its life, and what it holds.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use containerd_shim::api::Status;
use tokio::sync::Notify;

use super::error::{PodError, illegal};
use super::exec::Exec;
use super::life::Life;
use super::lifecycle::{Exit, Illegal, Phase, Step};
use super::machine::{Machine, MachineRequest, State};
use crate::bundle::{Bundle, Role};
use crate::cgroup::{Cgroup, CgroupError, Folders};
use crate::credentials::Propagation;
use crate::guest_agent::Agent;
use crate::rootfs::Rootfs;
use crate::service::events::Publisher;
use crate::stdio::{Console, Paths};

/// One container.
#[derive(Debug)]
pub struct Container {
    /// containerd's id.
    pub id: String,
    /// Its folder and spec.
    pub bundle: Bundle,
    /// Its part in the pod.
    pub role: Role,
    /// Its streams, as containerd named them.
    pub stdio: Paths,
    /// Where its life is told.
    pub(super) events: Publisher,
    /// When its creation began.
    pub created: SystemTime,
    life: Life,
    body: Mutex<Option<Body>>,
    pid: Mutex<u32>,
    pub(super) execs: Mutex<HashMap<String, Arc<Exec>>>,
    /// Held while a start is undecided: an exit waits for it.
    pub starting: tokio::sync::Mutex<()>,
    /// Ends a creation that nobody waits for any more.
    pub cancel: Notify,
}

/// What a container holds; dropping it gives all of it back.
#[derive(Debug)]
pub enum Body {
    /// The pod's own cgroup, with the shim inside.
    Sandbox(ShimPlace),
    /// A machine. The fields are dropped in this order.
    Machine(MachineBody),
}

/// A machine and what it stands on.
#[derive(Debug)]
pub struct MachineBody {
    /// The process.
    pub machine: Arc<dyn Machine>,
    /// Its streams.
    pub console: Option<Arc<Console>>,
    /// Its guest's agent.
    pub agent: Agent,
    /// Keeps the guest's credentials as the pod's secrets have them.
    pub credentials: Option<Propagation>,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// The image's file system.
    pub rootfs: Rootfs,
}

/// The shim's place in the pod's sandbox cgroup: it goes back home before that cgroup is removed.
#[derive(Debug)]
pub struct ShimPlace {
    cgroup: Option<Cgroup>,
    home: Option<Folders>,
}

impl ShimPlace {
    /// Moves the shim into `cgroup`, so that its memory and time are the pod's.
    pub fn take(cgroup: Cgroup) -> Result<ShimPlace, CgroupError> {
        let folders = cgroup.folders().clone();
        // From here on it leaves again, however far it comes.
        let place = ShimPlace { cgroup: Some(cgroup), home: Folders::own() };
        folders.enter()?;
        Ok(place)
    }

    /// The cgroup's folders.
    pub fn folders(&self) -> Option<&Folders> {
        self.cgroup.as_ref().map(Cgroup::folders)
    }
}

impl Drop for ShimPlace {
    fn drop(&mut self) {
        // Removing a cgroup kills what is inside: never with the shim there. The root takes any process.
        let mut homes = self.home.take().into_iter().chain(Folders::at(Path::new("")));
        let left = homes.any(|home| home.enter().is_ok());
        if !left {
            log::warn!("the shim can't leave the pod's cgroup, which stays");
            std::mem::forget(self.cgroup.take());
        }
    }
}

impl Container {
    /// A container that is being created.
    pub fn new(id: String, bundle: Bundle, stdio: Paths, events: Publisher) -> Container {
        Container {
            id,
            events,
            created: SystemTime::now(),
            role: bundle.role(),
            bundle,
            stdio,
            life: Life::new(Phase::Creating),
            body: Mutex::new(None),
            pid: Mutex::new(0),
            execs: Mutex::default(),
            starting: tokio::sync::Mutex::new(()),
            cancel: Notify::new(),
        }
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        self.life.phase()
    }

    /// containerd's word for where it is. Whether a running one is paused only its machine knows.
    pub fn status(&self) -> Status {
        match (self.phase(), self.machine()) {
            (Phase::Running, Some(machine)) if matches!(*machine.state().borrow(), State::Paused(_)) => Status::PAUSED,
            (phase, _) => phase.status(),
        }
    }

    /// Takes a step, or says why it can't.
    pub fn step(&self, step: Step) -> Result<(), Illegal> {
        self.life.step(step)
    }

    /// Its parts are made: it is `Created`.
    pub fn built(&self, pid: u32, body: Body) -> Result<(), Illegal> {
        self.step(Step::Built)?;
        *lock(&self.pid) = pid;
        *lock(&self.body) = Some(body);
        Ok(())
    }

    /// The process that stands for it, also after it is gone: containerd takes a container without one for a leak. 0
    /// during creation.
    pub fn pid(&self) -> u32 {
        *lock(&self.pid)
    }

    /// Its machine, unless it is a sandbox or not made yet.
    pub fn machine(&self) -> Option<Arc<dyn Machine>> {
        match lock(&self.body).as_ref()? {
            Body::Machine(body) => Some(body.machine.clone()),
            Body::Sandbox(_) => None,
        }
    }

    /// Its machine's streams, if it has any.
    pub fn console(&self) -> Option<Arc<Console>> {
        match lock(&self.body).as_ref()? {
            Body::Machine(body) => body.console.clone(),
            Body::Sandbox(_) => None,
        }
    }

    /// Its guest's agent, if it is a machine.
    pub fn agent(&self) -> Option<Agent> {
        match lock(&self.body).as_ref()? {
            Body::Machine(body) => Some(body.agent.clone()),
            Body::Sandbox(_) => None,
        }
    }

    /// Asks its machine to do something while it runs, and waits until that is done.
    pub async fn request(&self, request: MachineRequest) -> Result<(), PodError> {
        let machine = self.machine().ok_or_else(|| PodError::Sandbox(self.id.clone(), "machine"))?;
        match self.phase() {
            Phase::Running => Ok(machine.request(request).await?),
            Phase::Stopped(_) => Err(illegal(self, Illegal::Stopped)),
            _ => Err(illegal(self, Illegal::NotStarted)),
        }
    }

    /// Calls `use_cgroup` with the folders of its cgroup, while they are there.
    pub fn with_cgroup<T>(&self, use_cgroup: impl FnOnce(&Folders) -> T) -> Option<T> {
        match lock(&self.body).as_ref()? {
            Body::Machine(body) => Some(use_cgroup(body.cgroup.folders())),
            Body::Sandbox(place) => place.folders().map(use_cgroup),
        }
    }

    /// Gives back what it holds. Network rules and cgroups take their time, so that is done on a thread of its own.
    pub async fn release(&self) {
        let body = lock(&self.body).take();
        if let Err(error) = tokio::task::spawn_blocking(move || drop(body)).await {
            log::error!("container {}: not everything is given back: {error}", self.id);
        }
    }

    /// Waits until it is over.
    pub async fn exited(&self) -> Option<Exit> {
        self.life.exited().await
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
