//! The service over a real ttrpc connection, beside the Task service that asks for the pod's machine.

use std::path::PathBuf;

use containerd_shim::api::{ConnectRequest, CreateTaskRequest, DeleteRequest, StartRequest, WaitRequest};
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::protos::shim_async::{Client, TaskClient};
use containerd_shim_protos::sandbox_async::SandboxClient;
use prost::Message as _;
use ttrpc::r#async::Server;

use super::*;
use crate::pod::machine::State;
use crate::pod::tests::{Bench, soon};
use crate::sandbox_config::LinuxPodSandboxConfig;
use crate::service::task;

const ID: &str = "sandbox";

struct Served {
    bench: Bench,
    _server: Server,
    sandbox: SandboxClient,
    task: TaskClient,
}

impl Served {
    async fn new() -> Served {
        let bench = Bench::new(State::Ready, true, None);
        let address = format!("unix://{}", bench.folder().join("s").display());
        let mut server = Server::new()
            .bind(&address)
            .unwrap()
            .register_service(task::services(bench.pod.clone(), "k8s.io", bench.folder().join("run")))
            .register_service(services(bench.pod.clone()));
        server.start().await.unwrap();
        let client = Client::connect(&address).await.unwrap();
        Served { bench, _server: server, sandbox: SandboxClient::new(client.clone()), task: TaskClient::new(client) }
    }

    fn bundle(&self) -> PathBuf {
        self.bench.folder().join(ID)
    }

    /// As containerd's CRI plugin asks.
    fn request(&self) -> CreateSandboxRequest {
        std::fs::create_dir_all(self.bundle()).unwrap();
        let linux = Some(LinuxPodSandboxConfig { cgroup_parent: format!("/{}", self.bench.group) });
        let value = PodSandboxConfig { linux, ..Default::default() }.encode_to_vec();
        let options = Any { type_url: "runtime.v1.PodSandboxConfig".into(), value, ..Default::default() };
        CreateSandboxRequest {
            sandbox_id: ID.into(),
            bundle_path: self.bundle().display().to_string(),
            options: MessageField::some(options),
            netns_path: "/run/netns/pod".into(),
            ..Default::default()
        }
    }

    async fn started(&self) {
        self.sandbox.create_sandbox(context(), &self.request()).await.unwrap();
        let start = StartSandboxRequest { sandbox_id: ID.into(), ..Default::default() };
        let started = self.sandbox.start_sandbox(context(), &start).await.unwrap();
        assert_eq!(started.pid, std::process::id());
        assert!(started.created_at.seconds > 0);
    }

    /// Also takes the test's own process out of the pod's cgroup.
    async fn shut_down(&self) {
        let shutdown = ShutdownSandboxRequest { sandbox_id: ID.into(), ..Default::default() };
        self.sandbox.shutdown_sandbox(context(), &shutdown).await.unwrap();
        soon(self.bench.pod.done()).await;
    }

    async fn state(&self) -> String {
        let request = SandboxStatusRequest { sandbox_id: ID.into(), ..Default::default() };
        self.sandbox.sandbox_status(context(), &request).await.unwrap().state
    }
}

fn context() -> ttrpc::context::Context {
    ttrpc::context::with_duration(Duration::from_secs(20))
}

