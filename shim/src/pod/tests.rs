//! The pod against a machine that does what a test says.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim::api::{CreateTaskRequest, ExecProcessRequest, Status};
use containerd_shim::protos::protobuf::MessageField;
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use tokio::sync::{mpsc, watch};

use super::machine::{Builder, CommandError, Machine, MachineRequest, Outcome, Request, State};
use super::{Pod, PodError};
use crate::bundle::Bundle;
use crate::cgroup::{self, Folders};
use crate::cpuset::Placement;
use crate::service::events::{Item, Publisher};

/// A machine whose life the test tells.
#[derive(Debug)]
pub(crate) struct Double {
    state: watch::Sender<State>,
    pub(crate) calls: Mutex<Vec<&'static str>>,
    /// Where it was built.
    netns: Mutex<Option<PathBuf>>,
    starts: bool,
    placement: Mutex<Option<Placement>>,
    /// What was put at the guest agent's port.
    agent: Mutex<Option<UnixStream>>,
    /// The console's last client.
    console: Mutex<Option<UnixStream>>,
    reboots: watch::Sender<u64>,
    /// The last client of the guest's vsock, and the port that it wants.
    vsock: Mutex<Option<(u32, UnixStream)>>,
}

impl Double {
    pub(crate) fn end(&self, code: u32, reason: Option<&str>) {
        let started = matches!(*self.state.borrow(), State::Started | State::Paused(_));
        let outcome = Outcome { code, reason: reason.map(str::to_owned) };
        // Its sockets end with it.
        (*self.agent.lock().unwrap(), *self.console.lock().unwrap()) = (None, None);
        *self.vsock.lock().unwrap() = None;
        self.state.send_replace(State::Ended { outcome, started });
    }

    /// Its VMM has built it.
    pub(crate) fn built(&self) {
        self.state.send_replace(State::Ready);
    }

    /// The guest's side of its agent's port.
    pub(crate) fn agent_port(&self) -> tokio::net::UnixStream {
        taken(&self.agent)
    }

    /// Its guest has rebooted.
    pub(crate) fn reboot(&self) {
        self.reboots.send_modify(|count| *count += 1);
    }

    /// The port that the last client of the vsock wants, and the guest's side of it; once.
    pub(crate) fn vsock_client(&self) -> Option<(u32, tokio::net::UnixStream)> {
        let (port, socket) = self.vsock.lock().unwrap().take()?;
        socket.set_nonblocking(true).unwrap();
        Some((port, tokio::net::UnixStream::from_std(socket).unwrap()))
    }

    /// The machine's side of the console's last client.
    pub(crate) fn console_client(&self) -> tokio::net::UnixStream {
        taken(&self.console)
    }

    fn call(&self, name: &'static str) {
        self.calls.lock().unwrap().push(name);
    }
}

#[async_trait]
impl Machine for Double {
    fn pid(&self) -> u32 {
        4242
    }

    fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    fn reboots(&self) -> watch::Receiver<u64> {
        self.reboots.subscribe()
    }

    fn start(&self) -> Result<(), CommandError> {
        self.call("start");
        if self.starts {
            self.state.send_replace(State::Started);
        }
        Ok(())
    }

    fn power_button(&self) -> Result<(), CommandError> {
        self.call("power button");
        Ok(())
    }

