//! What the tests run on: a control plane, nodes that run nothing, and Vireo's controller, as children of this program.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Namespace};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::sync::Mutex;
use tungstenite::http::Request;

use super::{account, front};
use crate::{
    kubernetes::{Audit, ControlPlane, Daemon, FakeKubelet, ProcessKubelet, Programs, connect, node, until},
    node::{Node, Options, Request as NodeRequest, share::Build},
};

/// Where Vireo's own objects are.
pub const NAMESPACE: &str = "kubevirt";
/// The controller's user, whose requests are noted.
pub const CONTROLLER: &str = "system:serviceaccount:kubevirt:vireo-controller";
/// Who holds it leads.
const LEASE: &str = "vireo-controller";
/// The operator, as users apply it.
pub(super) const OPERATOR_MANIFEST: &str = "vireo-operator.yaml";
/// There is none.
const NONE: &str = "this cluster has no controller of its own";
/// Where the controller answers the API server.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8443);
/// How often the node is asked whether it is there, and how long it may take to say so.
const NODE_ASKED_EVERY: Duration = Duration::from_secs(5);
const NODE_ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// How long the controller may take to begin.
const STARTS_WITHIN: Duration = Duration::from_mins(1);

/// What the tests run on.
#[derive(Debug)]
pub struct Suite {
    folder: PathBuf,
    kubelet: FakeKubelet,
    /// None where the operator deploys it.
    controller: Mutex<Option<Daemon>>,
    /// What runs the pods that the operator deploys.
    processes: Option<ProcessKubelet>,
    /// Controllers that were started.
    started: AtomicU32,
    node: Mutex<Option<Node>>,
    plane: Mutex<ControlPlane>,
    /// The API server forwards the aggregated API to the controller.
    aggregated: Mutex<bool>,
    /// Whether somebody watches.
    shown: bool,
}

impl Suite {
    /// Starts it in the network that this thread is in; certificates and logs are in a folder, which is replaced. `shown`: what a
    /// test [tells](Self::tell) is printed.
    pub async fn start(programs: &Programs, folder: &Path, shown: bool) -> Result<Self> {
        let mut suite = Self::start_bare(programs, folder).await?;
        suite.shown = shown;
        suite.plane.lock().await.apply_kinds()?;
        suite.start_controller().await?;
        Ok(suite)
    }

    /// Starts it with Vireo's operator in place of the controller, and pods in its namespace that are processes of this machine:
    /// nothing is deployed yet.
    pub async fn start_with_operator(programs: &Programs, folder: &Path) -> Result<Self> {
        let mut suite = Self::start_bare(programs, folder).await?;
        let (client, kubelet) = (suite.client().await, suite.kubelet.clone());
        suite.processes = Some(ProcessKubelet::start(client, kubelet, NAMESPACE, &program()?, folder));
        suite.apply(OPERATOR_MANIFEST).await?;
        Ok(suite)
    }

    /// With nothing of Vireo's but its namespace and a key.
    async fn start_bare(programs: &Programs, folder: &Path) -> Result<Self> {
        let audit = Audit { users: &[CONTROLLER], bodies: &[] };
        let plane = ControlPlane::start_audited(programs, folder, audit).await?;
        let kubelet = FakeKubelet::start(plane.client().clone()).await?;
        let namespaces: Api<Namespace> = Api::all(plane.client().clone());
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        namespaces.patch(NAMESPACE, &PatchParams::apply("tests"), &Patch::Apply(namespace)).await?;
        std::fs::write(folder.join("signing.key"), [7; 32])?;
        Ok(Self {
            folder: folder.to_owned(),
            kubelet,
            controller: Mutex::new(None),
            processes: None,
            started: AtomicU32::new(0),
            node: Mutex::new(None),
            plane: Mutex::new(plane),
            aggregated: Mutex::new(false),
            shown: false,
        })
    }

    /// What runs the pods that the operator deploys.
    pub fn processes(&self) -> Result<&ProcessKubelet> {
        self.processes.as_ref().context("this cluster has no operator")
    }

