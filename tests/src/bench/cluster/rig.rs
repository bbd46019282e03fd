//! What the part runs on: a control plane whose requests are noted, nodes that run nothing, and the controller, as children of
//! this program in a network of their own.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Namespace};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, PostParams},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{objects::NAMESPACE, process::cpu};
use crate::kubernetes::{
    Audit, AuditLog, ControlPlane, Daemon, FakeKubelet, MASTERS, Noted, Programs, connect, eventually, until,
};

/// Who makes what is measured.
pub const BENCH: &str = "bench";
/// Who says that pods run.
pub const KUBELET: &str = "fake-kubelet";
/// Vireo's controller.
pub const CONTROLLER: &str = "vireo-controller";
/// Kubernetes' own, beside it.
const SETS: &str = "system:serviceaccount:kube-system:replicaset-controller";
/// Where the controller's lease is.
const VIREO: &str = "kubevirt";
/// How long a pod's start takes its kubelet: an idle node's would take no less.
const START: Duration = Duration::from_secs(1);
/// Requests of the bench's own under way at a time.
const AT_ONCE: usize = 32;
/// Without a request for so long nothing is left to be done.
const QUIET: Duration = Duration::from_secs(3);
/// How long anything may take with a thousand machines.
const LIMIT: Duration = Duration::from_mins(15);

/// What the part runs on.
pub struct Rig {
    folder: PathBuf,
    program: PathBuf,
    kubeconfig: PathBuf,
    client: Client,
    log: AuditLog,
    controller: Daemon,
    started: u32,
    plane: ControlPlane,
}

impl std::fmt::Debug for Rig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rig").field("program", &self.program).finish_non_exhaustive()
    }
}

impl Rig {
    /// Starts all of it in the network that this thread is in; comes back when the controller leads. `program` is the controller.
    pub async fn start(programs: &Programs, folder: &Path, program: &Path) -> Result<Self> {
        let audit = Audit {
            users: &[BENCH, KUBELET, CONTROLLER, SETS],
            bodies: &[
                (CONTROLLER, "kubevirt.io", "virtualmachineinstances/status"),
                (SETS, "apps", "replicasets/status"),
                (SETS, "", "pods"),
            ],
        };
        let plane = ControlPlane::start_audited(programs, folder, audit).await?;
        plane.apply_kinds()?;
        let client = connect(&plane.kubeconfig_of(BENCH, Some(MASTERS))?).await?;
        let kubelet = connect(&plane.kubeconfig_of(KUBELET, Some(MASTERS))?).await?;
        FakeKubelet::start_slow(kubelet, START).await?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        for name in [NAMESPACE, VIREO] {
            let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
            namespaces.create(&PostParams::default(), &namespace).await?;
        }
        std::fs::write(folder.join("signing.key"), [7; 32])?;
        let kubeconfig = plane.kubeconfig_of(CONTROLLER, Some(MASTERS))?;
        let (log, folder, program) = (plane.audit()?, folder.to_owned(), program.to_owned());
        let controller = start_controller(&program, &kubeconfig, &folder, 0)?;
        let mut rig = Self { folder, program, kubeconfig, client, log, controller, started: 0, plane };
        rig.until_led().await?;
        Ok(rig)
    }

    /// Of the controller's process.
    pub fn pid(&self) -> u32 {
        self.controller.pid()
    }

    /// What was answered since this was last asked.
    pub fn noted(&mut self) -> Result<Vec<Noted>> {
        self.log.read()
    }

    /// CPU that each program has used since its start; the bench itself is the last.
    pub fn cpu(&self) -> Result<Vec<(&'static str, Duration)>> {
        let others = [("vireo-controller", self.pid())].into_iter().chain(self.plane.pids());
        others.chain([("the bench", std::process::id())]).map(|(name, pid)| Ok((name, cpu(pid)?))).collect()
    }

