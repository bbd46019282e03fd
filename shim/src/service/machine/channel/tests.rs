//! The service over an exec's fifos, as the controller speaks to it.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::stat::Mode;
use serde_json::json;
use tokio::io::join;
use tokio::net::unix::pipe;
use tonic::Code;
use tonic::transport::Channel as Connection;
use vireo_runtimeclass::machine_service::CHANNEL;
use vireo_runtimeclass::machine_service::client::{channel, with_token};
use vireo_runtimeclass::machine_service::token::{Claims, Pod, Signer};
use vireo_runtimeclass::machine_service::v1::{self, console_request::Input, machine_client::MachineClient};

use super::*;
use crate::pod::PodError;
use crate::pod::exec::channel::MAX_CHANNELS;
use crate::pod::tests::{Bench, exec_request, soon};

/// A running machine whose pod knows `signer`.
async fn booted() -> Bench {
    let bench = Bench::new(State::Ready, true, None);
    let request = bench.request("a");
    let config = std::path::PathBuf::from(&request.bundle).join("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    spec["annotations"] = json!({
        "io.kubernetes.cri.sandbox-namespace": "default",
        "io.kubernetes.cri.sandbox-name": "vm",
        "io.kubernetes.cri.sandbox-uid": "u-1",
        "vireo.dev/controller-key": signer().key().to_string(),
    });
    std::fs::write(config, spec.to_string()).unwrap();
    bench.pod.create(&request).await.unwrap();
    bench.pod.start("a").await.unwrap();
    bench
}

fn signer() -> Signer {
    Signer::new(&[1; 32])
}

fn token(method: &str, nonce: u8) -> Vec<u8> {
    let pod = Pod { namespace: "default".into(), name: "vm".into(), uid: "u-1".into() };
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 60;
    signer().sign(&Claims { pod, method: method.into(), expires, nonce: [nonce; 16] }).unwrap()
}

fn request(bench: &Bench, exec: &str) -> containerd_shim::api::ExecProcessRequest {
    let mut request = exec_request("a", exec, &[CHANNEL]);
    request.stdin = bench.folder().join(format!("{exec}-in")).display().to_string();
    request.stdout = bench.folder().join(format!("{exec}-out")).display().to_string();
    for fifo in [&request.stdin, &request.stdout] {
        nix::unistd::mkfifo(fifo.as_str(), Mode::S_IRWXU).unwrap();
    }
    request
}

async fn connect(bench: &Bench, exec: &str, used: &Arc<Used>) -> MachineClient<Connection> {
    let request = request(bench, exec);
    bench.pod.add_exec(&request).unwrap();
    let started = soon(bench.pod.start_exec("a", exec)).await.unwrap();
    assert_eq!(started.pid, 4242);
    tokio::spawn(serve(started.channel.unwrap(), used.clone()));
    let stdout = pipe::OpenOptions::new().open_receiver(&request.stdout).unwrap();
    let stdin = pipe::OpenOptions::new().open_sender(&request.stdin).unwrap();
    MachineClient::new(soon(channel(join(stdout, stdin))).await.unwrap())
}

async fn ended(bench: &Bench, exec: &str) -> u32 {
    soon(bench.pod.wait_exec("a", exec)).await.unwrap().code
}

