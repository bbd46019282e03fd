//! A kubelet whose containers are processes of this machine: for pods of Vireo's own program, in one namespace.
//!
//! A pod's process has the pod's arguments and environment, the token of the pod's service account, and an address of its own, so that
//! Services lead to it; it is ready when its probe says so, is started again when it ends, and is told to end when its pod is
//! deleted. What else a pod's spec says is of no matter here. Pods of other programs only say that they run.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Daemon, FakeKubelet, HOST,
    pod_status::{State, address},
};

/// Where the program answers the API server, and probes.
const PORTS: (u16, u16) = (8443, 8081);
/// How often a process is looked at: nothing tells of a child's end, or of its being ready.
const LOOK: Duration = Duration::from_millis(100);
/// What a pod's process has to end where the pod doesn't say.
const GRACE: Duration = Duration::from_secs(30);

/// The kubelet; clones are the same.
#[derive(Clone)]
pub struct ProcessKubelet(Arc<Shared>);

struct Shared {
    client: Client,
    /// Tells what pods do.
    teller: FakeKubelet,
    namespace: String,
    program: PathBuf,
    /// Kubeconfigs and logs.
    folder: PathBuf,
    /// By the pods' uids.
    pods: Mutex<HashMap<String, Running>>,
}

/// A pod whose process runs.
struct Running {
    name: String,
    deleted: CancellationToken,
    killed: bool,
}

impl std::fmt::Debug for ProcessKubelet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessKubelet").field("namespace", &self.0.namespace).finish_non_exhaustive()
    }
}

impl ProcessKubelet {
    /// Takes a namespace over from `teller`, and goes on in tasks of this runtime's, whose one thread has to be the cluster's.
    pub fn start(client: Client, teller: FakeKubelet, namespace: &str, program: &Path, folder: &Path) -> Self {
        teller.hold(namespace);
        let (namespace, program, folder) = (namespace.to_owned(), program.to_owned(), folder.to_owned());
        let kubelet = Self(Arc::new(Shared { client, teller, namespace, program, folder, pods: Mutex::default() }));
        tokio::spawn(kubelet.clone().serve());
        kubelet
    }

    /// Kills the processes of pods whose names begin so, as the kernel would: they are started again. How many there were.
    pub fn kill(&self, prefix: &str) -> usize {
        let mut pods = self.pods();
        let named = pods.values_mut().filter(|pod| pod.name.starts_with(prefix));
        named.map(|pod| pod.killed = true).count()
    }

    /// The ends of the logs of pods that there are.
    pub fn last_words(&self) -> String {
        let names: Vec<_> = self.pods().values().map(|pod| pod.name.clone()).collect();
        let last = names.iter().map(|name| Daemon::last_words_of(&self.0.folder, name));
        last.collect::<Vec<_>>().join("\n")
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.0.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(self) {
        let pods: Api<Pod> = Api::namespaced(self.0.client.clone(), &self.0.namespace);
        let mut changes = Box::pin(watcher(pods, watcher::Config::default()).default_backoff().applied_objects());
        while let Some(change) = changes.next().await {
            // Where there is none the API server is down, and the watch is made anew.
            let Ok(pod) = change else { continue };
            if pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none()) {
                continue;
            }
            let (uid, is_deleted) = (pod.uid().unwrap_or_default(), pod.metadata.deletion_timestamp.is_some());
            let mut running = self.pods();
            match running.get(&uid) {
                Some(pod) if is_deleted => pod.deleted.cancel(),
                Some(_) => {}
                None => {
                    let deleted = CancellationToken::new();
                    if is_deleted {
                        deleted.cancel();
                    }
                    let new = Running { name: pod.name_any(), deleted: deleted.clone(), killed: false };
                    running.insert(uid.clone(), new);
                    tokio::spawn(self.clone().run(pod, uid, deleted));
                }
            }
        }
    }

    async fn run(self, pod: Pod, uid: String, deleted: CancellationToken) {
        if let Err(error) = self.contain(&pod, &uid, &deleted).await {
            eprintln!("the kubelet of processes failed at pod {}: {error:#}", pod.name_any());
        }
        self.pods().remove(&uid);
    }

