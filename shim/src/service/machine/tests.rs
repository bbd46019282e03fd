//! The service over its real socket.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use tonic::transport::{Channel, Endpoint};
use vireo_runtimeclass::machine_service::v1::machine_client::MachineClient;

use super::*;
use crate::guest_agent::tests::agent;
use crate::pod::tests::{Bench, soon};

struct Served {
    bench: Bench,
    socket: Socket,
    path: PathBuf,
    client: MachineClient<Channel>,
}

async fn serve() -> Served {
    let bench = Bench::new(State::Ready, true, None);
    bench.pod.create(&bench.request("a")).await.unwrap();
    bench.pod.start("a").await.unwrap();
    let path = bench.folder().join("run/k8s.io.a.sock");
    let service = MachineService::new(&bench.pod.container("a").unwrap());
    let socket = Socket::serve(path.clone(), service).unwrap();
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).unwrap();
    let client = MachineClient::new(endpoint.connect().await.unwrap());
    Served { bench, socket, path, client }
}

#[tokio::test]
async fn a_machine_is_driven_from_its_node() {
    let Served { bench, socket: _socket, mut client, .. } = serve().await;
    let info = client.info(v1::InfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.id.as_str(), info.pid, info.state()), ("a", 4242, v1::State::Running));
    let mut events = client.events(v1::EventsRequest {}).await.unwrap().into_inner();
    assert_eq!(soon(events.message()).await.unwrap().unwrap().state(), v1::State::Running);
    client.pause(v1::PauseRequest {}).await.unwrap();
    assert_eq!(soon(events.message()).await.unwrap().unwrap().state(), v1::State::Paused);
    let twice = client.pause(v1::PauseRequest {}).await.unwrap_err();
    assert_eq!((twice.code(), twice.message()), (tonic::Code::FailedPrecondition, "pause: already paused"));
    client.resume(v1::ResumeRequest {}).await.unwrap();
    client.reset(v1::ResetRequest {}).await.unwrap();
    client.power_button(v1::PowerButtonRequest {}).await.unwrap();
    client.nmi(v1::NmiRequest {}).await.unwrap();
    client.usage(v1::UsageRequest {}).await.unwrap();
    bench.machine.end(1, Some("guest panicked"));
    loop {
        let event = soon(events.message()).await.unwrap().unwrap();
        if event.state() == v1::State::Ended {
            assert_eq!(event.reason, "guest panicked");
            break;
        }
    }
    assert_eq!(soon(events.message()).await.unwrap(), None);
    soon(bench.pod.wait("a")).await.unwrap();
    let late = client.resume(v1::ResumeRequest {}).await.unwrap_err();
    assert_eq!(late.message(), "container \"a\": it has stopped");
}

#[tokio::test]
async fn a_guest_is_asked_through_its_agent() {
    let Served { bench, socket: _socket, mut client, .. } = serve().await;
    tokio::spawn(agent(bench.machine.agent_port(), |command, _| {
        let answer = match command {
            "guest-ping" => "{}",
            "guest-info" => r#"{"version": "8"}"#,
            "guest-get-host-name" => r#"{"host-name": "ho\u001bst"}"#,
            "guest-get-osinfo" => r#"{"pretty-name": "Debian"}"#,
            "guest-get-users" => r#"[{"user": "root", "login-time": 1.5}]"#,
            "guest-get-fsinfo" => r#"[{"name": "vda1", "mountpoint": "/", "type": "ext4", "disk": []}]"#,
            "guest-fsfreeze-freeze" => "2",
            "guest-fsfreeze-thaw" => {
                return Some("{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n".into());
            }
            _ => return None,
        };
        Some(format!("{{\"return\": {answer}}}\n"))
    }));
    let info = client.guest_info(v1::GuestInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.host_name.as_str(), info.os_pretty_name.as_str()), ("ho st", "Debian"));
    let users = client.guest_users(v1::GuestUsersRequest {}).await.unwrap().into_inner().users;
    assert_eq!((users[0].name.as_str(), users.len()), ("root", 1));
    let systems = client.guest_file_systems(v1::GuestFileSystemsRequest {}).await.unwrap().into_inner().file_systems;
    assert_eq!((systems[0].mount_point.as_str(), systems[0].total_bytes), ("/", 0));
    assert_eq!(client.freeze(v1::FreezeRequest::default()).await.unwrap().into_inner().frozen, 2);
    let refused = client.thaw(v1::ThawRequest {}).await.unwrap_err();
    assert!(refused.message().ends_with("refused: GenericError: no"), "{refused}");
    let info = client.info(v1::InfoRequest {}).await.unwrap().into_inner();
    assert!(info.agent_connected && info.frozen, "{info:?}");
    bench.machine.end(0, None);
}