#[tokio::test]
async fn whoever_may_exec_looks_and_the_controller_acts() {
    let (bench, used) = (booted().await, Arc::default());
    let mut client = connect(&bench, "e", &used).await;
    let info = client.info(v1::InfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.pod_name.as_str(), info.state()), ("vm", v1::State::Running));
    client.usage(v1::UsageRequest {}).await.unwrap();

    let acts = || bench.machine.calls.lock().unwrap().contains(&"pause");
    let refused = client.pause(v1::PauseRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().starts_with("Pause: over an exec it needs a token"), "{refused}");
    let refused = client.pause(with_token(v1::PauseRequest {}, &token("Resume", 1))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(!acts());
    client.pause(with_token(v1::PauseRequest {}, &token("Pause", 1))).await.unwrap();
    assert!(acts());

    // Another channel, also to a paused machine, has no second try.
    let mut other = connect(&bench, "f", &used).await;
    let again = other.pause(with_token(v1::PauseRequest {}, &token("Pause", 1))).await.unwrap_err();
    assert!(again.message().contains("has been used"), "{again}");
    other.resume(with_token(v1::ResumeRequest {}, &token("Resume", 2))).await.unwrap();

    // Every other call that changes something asks for a token too.
    let none = [
        other.reset(v1::ResetRequest {}).await.unwrap_err(),
        other.power_button(v1::PowerButtonRequest {}).await.unwrap_err(),
        other.nmi(v1::NmiRequest {}).await.unwrap_err(),
        other.freeze(v1::FreezeRequest::default()).await.unwrap_err(),
        other.soft_reboot(v1::SoftRebootRequest {}).await.unwrap_err(),
        other.vsock(futures_util::stream::empty::<v1::VsockRequest>()).await.unwrap_err(),
        other.thaw(v1::ThawRequest {}).await.unwrap_err(),
    ];
    assert!(none.iter().all(|status| status.code() == Code::Unauthenticated), "{none:?}");
    bench.machine.end(0, None);
}

#[tokio::test]
async fn the_last_event_is_told_before_the_channel_ends() {
    let (bench, used) = (booted().await, Arc::default());
    let mut client = connect(&bench, "e", &used).await;
    let mut events = client.events(v1::EventsRequest {}).await.unwrap().into_inner();
    assert_eq!(soon(events.message()).await.unwrap().unwrap().state(), v1::State::Running);
    bench.machine.end(1, Some("guest panicked"));
    let last = soon(events.message()).await.unwrap().unwrap();
    assert_eq!((last.state(), last.reason.as_str()), (v1::State::Ended, "guest panicked"));
    assert_eq!(soon(events.message()).await.unwrap(), None);
    assert_eq!(ended(&bench, "e").await, 0);
}

#[tokio::test]
async fn a_channel_ends_with_its_client_or_by_a_kill() {
    let (bench, used) = (booted().await, Arc::default());
    let _first = connect(&bench, "e", &used).await;
    bench.pod.close_exec_stdin("a", "e").unwrap();
    assert_eq!(ended(&bench, "e").await, 0);
    let mut second = connect(&bench, "f", &used).await;
    bench.pod.kill_exec("a", "f", 9).unwrap();
    assert_eq!(ended(&bench, "f").await, 137);
    soon(second.info(v1::InfoRequest {})).await.unwrap_err();
    bench.pod.delete_exec("a", "f").unwrap();
    bench.machine.end(0, None);
}

#[tokio::test]
async fn a_console_passes_through() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let (bench, used) = (booted().await, Arc::default());
    let mut client = connect(&bench, "e", &used).await;
    let typed = v1::ConsoleRequest { input: Some(Input::Typed(b"ls\n".to_vec())) };
    let mut output = client.console(futures_util::stream::iter([typed])).await.unwrap().into_inner();
    let mut guest = bench.machine.console_client();
    let mut line = [0; 3];
    soon(guest.read_exact(&mut line)).await.unwrap();
    guest.write_all(&vec![b'x'; 100_000]).await.unwrap();
    let mut shown = 0;
    while shown < 100_000 {
        shown += soon(output.message()).await.unwrap().unwrap().output.len();
    }
    assert_eq!((&line, shown), (b"ls\n", 100_000));
    bench.machine.end(0, None);
}

#[tokio::test]
async fn there_are_not_too_many() {
    let bench = booted().await;
    for number in 0..MAX_CHANNELS {
        bench.pod.add_exec(&request(&bench, &number.to_string())).unwrap();
    }
    let refused = bench.pod.add_exec(&request(&bench, "more")).unwrap_err();
    assert!(matches!(&refused, PodError::Invalid(text) if text.contains("16 already")), "{refused}");
    bench.pod.delete_exec("a", "0").unwrap();
    bench.pod.add_exec(&request(&bench, "another")).unwrap();
    bench.machine.end(0, None);
}
