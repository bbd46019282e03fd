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
    assert_eq!(client.freeze(v1::FreezeRequest {}).await.unwrap().into_inner().frozen, 2);
    let refused = client.thaw(v1::ThawRequest {}).await.unwrap_err();
    assert!(refused.message().ends_with("refused: GenericError: no"), "{refused}");
    assert!(client.info(v1::InfoRequest {}).await.unwrap().into_inner().agent_connected);
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