fn code<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> Code {
    match result.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => status.code(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn all_calls_are_served() {
    let bench = Bench::new(State::Ready, true, None);
    assert_eq!(services(bench.pod.clone())["containerd.runtime.sandbox.v1.Sandbox"].methods.len(), 9);
}

#[tokio::test]
async fn a_pod_by_rpc() {
    let mut served = Served::new().await;
    served.started().await;
    assert_eq!(served.state().await, READY);
    assert!(served.bench.cgroup(ID).exists(), "the shim is in the pod's cgroup");
    let platform = PlatformRequest { sandbox_id: ID.into(), ..Default::default() };
    assert_eq!(served.sandbox.platform(context(), &platform).await.unwrap().platform.os, "linux");
    served.sandbox.ping_sandbox(context(), &PingRequest { sandbox_id: ID.into(), ..Default::default() }).await.unwrap();
    let metrics = SandboxMetricsRequest { sandbox_id: ID.into(), ..Default::default() };
    let metrics = served.sandbox.sandbox_metrics(context(), &metrics).await.unwrap().metrics.unwrap();
    assert_eq!(metrics.id, ID);
    assert!(metrics.data.type_url.starts_with("io.containerd.cgroups."), "{}", metrics.data.type_url);
    // A restarted containerd asks the Task service whether somebody is there.
    let connect = ConnectRequest { id: ID.into(), ..Default::default() };
    assert_eq!(served.task.connect(context(), &connect).await.unwrap().task_pid, std::process::id());

    let machine: CreateTaskRequest = served.bench.pod_request("a", "container", "/proc/1/ns/net");
    served.task.create(context(), &machine).await.unwrap();
    assert_eq!(served.bench.built_in().as_deref(), Some(Path::new("/run/netns/pod")));
    served.task.start(context(), &StartRequest { id: "a".into(), ..Default::default() }).await.unwrap();

    let (waiter, wait) = (served.sandbox.clone(), WaitSandboxRequest { sandbox_id: ID.into(), ..Default::default() });
    let waiting = tokio::spawn(async move { waiter.wait_sandbox(context(), &wait).await });
    let stop = StopSandboxRequest { sandbox_id: ID.into(), ..Default::default() };
    served.sandbox.stop_sandbox(context(), &stop).await.unwrap();
    served.sandbox.stop_sandbox(context(), &stop).await.unwrap();
    assert_eq!(soon(waiting).await.unwrap().unwrap().exit_status, 0);
    assert_eq!(served.state().await, NOT_READY);
    let ended = served.task.wait(context(), &WaitRequest { id: "a".into(), ..Default::default() }).await.unwrap();
    assert_eq!(ended.exit_status, 137);
    let ping = PingRequest { sandbox_id: ID.into(), ..Default::default() };
    assert_eq!(code(served.sandbox.ping_sandbox(context(), &ping).await), Code::FAILED_PRECONDITION);
    served.task.delete(context(), &DeleteRequest { id: "a".into(), ..Default::default() }).await.unwrap();

    served.shut_down().await;
    assert!(!served.bench.cgroup(ID).exists());
    // The sandbox is no task: containerd tells of it itself.
    assert_eq!(served.bench.topics(), ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
}

#[tokio::test]
async fn a_shutdown_takes_everything_along() {
    let served = Served::new().await;
    served.started().await;
    served.task.create(context(), &served.bench.pod_request("a", "container", "")).await.unwrap();
    served.task.start(context(), &StartRequest { id: "a".into(), ..Default::default() }).await.unwrap();
    served.shut_down().await;
    assert!(!served.bench.cgroup("a").exists() && !served.bench.cgroup(ID).exists());
}

#[tokio::test]
async fn machines_may_power_off_in_the_time_they_have() {
    let served = Served::new().await;
    served.started().await;
    served.task.create(context(), &served.bench.pod_request("a", "container", "")).await.unwrap();
    served.task.start(context(), &StartRequest { id: "a".into(), ..Default::default() }).await.unwrap();
    let (stopper, machine) = (served.sandbox.clone(), served.bench.machine.clone());
    let stop = StopSandboxRequest { sandbox_id: ID.into(), timeout_secs: 20, ..Default::default() };
    let stopping = tokio::spawn(async move { stopper.stop_sandbox(context(), &stop).await });
    soon(async {
        while !machine.calls.lock().unwrap().contains(&"power button") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    machine.end(0, None);
    soon(stopping).await.unwrap().unwrap();
    assert!(!machine.calls.lock().unwrap().contains(&"kill"));
    let ended = served.task.wait(context(), &WaitRequest { id: "a".into(), ..Default::default() }).await.unwrap();
    assert_eq!(ended.exit_status, 0);
    served.shut_down().await;
}

#[tokio::test]
async fn a_creation_that_fails_leaves_a_shim_that_can_be_shut_down() {
    let served = Served::new().await;
    let mut request = served.request();
    request.options.mut_or_insert_default().type_url = "runtime.v2.Other".into();
    assert_eq!(code(served.sandbox.create_sandbox(context(), &request).await), Code::UNKNOWN);
    let start = StartSandboxRequest { sandbox_id: ID.into(), ..Default::default() };
    assert_eq!(code(served.sandbox.start_sandbox(context(), &start).await), Code::NOT_FOUND);
    served.shut_down().await;
}

#[tokio::test]
async fn a_machine_is_no_sandbox() {
    let served = Served::new().await;
    served.started().await;
    served.task.create(context(), &served.bench.pod_request("a", "container", "")).await.unwrap();
    for id in ["a", "b"] {
        let stop = StopSandboxRequest { sandbox_id: id.into(), ..Default::default() };
        assert_eq!(code(served.sandbox.stop_sandbox(context(), &stop).await), Code::NOT_FOUND);
        let shutdown = ShutdownSandboxRequest { sandbox_id: id.into(), ..Default::default() };
        assert_eq!(code(served.sandbox.shutdown_sandbox(context(), &shutdown).await), Code::NOT_FOUND);
    }
    assert_eq!(served.state().await, READY);
    served.shut_down().await;
}