#[tokio::test]
async fn a_guest_is_asked_to_reboot_by_its_agent_or_by_its_button() {
    let Served { bench, socket: _socket, mut client, .. } = serve().await;
    let pressed = || bench.machine.calls.lock().unwrap().iter().filter(|call| **call == "reboot").count();
    client.soft_reboot(v1::SoftRebootRequest {}).await.unwrap();
    assert_eq!(pressed(), 1, "there is no agent yet");
    let machine = bench.machine.clone();
    tokio::spawn(agent(bench.machine.agent_port(), move |command, arguments| match command {
        "guest-ping" => Some("{\"return\": {}}\n".into()),
        "guest-shutdown" => {
            assert_eq!(*arguments, serde_json::json!({"mode": "reboot"}));
            machine.reboot();
            None
        }
        "guest-sync-delimited" => None,
        _ => Some("{\"error\": {\"desc\": \"no\"}}\n".into()),
    }));
    let mut there = bench.pod.container("a").unwrap().agent().unwrap().presence();
    soon(there.wait_for(|there| *there)).await.unwrap();
    client.soft_reboot(v1::SoftRebootRequest {}).await.unwrap();
    assert_eq!(pressed(), 1, "its agent was asked");
    client.pause(v1::PauseRequest {}).await.unwrap();
    let paused = client.soft_reboot(v1::SoftRebootRequest {}).await.unwrap_err();
    assert_eq!(paused.message(), "soft reboot: the machine is paused; resume it first");
    bench.machine.end(0, None);
}

#[tokio::test]
async fn a_port_of_the_guests_vsock_is_reached() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use v1::vsock_request::Input;

    let Served { bench, socket: _socket, client, .. } = serve().await;
    let asked = |inputs: Vec<Input>| {
        let requests = inputs.into_iter().map(|input| v1::VsockRequest { input: Some(input) });
        let (mut client, requests) = (client.clone(), futures_util::stream::iter(requests));
        tokio::spawn(async move { client.vsock(requests).await.map(tonic::Response::into_inner) })
    };
    let guest = async || {
        soon(async {
            loop {
                if let Some(client) = bench.machine.vsock_client() {
                    break client;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    };
    let call = asked(vec![Input::Port(1234), Input::Data(b"hel".to_vec()), Input::Data(b"lo".to_vec())]);
    let (port, mut stream) = guest().await;
    stream.write_all(b"OK 4294967295\nwelcome").await.unwrap();
    let mut told = soon(call).await.unwrap().unwrap();
    assert_eq!(soon(told.message()).await.unwrap().unwrap().data, b"welcome");
    // The requests' end is the guest's.
    let mut heard = String::new();
    soon(stream.read_to_string(&mut heard)).await.unwrap();
    assert_eq!((port, heard.as_str()), (1234, "hello"));
    // More than a message's worth still comes.
    stream.write_all(&vec![b'x'; 100_000]).await.unwrap();
    drop(stream);
    let mut count = 0;
    while let Some(piece) = soon(told.message()).await.unwrap() {
        count += piece.data.len();
    }
    assert_eq!(count, 100_000);

    let call = asked(vec![Input::Port(22)]);
    drop(guest().await);
    let refused = soon(call).await.unwrap().unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (tonic::Code::FailedPrecondition, "vsock: nothing in the guest listens on port 22")
    );
    for first in [vec![], vec![Input::Data(vec![1])]] {
        let refused = soon(asked(first)).await.unwrap().unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    }
    // A VMM that says something else is not believed.
    for nonsense in [&b"HTTP/1.1 200 OK\r\n"[..], b"NO\n", b"no end of the line"] {
        let call = asked(vec![Input::Port(22)]);
        guest().await.1.write_all(nonsense).await.unwrap();
        let refused = soon(call).await.unwrap().unwrap_err();
        assert_ne!(refused.code(), tonic::Code::Ok, "{refused}");
    }
    bench.machine.end(0, None);
}

#[tokio::test]
async fn a_console_is_typed_at_and_read() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use v1::console_request::Input;

    let Served { bench, socket: _socket, mut client, .. } = serve().await;
    let typed = v1::ConsoleRequest { input: Some(Input::Typed(b"ls\n".to_vec())) };
    let requests = futures_util::stream::iter([typed]);
    let mut output = client.console(requests).await.unwrap().into_inner();
    let mut guest = bench.machine.console_client();
    let mut line = [0; 3];
    soon(guest.read_exact(&mut line)).await.unwrap();
    assert_eq!(&line, b"ls\n");
    // Nothing more is typed, and what the guest says still comes.
    guest.write_all(b"disk.img").await.unwrap();
    assert_eq!(soon(output.message()).await.unwrap().unwrap().output, b"disk.img");
    drop(guest);
    assert_eq!(soon(output.message()).await.unwrap(), None);
    bench.machine.end(0, None);
}

#[tokio::test]
async fn the_socket_is_roots_and_goes_with_its_owner() {
    let Served { bench, socket, path, mut client } = serve().await;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    // What a crash left doesn't keep the next from its place.
    std::mem::forget(socket);
    let socket = Socket::serve(path.clone(), MachineService::new(&bench.pod.container("a").unwrap())).unwrap();
    client.info(v1::InfoRequest {}).await.unwrap();
    drop(socket);
    assert!(!path.exists());
    bench.machine.end(0, None);
}
