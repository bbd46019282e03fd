//! The service over a real ttrpc connection, by both names.

use containerd_shim::protos::shim_async::{Client, TaskClient};
use ttrpc::r#async::Server;

use super::*;
use crate::pod::machine::State;
use crate::pod::tests::{Bench, soon};

struct Served {
    bench: Bench,
    _server: Server,
    client: TaskClient,
    address: String,
    _directory: tempfile::TempDir,
}

async fn serve() -> Served {
    serve_machine(State::Ready).await
}

async fn serve_machine(state: State) -> Served {
    let bench = Bench::new(state, true, None);
    let directory = tempfile::tempdir().unwrap();
    let address = format!("unix://{}", directory.path().join("s").display());
    let mut server = Server::new().bind(&address).unwrap().register_service(services(
        bench.pod.clone(),
        "k8s.io",
        bench.folder().join("run"),
    ));
    server.start().await.unwrap();
    let client = TaskClient::new(Client::connect(&address).await.unwrap());
    Served { bench, _server: server, client, address, _directory: directory }
}

fn context() -> ttrpc::context::Context {
    ttrpc::context::with_duration(std::time::Duration::from_secs(20))
}

fn code<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> Code {
    match result.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => status.code(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn both_versions_have_all_calls() {
    let served = serve().await;
    let services = services(served.bench.pod.clone(), "k8s.io", served.bench.folder().join("run"));
    assert_eq!(services.len(), 2);
    for version in VERSIONS {
        assert_eq!(services[version].methods.len(), 17, "{version}");
    }
}

#[tokio::test]
async fn a_task_by_rpc() {
    let served = serve().await;
    let (client, id) = (&served.client, "a".to_owned());
    let request = served.bench.request("a");
    assert_eq!(client.create(context(), &request).await.unwrap().pid, 4242);
    let pids = client.pids(context(), &PidsRequest { id: id.clone(), ..Default::default() }).await.unwrap();
    assert_eq!(pids.processes[0].pid, 4242);
    let socket = served.bench.folder().join("run/k8s.io.a.sock");
    assert!(socket.exists(), "the machine has its own service");
    client.start(context(), &StartRequest { id: id.clone(), ..Default::default() }).await.unwrap();
    // What is running can neither be started nor deleted.
    let again = StartRequest { id: id.clone(), ..Default::default() };
    assert_eq!(code(client.start(context(), &again).await), Code::FAILED_PRECONDITION);
    let early = DeleteRequest { id: id.clone(), ..Default::default() };
    assert_eq!(code(client.delete(context(), &early).await), Code::FAILED_PRECONDITION);
    let connect = client.connect(context(), &ConnectRequest { id: id.clone(), ..Default::default() }).await.unwrap();
    assert_eq!((connect.shim_pid, connect.task_pid), (std::process::id(), 4242));
    let numbers = client.stats(context(), &StatsRequest { id: id.clone(), ..Default::default() }).await.unwrap();
    let version = if served.bench.cgroup("a").is_unified() { "v2" } else { "v1" };
    assert_eq!(numbers.stats.type_url, format!("io.containerd.cgroups.{version}.Metrics"));
    let resize = ResizePtyRequest { id: id.clone(), width: 80, height: 25, ..Default::default() };
    client.resize_pty(context(), &resize).await.unwrap();
    let pause = PauseRequest { id: id.clone(), ..Default::default() };
    client.pause(context(), &pause).await.unwrap();
    assert_eq!(code(client.pause(context(), &pause).await), Code::FAILED_PRECONDITION);
    let state = client.state(context(), &StateRequest { id: id.clone(), ..Default::default() }).await.unwrap();
    assert_eq!(state.status.value(), 4);
    client.resume(context(), &ResumeRequest { id: id.clone(), ..Default::default() }).await.unwrap();
    served.bench.machine.end(0, None);
    client.wait(context(), &WaitRequest { id: id.clone(), ..Default::default() }).await.unwrap();
    let state = client.state(context(), &StateRequest { id: id.clone(), ..Default::default() }).await.unwrap();
    assert_eq!((state.status.value(), state.exit_status, state.exited_at.is_some()), (3, 0, true));
    // A restarted containerd must not take a stopped task for a leaked shim.
    let pids = client.pids(context(), &PidsRequest { id: id.clone(), ..Default::default() }).await.unwrap();
    assert_eq!(pids.processes.len(), 1);
    let kill = KillRequest { id: id.clone(), signal: 9, ..Default::default() };
    assert_eq!(code(client.kill(context(), &kill).await), Code::NOT_FOUND);
    let delete = DeleteRequest { id: id.clone(), ..Default::default() };
    client.delete(context(), &delete).await.unwrap();
    assert_eq!(code(client.wait(context(), &WaitRequest { id, ..Default::default() }).await), Code::NOT_FOUND);
    assert!(!socket.exists());
    assert_eq!(code(client.delete(context(), &delete).await), Code::NOT_FOUND);
}

#[tokio::test]
async fn a_creation_that_nobody_waits_for_leaves_nothing() {
    let served = serve_machine(State::Building).await;
    let request = served.bench.request("a");
    let cgroup = served.bench.cgroup("a");
    // Its deadline passes.
    let brief = ttrpc::context::with_duration(std::time::Duration::from_millis(50));
    let client = &served.client;
    assert!(client.create(brief, &request).await.is_err());
    soon(gone(&served, &cgroup)).await;
    // Its client goes.
    let other = TaskClient::new(Client::connect(&served.address).await.unwrap());
    let asked = request.clone();
    let creation = tokio::spawn(async move { other.create(context(), &asked).await });
    soon(async {
        while !cgroup.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    creation.abort();
    assert!(creation.await.is_err());
    soon(gone(&served, &cgroup)).await;
    // It can be tried again.
    served.bench.machine.built();
    client.create(context(), &request).await.unwrap();
    assert_eq!(code(client.create(context(), &request).await), Code::ALREADY_EXISTS);
}

/// Waits until nothing of container `a` is left.
async fn gone(served: &Served, cgroup: &crate::cgroup::Folders) {
    while cgroup.exists() || served.bench.pod.container("a").is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let served = serve().await;
    let client = &served.client;
    assert_eq!(code(client.exec(context(), &ExecProcessRequest::new()).await), Code::NOT_FOUND);
    assert_eq!(code(client.checkpoint(context(), &CheckpointTaskRequest::new()).await), Code::UNIMPLEMENTED);
    assert_eq!(code(client.pause(context(), &PauseRequest::new()).await), Code::NOT_FOUND);
    assert_eq!(code(client.resume(context(), &ResumeRequest::new()).await), Code::NOT_FOUND);
    assert_eq!(code(client.state(context(), &StateRequest::new()).await), Code::NOT_FOUND);
    assert_eq!(code(client.wait(context(), &WaitRequest::new()).await), Code::NOT_FOUND);
    assert_eq!(code(client.pids(context(), &PidsRequest::new()).await), Code::NOT_FOUND);
    assert_eq!(code(client.connect(context(), &ConnectRequest::new()).await), Code::NOT_FOUND);
    assert_eq!(code(client.kill(context(), &KillRequest::new()).await), Code::NOT_FOUND);
    assert_eq!(code(client.stats(context(), &StatsRequest::new()).await), Code::NOT_FOUND);
    let process = StateRequest { id: "a".into(), exec_id: "sh".into(), ..Default::default() };
    assert_eq!(code(client.state(context(), &process).await), Code::NOT_FOUND);
}