    /// Makes objects, so many at a time as the API server answers well.
    pub async fn make(&self, objects: impl Iterator<Item = Value>) -> Result<()> {
        let made = objects.map(|object| self.make_one(object));
        stream::iter(made).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Makes objects, one each `period`, whatever becomes of those before.
    pub async fn make_paced(&self, objects: impl Iterator<Item = Value>, period: Duration) -> Result<()> {
        let begun = Instant::now();
        let made = objects.zip(0_u32..).map(|(object, number)| async move {
            tokio::time::sleep_until(begun + period * number).await;
            self.make_one(object).await
        });
        futures_util::future::try_join_all(made).await.map(drop)
    }

    async fn make_one(&self, object: Value) -> Result<()> {
        let object: DynamicObject = serde_json::from_value(object)?;
        let types = object.types.clone().context("an object has a kind")?;
        let api = self.api(&types.api_version, &types.kind);
        api.create(&PostParams::default(), &object).await.with_context(|| format!("make a {}", types.kind))?;
        Ok(())
    }

    /// Deletes objects of a kind by their names; comes back when those are gone, and all pods.
    pub async fn remove(&mut self, version: &str, kind: &str, names: impl Iterator<Item = String>) -> Result<()> {
        let api = self.api(version, kind);
        let deleted = names.map(|name| {
            let api = api.clone();
            async move { api.delete(&name, &DeleteParams::background()).await.map(drop) }
        });
        stream::iter(deleted).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        let one = ListParams::default().limit(1);
        for api in [api, self.api("v1", "Pod")] {
            until("all are gone", LIMIT, async || {
                self.check()?;
                Ok(api.list(&one).await?.items.is_empty())
            })
            .await?;
        }
        Ok(())
    }

    fn api(&self, version: &str, kind: &str) -> Api<DynamicObject> {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.client.clone(), NAMESPACE, &resource)
    }

    /// Takes in what is noted until something holds of it.
    pub async fn until(&mut self, what: &str, mut holds: impl FnMut(&[Noted]) -> bool) -> Result<()> {
        until(what, LIMIT, async || {
            self.check()?;
            Ok(holds(&self.log.read()?))
        })
        .await
    }

    /// Comes back, with what was noted until then, when the controller asks for nothing any more.
    pub async fn until_quiet(&mut self) -> Result<Vec<Noted>> {
        let (mut noted, mut last) = (Vec::new(), Instant::now());
        eventually("the controller has nothing left to do", LIMIT, async || {
            self.check()?;
            let more = self.log.read()?;
            if more.iter().any(is_work) {
                last = Instant::now();
            }
            noted.extend(more);
            Ok((last.elapsed() > QUIET).then(|| std::mem::take(&mut noted)))
        })
        .await
    }

    /// Ends the controller and starts another one; comes back when that leads.
    pub async fn restart_controller(&mut self) -> Result<()> {
        self.controller.signal(Signal::SIGTERM)?;
        self.controller.wait(Duration::from_secs(20)).await?;
        self.started += 1;
        self.controller = start_controller(&self.program, &self.kubeconfig, &self.folder, self.started)?;
        self.until_led().await
    }

    async fn until_led(&mut self) -> Result<()> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), VIREO);
        let identity = identity(self.started);
        until("the controller leads", Duration::from_mins(1), async || {
            self.check()?;
            let holder = leases.get_opt(CONTROLLER).await?.and_then(|lease| lease.spec?.holder_identity);
            Ok(holder.as_ref() == Some(&identity))
        })
        .await
    }

    fn check(&mut self) -> Result<()> {
        self.controller.check()?;
        self.plane.check()
    }
}

/// What the controller does for a machine: not its lease, no watch, and not the question that it asks machines now and then.
pub fn is_work(noted: &Noted) -> bool {
    noted.user() == CONTROLLER && noted.verb != "watch" && !["leases", "pods/exec"].contains(&noted.resource().as_str())
}

fn identity(number: u32) -> String {
    format!("bench-{number}")
}

fn start_controller(program: &Path, kubeconfig: &Path, folder: &Path, number: u32) -> Result<Daemon> {
    let mut command = Daemon::command(program);
    command.args(["run", "--namespace", VIREO, "--identity", &identity(number), "--signing-key"]);
    command.arg(folder.join("signing.key")).env("KUBECONFIG", kubeconfig).env("NO_COLOR", "1");
    // As the operator's Deployment says.
    command.env("MALLOC_ARENA_MAX", "1");
    Daemon::start("vireo-controller", folder, command)
}