    /// Applies one of the manifests that users are given.
    pub(super) async fn apply(&self, manifest: &str) -> Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtimeclass/manifests").join(manifest);
        self.kubectl(&["apply", "--filename", &path.display().to_string()]).await.map(drop)
    }

    /// The nodes that run nothing.
    pub fn kubelet(&self) -> &FakeKubelet {
        &self.kubelet
    }

    /// Tells whoever watches what is done, and what is to be seen of it.
    pub(super) fn tell(&self, done: &str, seen: &str) {
        if self.shown {
            println!("\n$ {done}");
            seen.lines().for_each(|line| println!("    {line}"));
        }
    }

    /// The administrator's.
    pub async fn client(&self) -> Client {
        self.plane.lock().await.client().clone()
    }

    /// A client of a user that has no rights but those that a test binds to it.
    pub async fn user(&self, name: &str) -> Result<Client> {
        let kubeconfig = self.plane.lock().await.kubeconfig_of(name, None)?;
        connect(&kubeconfig).await
    }

    /// Runs `kubectl` as the administrator; its output. An exit code other than zero is an error with what it said.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let command = self.plane.lock().await.kubectl();
        let output = tokio::process::Command::from(command).args(arguments).kill_on_drop(true).output().await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {}: {said}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The control plane, for who restarts a part of it.
    pub fn plane(&self) -> &Mutex<ControlPlane> {
        &self.plane
    }

    /// Has the API server forward `subresources.kubevirt.io` to the controller, until that ends.
    pub(super) async fn aggregate(&self) -> Result<()> {
        let mut aggregated = self.aggregated.lock().await;
        if *aggregated {
            return Ok(());
        }
        let client = self.client().await;
        let (authority, _) = front::certify(&*self.plane.lock().await, NAMESPACE).await?;
        front::aggregate(&client, NAMESPACE, LISTEN.port(), &authority).await?;
        until("the API server forwards to the controller", STARTS_WITHIN, async || {
            let request = Request::get("/apis/subresources.kubevirt.io/v1").body(Vec::new())?;
            Ok(client.request_text(request).await.is_ok())
        })
        .await?;
        *aggregated = true;
        Ok(())
    }

    /// What the controller answers goes before it does, as with the operator: a group that nobody answers is in everybody's way.
    async fn separate(&self) -> Result<()> {
        let mut aggregated = self.aggregated.lock().await;
        if std::mem::take(&mut *aggregated) {
            front::separate(&self.client().await).await?;
        }
        Ok(())
    }

    /// Kills the controller, as the loss of its node would.
    pub async fn kill_controller(&self) -> Result<()> {
        self.separate().await?;
        self.controller.lock().await.as_mut().context(NONE)?.kill();
        self.free_lease().await
    }

    /// What a controller held that was killed is free in fifteen seconds, or now: few tests are about those.
    pub(super) async fn free_lease(&self) -> Result<()> {
        self.leases().await.delete(LEASE, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Starts another controller when one was killed or has ended; comes back when it leads.
    pub async fn start_controller(&self) -> Result<()> {
        let identity = self.next_identity();
        let own = account::kubeconfig(&*self.plane.lock().await, None).await?;
        *self.controller.lock().await = Some(start_controller(&own, &self.folder, &identity, LISTEN)?);
        self.wait_for_controller(&identity).await
    }

    /// A controller of a test's own, which finds the API server at `server`, beside the suite's or in its place; and its identity.
    pub(super) async fn another_controller(&self, server: &str) -> Result<(Daemon, String)> {
        let identity = self.next_identity();
        let own = account::kubeconfig(&*self.plane.lock().await, Some(server)).await?;
        // Nobody asks it.
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Ok((start_controller(&own, &self.folder, &identity, anywhere)?, identity))
    }

    fn next_identity(&self) -> String {
        format!("test-{}", self.started.fetch_add(1, Ordering::Relaxed))
    }

    /// Asks the controller to end.
    pub async fn stop_controller(&self) -> Result<()> {
        self.separate().await?;
        let mut controller = self.controller.lock().await;
        let controller = controller.as_mut().context(NONE)?;
        controller.signal(Signal::SIGTERM)?;
        controller.wait(Duration::from_secs(20)).await
    }

    /// Boots a virtual node in place of those that run nothing.
    pub(super) async fn join_node(&self, options: &Options) -> Result<()> {
        self.kubelet.remove_nodes().await?;
        *self.node.lock().await = Some(node::join(&*self.plane.lock().await, options).await?);
        Ok(())
    }

    /// Runs a script in the node, which reads `input`; its output.
    pub(super) async fn on_node(&self, script: &str, input: Vec<u8>) -> Result<String> {
        let node = self.node.lock().await;
        let request = NodeRequest::script(script).input(std::io::Cursor::new(input));
        node.as_ref().context("there is no node")?.agent().output(request)
    }

    /// Comes back when the node is lost; never where there is none.
    pub(super) async fn node_lost(&self) {
        let Some(agent) = self.node.lock().await.as_ref().map(|node| node.agent().clone()) else {
            return std::future::pending().await;
        };
        loop {
            let asked = NodeRequest::script("true").deadline(NODE_ANSWERS_WITHIN);
            let agent = agent.clone();
            if !matches!(tokio::task::spawn_blocking(move || agent.output(asked)).await, Ok(Ok(_))) {
                return;
            }
            // Nothing tells of a node's end: it has to be asked.
            tokio::time::sleep(NODE_ASKED_EVERY).await;
        }
    }

    /// The end of the node's console and of its emulator's output.
    pub(super) async fn node_s_last_words(&self) -> String {
        self.node.lock().await.as_ref().map(Node::last_words).unwrap_or_default()
    }

    /// The end of the kubelet's log, where there is one.
    pub async fn kubelet_log(&self) -> String {
        self.node.lock().await.as_ref().map(node::log).unwrap_or_default()
    }

    /// The end of the controller's log.
    pub async fn controller_log(&self) -> String {
        let of_pods = self.processes.as_ref().map(ProcessKubelet::last_words).unwrap_or_default();
        self.controller.lock().await.as_ref().map_or(of_pods, Daemon::last_words)
    }

    /// Fails if a program has ended.
    pub async fn check(&self) -> Result<()> {
        self.controller.lock().await.as_mut().map_or(Ok(()), Daemon::check)?;
        self.plane.lock().await.check()
    }

    async fn wait_for_controller(&self, identity: &str) -> Result<()> {
        until("the controller leads", STARTS_WITHIN, async || {
            self.check().await?;
            Ok(self.leader().await? == identity)
        })
        .await
    }

    /// Comes back when a controller leads.
    pub(super) async fn wait_for_leader(&self, identity: &str) -> Result<()> {
        until(&format!("{identity} leads"), STARTS_WITHIN, async || Ok(self.leader().await? == identity)).await
    }

    /// Who leads: nobody's name is empty.
    pub(super) async fn leader(&self) -> Result<String> {
        let lease = self.leases().await.get_opt(LEASE).await?;
        Ok(lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default())
    }

    async fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client().await, NAMESPACE)
    }
}

/// `identity` is its name among the controllers that there were.
fn start_controller(kubeconfig: &Path, folder: &Path, identity: &str, listen: SocketAddr) -> Result<Daemon> {
    let mut command = Daemon::command(program()?);
    command
        .args(["run", "--namespace", NAMESPACE, "--identity", identity, "--listen", &listen.to_string()])
        .arg("--signing-key")
        .arg(folder.join("signing.key"));
    command.env("KUBECONFIG", kubeconfig).env("NO_COLOR", "1").env("RUST_LOG", "info,kube=warn,vireo_controller=debug");
    Daemon::start("vireo-controller", folder, command)
}

fn program() -> Result<PathBuf> {
    Build::Newest.find("vireo-controller")?.context("it is not built: cargo build -p vireo-controller")
}