    async fn request(&self, request: MachineRequest) -> Result<(), CommandError> {
        self.call(request.name());
        let paused = matches!(*self.state.borrow(), State::Paused(_));
        match request {
            MachineRequest::Pause if paused => Err(CommandError::Refused("pause: already paused".into())),
            MachineRequest::Pause => {
                self.state.send_replace(State::Paused(None));
                Ok(())
            }
            MachineRequest::Resume => {
                self.state.send_replace(State::Started);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn attach_console(&self, client: UnixStream) -> Result<(), CommandError> {
        self.call("attach");
        *self.console.lock().unwrap() = Some(client);
        Ok(())
    }

    fn attach_agent(&self, port: UnixStream) -> Result<(), CommandError> {
        self.call("agent");
        *self.agent.lock().unwrap() = Some(port);
        Ok(())
    }

    fn connect_vsock(&self, port: u32, client: UnixStream) -> Result<(), CommandError> {
        self.call("vsock");
        *self.vsock.lock().unwrap() = Some((port, client));
        Ok(())
    }

    fn resize_console(&self, _: u16, _: u16) -> Result<(), CommandError> {
        self.call("resize");
        Ok(())
    }

    fn placement(&self) -> Option<Placement> {
        self.placement.lock().unwrap().clone()
    }

    fn place(&self, placement: Placement) -> Result<(), CommandError> {
        self.call("place");
        *self.placement.lock().unwrap() = Some(placement);
        Ok(())
    }

    fn kill(&self) {
        self.call("kill");
        self.end(137, Some("killed"));
    }
}

fn taken(socket: &Mutex<Option<UnixStream>>) -> tokio::net::UnixStream {
    let socket = socket.lock().unwrap().take().unwrap();
    socket.set_nonblocking(true).unwrap();
    tokio::net::UnixStream::from_std(socket).unwrap()
}

/// Hands out the same machine.
#[derive(Debug)]
struct DoubleBuilder {
    machine: Arc<Double>,
    refusal: Option<&'static str>,
}

#[async_trait]
impl Builder for DoubleBuilder {
    async fn build(&self, request: Request<'_>) -> anyhow::Result<Arc<dyn Machine>> {
        *self.machine.netns.lock().unwrap() = request.sandbox.and_then(Bundle::netns).map(Into::into);
        match self.refusal {
            Some(text) => Err(anyhow::anyhow!("disk \"root\"").context(text)),
            None => Ok(self.machine.clone()),
        }
    }
}

/// A pod in temporary folders and a cgroup of its own.
pub(crate) struct Bench {
    pub(crate) pod: Arc<Pod>,
    pub(crate) machine: Arc<Double>,
    events: mpsc::UnboundedReceiver<Item>,
    directory: tempfile::TempDir,
    /// The name of its cgroup, which has those of its containers in it.
    pub(crate) group: String,
}

impl Drop for Bench {
    fn drop(&mut self) {
        cgroup::remove(&Folders::at(self.group.as_ref()).unwrap()).unwrap();
    }
}

impl Bench {
    pub(crate) fn new(state: State, starts: bool, refusal: Option<&'static str>) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().file_name().unwrap().to_str().unwrap();
        let folders = cgroup::tests::writable(name.trim_start_matches('.'));
        let group = folders.iter().next().and_then(|folder| folder.path.file_name()).unwrap();
        let group = group.to_str().unwrap().to_owned();
        let (calls, netns) = (Mutex::default(), Mutex::default());
        let machine = Arc::new(Double {
            state: watch::Sender::new(state),
            calls,
            netns,
            starts,
            placement: Mutex::default(),
            agent: Mutex::default(),
            console: Mutex::default(),
            reboots: watch::Sender::new(0),
            vsock: Mutex::default(),
        });
        let (publisher, events) = Publisher::new("k8s.io");
        let pod = Pod::new(Arc::new(DoubleBuilder { machine: machine.clone(), refusal }), publisher);
        Bench { pod, machine, events, directory, group }
    }

    /// As the CRI plugin of containerd asks: `kind` of a container, with its network namespace.
    pub(crate) fn pod_request(&self, id: &str, kind: &str, netns: &str) -> CreateTaskRequest {
        let request = self.request(id);
        let group = &self.group;
        let spec = serde_json::json!({
            "ociVersion": "1.1.0",
            "annotations": {"io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": "sandbox"},
            "linux": {"cgroupsPath": format!("/{group}/{id}"), "namespaces": [{"type": "network", "path": netns}]},
        });
        std::fs::write(PathBuf::from(&request.bundle).join("config.json"), spec.to_string()).unwrap();
        request
    }

    /// The network namespace of the machine that was built last.
    pub(crate) fn built_in(&self) -> Option<PathBuf> {
        self.machine.netns.lock().unwrap().clone()
    }

    pub(crate) fn request(&self, id: &str) -> CreateTaskRequest {
        let bundle = self.directory.path().join(id);
        std::fs::create_dir_all(&bundle).unwrap();
        let group = &self.group;
        let spec = format!(r#"{{"ociVersion":"1.1.0","linux":{{"cgroupsPath":"/{group}/{id}"}}}}"#);
        std::fs::write(bundle.join("config.json"), spec).unwrap();
        CreateTaskRequest { id: id.into(), bundle: bundle.display().to_string(), ..Default::default() }
    }

    /// A folder of the test's own.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub(crate) fn topics(&mut self) -> Vec<String> {
        let mut topics = Vec::new();
        while let Ok(item) = self.events.try_recv() {
            if let Item::Event(envelope) = item {
                topics.push(envelope.topic);
            }
        }
        topics
    }

    /// Waits for an event; those before it are gone.
    async fn expect_topic(&mut self, topic: &str) {
        soon(async {
            while !matches!(self.events.recv().await, Some(Item::Event(envelope)) if envelope.topic == topic) {}
        })
        .await;
    }

    pub(crate) fn cgroup(&self, id: &str) -> Folders {
        Folders::at(&PathBuf::from(&self.group).join(id)).unwrap()
    }
}

/// As containerd asks for a command.
pub(crate) fn exec_request(id: &str, exec: &str, args: &[&str]) -> ExecProcessRequest {
    let process = serde_json::json!({"args": args, "env": ["A=b"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
    let value = process.to_string().into_bytes();
    ExecProcessRequest {
        id: id.into(),
        exec_id: exec.into(),
        spec: MessageField::some(Any { value, ..Default::default() }),
        ..Default::default()
    }
}

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap()
}

#[tokio::test]
async fn a_whole_life_in_containerds_order() {
    let mut bench = Bench::new(State::Ready, true, None);
    let request = bench.request("a");
    assert_eq!(bench.pod.create(&request).await.unwrap(), 4242);
    assert!(bench.cgroup("a").exists());
    assert!(matches!(bench.pod.create(&request).await, Err(PodError::Exists(_))));
    assert_eq!(bench.pod.start("a").await.unwrap(), 4242);
    assert_eq!(bench.pod.container("a").unwrap().phase().status(), Status::RUNNING);
    assert!(matches!(bench.pod.start("a").await, Err(PodError::Illegal { .. })));
    assert!(matches!(bench.pod.delete("a").await, Err(PodError::Illegal { .. })));
    bench.pod.kill("a", 15).unwrap();
    bench.pod.shutdown();
    bench.machine.end(0, None);
    assert_eq!(soon(bench.pod.wait("a")).await.unwrap().code, 0);
    assert!(matches!(bench.pod.kill("a", 9), Err(PodError::AlreadyStopped(_))));
    assert!(bench.pod.stats("a").is_ok());
    let (pid, exit) = bench.pod.delete("a").await.unwrap();
    assert_eq!((pid, exit.code), (4242, 0));
    assert!(!bench.cgroup("a").exists());
    assert!(matches!(bench.pod.delete("a").await, Err(PodError::NotFound(_))));
    assert!(matches!(bench.pod.wait("a").await, Err(PodError::NotFound(_))));
    assert_eq!(bench.topics(), ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    assert_eq!(*bench.machine.calls.lock().unwrap(), ["agent", "start", "power button"]);
    bench.pod.shutdown();
    bench.pod.shutdown();
    soon(bench.pod.done()).await;
}

#[tokio::test]
async fn a_refused_machine_leaves_nothing() {
    let mut bench = Bench::new(State::Ready, true, Some("image is a directory"));
    let error = bench.pod.create(&bench.request("a")).await.unwrap_err();
    assert_eq!(format!("{:#}", anyhow::Error::from(error)), "image is a directory: disk \"root\"");
    assert!(!bench.cgroup("a").exists());
    assert!(matches!(bench.pod.container("a"), Err(PodError::NotFound(_))));
    assert!(bench.topics().is_empty());
}

#[tokio::test]
async fn a_guest_that_ends_at_once_has_started_first() {
    let mut bench = Bench::new(State::Ready, false, None);
    bench.pod.create(&bench.request("a")).await.unwrap();
    let (pod, machine) = (bench.pod.clone(), bench.machine.clone());
    let start = tokio::spawn(async move { pod.start("a").await });
    soon(async {
        while !machine.calls.lock().unwrap().contains(&"start") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let outcome = Outcome { code: 1, reason: Some("guest panicked".into()) };
    machine.state.send_replace(State::Ended { outcome, started: true });
    soon(start).await.unwrap().unwrap();
    assert_eq!(soon(bench.pod.wait("a")).await.unwrap().code, 1);
    assert_eq!(bench.topics(), ["/tasks/create", "/tasks/start", "/tasks/exit"]);
}

#[tokio::test]
async fn a_machine_that_does_not_start_says_why() {
    let bench = Bench::new(State::Ready, false, None);
    bench.pod.create(&bench.request("a")).await.unwrap();
    let (pod, machine) = (bench.pod.clone(), bench.machine.clone());
    let start = tokio::spawn(async move { pod.start("a").await });
    tokio::task::yield_now().await;
    machine.end(1, Some("no such CPU"));
    let error = soon(start).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the machine did not start: no such CPU");
}

#[tokio::test]
async fn what_was_never_started_is_deleted() {
    let mut bench = Bench::new(State::Ready, true, None);
    bench.pod.create(&bench.request("a")).await.unwrap();
    assert_eq!(soon(bench.pod.delete("a")).await.unwrap().1.code, 137);
    assert_eq!(bench.topics(), ["/tasks/create", "/tasks/exit", "/tasks/delete"]);
}

#[tokio::test]
async fn deleting_calls_a_creation_off() {
    let bench = Bench::new(State::Building, true, None);
    let (pod, request) = (bench.pod.clone(), bench.request("a"));
    let creation = tokio::spawn(async move { pod.create(&request).await });
    soon(async {
        while !bench.cgroup("a").exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(matches!(bench.pod.delete("a").await, Err(PodError::NotFound(_))));
    assert!(matches!(soon(creation).await.unwrap(), Err(PodError::Cancelled(_))));
    assert!(!bench.cgroup("a").exists());
    bench.pod.shutdown();
    soon(bench.pod.done()).await;
}

#[tokio::test]
async fn the_sandbox_names_the_network_namespace() {
    let bench = Bench::new(State::Ready, true, None);
    bench.pod.create(&bench.pod_request("sandbox", "sandbox", "/run/netns/pod")).await.unwrap();
    // What the CRI plugin writes for the others: that of the sandbox's process, which is the shim.
    bench.pod.create(&bench.pod_request("a", "container", "/proc/4242/ns/net")).await.unwrap();
    assert_eq!(bench.built_in().as_deref(), Some(std::path::Path::new("/run/netns/pod")));
    bench.machine.end(0, None);
    bench.pod.wait("a").await.unwrap();
    bench.pod.delete("a").await.unwrap();
    bench.pod.kill("sandbox", 9).unwrap();
    bench.pod.delete("sandbox").await.unwrap();
}

#[tokio::test]
async fn one_machine_at_a_time() {
    let bench = Bench::new(State::Ready, true, None);
    bench.pod.create(&bench.request("a")).await.unwrap();
    let error = bench.pod.create(&bench.request("b")).await.unwrap_err();
    assert!(error.to_string().contains("\"a\" is its machine"), "{error}");
    assert!(!bench.cgroup("b").exists());
}

#[tokio::test]
async fn signals_mean_buttons() {
    let bench = Bench::new(State::Ready, true, None);
    bench.pod.create(&bench.request("a")).await.unwrap();
    bench.pod.start("a").await.unwrap();
    bench.pod.kill("a", 0).unwrap();
    for signal in [15, 2, 37] {
        bench.pod.kill("a", signal).unwrap();
    }
    assert!(matches!(bench.pod.kill("a", 10), Err(PodError::Signal(10))));
    assert!(matches!(bench.pod.kill("b", 15), Err(PodError::NotFound(_))));
    bench.pod.kill("a", 9).unwrap();
    assert_eq!(soon(bench.pod.wait("a")).await.unwrap().code, 137);
    let calls = bench.machine.calls.lock().unwrap();
    assert_eq!(*calls, ["agent", "start", "power button", "power button", "power button", "kill"]);
}

#[tokio::test]
async fn a_machine_with_cpus_of_its_own_moves_with_its_container() {
    let bench = Bench::new(State::Ready, true, None);
    *bench.machine.placement.lock().unwrap() = Some(Placement::new("0-2", 2, true).unwrap());
    bench.pod.create(&bench.request("a")).await.unwrap();
    let update = |cpus: &str| {
        let resources = serde_json::from_value(serde_json::json!({"cpu": {"cpus": cpus}})).unwrap();
        bench.pod.update("a", &resources).map_err(|error| error.to_string())
    };
    assert_eq!(update("0-2").unwrap_err(), "container \"a\": it has not been started");
    bench.pod.start("a").await.unwrap();
    let few = update("0-1").unwrap_err();
    assert!(few.starts_with("the container has 2 CPUs of its own for 2 vCPUs and one for the emulator's"), "{few}");
    assert_eq!(*bench.machine.calls.lock().unwrap(), ["place", "agent", "start"]);
    // Other limits leave the threads where they are.
    bench.pod.update("a", &serde_json::from_str(r#"{"cpu": {"cpus": ""}}"#).unwrap()).unwrap();
    assert_eq!(*bench.machine.calls.lock().unwrap(), ["place", "agent", "start"]);
    // This machine may have fewer CPUs than the container: what can't be limited isn't bound either.
    match update("1-3") {
        Ok(()) => assert_eq!(bench.machine.placement().unwrap(), Placement::new("1-3", 2, true).unwrap()),
        Err(error) => assert!(error.contains("cpuset.cpus can't be set"), "{error}"),
    }
}

#[tokio::test]
async fn a_paused_machine_is_said_to_be_one() {
    let mut bench = Bench::new(State::Ready, true, None);
    bench.pod.create(&bench.request("a")).await.unwrap();
    let early = bench.pod.request("a", MachineRequest::Pause).await.unwrap_err();
    assert_eq!(early.to_string(), "container \"a\": it has not been started");
    bench.pod.start("a").await.unwrap();
    let container = bench.pod.container("a").unwrap();
    bench.pod.request("a", MachineRequest::Pause).await.unwrap();
    assert_eq!(container.status(), Status::PAUSED);
    let twice = bench.pod.request("a", MachineRequest::Pause).await.unwrap_err();
    assert_eq!(twice.to_string(), "pause: already paused");
    bench.expect_topic("/tasks/paused").await;
    bench.pod.request("a", MachineRequest::Resume).await.unwrap();
    assert_eq!(container.status(), Status::RUNNING);
    bench.expect_topic("/tasks/resumed").await;
    // A device has it paused.
    bench.machine.state.send_replace(State::Paused(Some("disk \"root\": no space".into())));
    assert_eq!(container.status(), Status::PAUSED);
    bench.expect_topic("/tasks/paused").await;
    bench.machine.end(1, Some("guest panicked"));
    assert_eq!(soon(bench.pod.wait("a")).await.unwrap().code, 1);
    assert_eq!(container.status(), Status::STOPPED);
    assert!(matches!(bench.pod.request("a", MachineRequest::Resume).await, Err(PodError::Illegal { .. })));
}

#[tokio::test]
async fn the_reason_reaches_output_and_termination_message() {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let bench = Bench::new(State::Ready, true, None);
    let mut request = bench.request("a");
    let message = bench.directory.path().join("message");
    std::fs::write(&message, "").unwrap();
    let config = PathBuf::from(&request.bundle).join("config.json");
    let spec = std::fs::read_to_string(&config).unwrap();
    let mount = format!(r#","mounts":[{{"destination":"/dev/termination-log","source":"{}"}}]}}"#, message.display());
    std::fs::write(&config, spec[..spec.len() - 1].to_owned() + &mount).unwrap();
    let fifo = bench.directory.path().join("stdout");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    request.stdout = fifo.display().to_string();
    let mut reader = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
    bench.pod.create(&request).await.unwrap();
    bench.pod.start("a").await.unwrap();
    bench.machine.end(1, Some("guest panicked"));
    assert_eq!(soon(bench.pod.wait("a")).await.unwrap().code, 1);
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    assert!(output.ends_with("vireo: guest panicked\r\n"), "{output:?}");
    assert_eq!(std::fs::read_to_string(&message).unwrap(), "vireo: guest panicked");
}