    /// From the pod's start to its end.
    async fn contain(&self, pod: &Pod, uid: &str, deleted: &CancellationToken) -> Result<()> {
        let spec = pod.spec.as_ref().context("it has a spec")?;
        let container = spec.containers.first().context("it has a container")?;
        if !is_own(container) {
            self.0.teller.say(pod, &State::Running).await?;
            deleted.cancelled().await;
            return self.end(pod).await;
        }
        let grace = spec.termination_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let address = address(pod);
        let output = Command::new("ip").args(["address", "replace", &format!("{address}/32"), "dev", "lo"]).output()?;
        ensure!(output.status.success(), "ip address: {}", String::from_utf8_lossy(&output.stderr));
        let kubeconfig = self.kubeconfig(pod).await?;
        while !deleted.is_cancelled() {
            let mut process = self.spawn(pod, container, address, &kubeconfig)?;
            self.follow(pod, uid, &mut process, address, deleted).await?;
            if deleted.is_cancelled() && process.signal(Signal::SIGTERM).is_ok() {
                let end = Instant::now() + grace.map_or(GRACE, Duration::from_secs);
                // One that doesn't end in its time is killed.
                while process.check().is_ok() && Instant::now() < end {
                    sleep(LOOK).await;
                }
            }
        }
        self.end(pod).await
    }

    async fn end(&self, pod: &Pod) -> Result<()> {
        // Others may have removed it, by force.
        let gone = |error: &anyhow::Error| matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if [404, 409].contains(&status.code));
        let ended = async {
            self.0.teller.say(pod, &State::ended(0)).await?;
            self.0.teller.remove(pod).await
        };
        ended.await.or_else(|error| if gone(&error) { Ok(()) } else { Err(error) })
    }

    /// Says how a process is, until it ends or its pod is deleted.
    async fn follow(
        &self,
        pod: &Pod,
        uid: &str,
        process: &mut Daemon,
        address: Ipv4Addr,
        deleted: &CancellationToken,
    ) -> Result<()> {
        let mut said = State::Unready;
        self.0.teller.say(pod, &said).await?;
        while deleted.run_until_cancelled(sleep(LOOK)).await.is_some() {
            if self.pods().get_mut(uid).is_some_and(|pod| std::mem::take(&mut pod.killed)) {
                process.kill();
            }
            if process.check().is_err() {
                return self.0.teller.say(pod, &State::Unready).await;
            }
            let is = if is_ready(address).await { State::Running } else { State::Unready };
            if is != said {
                self.0.teller.say(pod, &is).await?;
                said = is;
            }
        }
        Ok(())
    }

    fn spawn(&self, pod: &Pod, container: &Container, address: Ipv4Addr, kubeconfig: &Path) -> Result<Daemon> {
        let mut command = Daemon::command(&self.0.program);
        let everywhere = Ipv4Addr::UNSPECIFIED.to_string();
        let arguments = container.args.iter().flatten().map(|text| text.replace(&everywhere, &address.to_string()));
        let arguments: Vec<_> = arguments.collect();
        command.args(&arguments);
        if arguments.first().is_some_and(|command| command == "run") {
            command.arg(format!("--listen={address}:{}", PORTS.0));
        }
        for variable in container.env.iter().flatten() {
            let field =
                variable.value_from.as_ref().and_then(|from| Some(from.field_ref.as_ref()?.field_path.as_str()));
            let value = match field {
                Some("metadata.name") => pod.name_any(),
                Some("metadata.namespace") => self.0.namespace.clone(),
                _ => variable.value.clone().unwrap_or_default(),
            };
            command.env(&variable.name, value);
        }
        command.env("KUBECONFIG", kubeconfig).env("NO_COLOR", "1").env("RUST_LOG", "info,kube=warn");
        Daemon::start(&pod.name_any(), &self.0.folder, command)
    }

    /// With the token that the API server has mounted into the pod.
    async fn kubeconfig(&self, pod: &Pod) -> Result<PathBuf> {
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let token = volumes.filter_map(|volume| volume.secret.as_ref()?.secret_name.as_deref());
        let token =
            token.into_iter().find(|name| name.contains("-token-")).context("its account's token is mounted")?;
        let secrets: Api<Secret> = Api::namespaced(self.0.client.clone(), &self.0.namespace);
        let data = secrets.get(token).await?.data.unwrap_or_default();
        let text = |key: &str| data.get(key).with_context(|| format!("{token} has no {key}"));
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "own", "cluster": {
                "server": format!("https://{HOST}:6443"), "certificate-authority-data": text("ca.crt")?,
            }}],
            "users": [{"name": "own", "user": {"token": String::from_utf8(text("token")?.0.clone())?}}],
            "contexts": [{"name": "own", "context": {"cluster": "own", "user": "own"}}],
            "current-context": "own",
        });
        let path = self.0.folder.join(format!("{}.kubeconfig", pod.name_any()));
        std::fs::write(&path, kubeconfig.to_string()).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

/// Whether it runs the program.
fn is_own(container: &Container) -> bool {
    ["vireo-controller", "vireo-operator"].contains(&container.name.as_str())
}

/// What its readiness probe would say.
async fn is_ready(address: Ipv4Addr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect((address, PORTS.1)).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: probe\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map(|_| answer)
    };
    timeout(Duration::from_secs(1), ask).await.is_ok_and(|answer| answer.is_ok_and(|text| text.contains(" 200 ")))
}
