//! Commands in a pod whose guest's agent is the test's.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use nix::sys::stat::Mode;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::guest_agent::tests::agent;
use crate::pod::PodError;
use crate::pod::lifecycle::Illegal;
use crate::pod::machine::MachineRequest;
use crate::pod::tests::{Bench, exec_request, soon};

/// What a guest was asked to run.
type Ran = Arc<Mutex<Vec<Value>>>;

/// A running machine; its guest runs `cat`, which prints its input and then fails with 3, and `sleep`, which lasts until it is killed.
async fn booted() -> (Bench, Ran) {
    let (bench, ran, _) = booted_with_agent().await;
    (bench, ran)
}

/// The same, and the agent, which goes on unless it is aborted.
async fn booted_with_agent() -> (Bench, Ran, JoinHandle<()>) {
    let bench = Bench::new(State::Ready, true, None);
    bench.pod.create(&bench.request("a")).await.unwrap();
    bench.pod.start("a").await.unwrap();
    let ran = Ran::default();
    let list = ran.clone();
    let agent = tokio::spawn(agent(bench.machine.agent_port(), move |command, arguments| {
        let mut list = list.lock().unwrap();
        let killed = |list: &[Value]| list.iter().any(|exec| exec["path"] == "kill");
        let answer = match command {
            "guest-info" => json!({"version": "8"}),
            "guest-ping" | "guest-get-osinfo" => json!({}),
            "guest-get-host-name" => json!({"host-name": "guest"}),
            "guest-exec" if arguments["path"] == "nothing" => {
                return Some(json!({"error": {"class": "GenericError", "desc": "no such file"}}).to_string() + "\n");
            }
            "guest-exec" => {
                list.push(arguments.clone());
                json!({"pid": list.len()})
            }
            "guest-exec-status" => {
                let at = usize::try_from(arguments["pid"].as_u64().unwrap()).unwrap() - 1;
                match list[at]["path"].as_str().unwrap() {
                    "cat" => {
                        json!({"exited": true, "exitcode": 3, "out-data": list[at]["input-data"], "err-data": "ZXJy"})
                    }
                    "sleep" if killed(&list) => json!({"exited": true, "signal": 15}),
                    "sleep" => json!({"exited": false}),
                    _ => json!({"exited": true, "exitcode": 0}),
                }
            }
            _ => return None,
        };
        Some(json!({"return": answer}).to_string() + "\n")
    }));
    (bench, ran, agent)
}

fn fifo(bench: &Bench, name: &str) -> String {
    let path = bench.folder().join(name);
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
    path.display().to_string()
}

fn reader(path: &str) -> std::fs::File {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(PathBuf::from(path)).unwrap()
}

#[tokio::test]
async fn a_command_gets_its_input_and_gives_output_and_code() {
    let (mut bench, ran) = booted().await;
    let mut request = exec_request("a", "e", &["cat", "-"]);
    request.stdin = fifo(&bench, "in");
    request.stdout = fifo(&bench, "out");
    request.stderr = fifo(&bench, "err");
    let (mut stdout, mut stderr) = (reader(&request.stdout), reader(&request.stderr));
    bench.pod.add_exec(&request).unwrap();
    assert!(matches!(bench.pod.add_exec(&request), Err(PodError::ExecExists(_))));
    assert_eq!(soon(bench.pod.start_exec("a", "e")).await.unwrap().pid, 4242);
    assert!(matches!(bench.pod.delete_exec("a", "e"), Err(PodError::IllegalExec { .. })));
    let mut stdin = OpenOptions::new().write(true).open(&request.stdin).unwrap();
    stdin.write_all(b"typed").unwrap();
    bench.pod.close_exec_stdin("a", "e").unwrap();
    assert_eq!(soon(bench.pod.wait_exec("a", "e")).await.unwrap().code, 3);
    let (mut out, mut err) = (String::new(), String::new());
    stdout.read_to_string(&mut out).unwrap();
    stderr.read_to_string(&mut err).unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("typed", "err"));
    assert_eq!(ran.lock().unwrap()[0]["input-data"], BASE64_STANDARD.encode("typed"));
    assert!(matches!(bench.pod.kill_exec("a", "e", 9), Err(PodError::NoExec { .. })));
    let (pid, exit) = bench.pod.delete_exec("a", "e").unwrap();
    assert_eq!((pid, exit.code), (4242, 3));
    assert!(matches!(bench.pod.exec("a", "e"), Err(PodError::NoExec { .. })));
    let topics = ["/tasks/create", "/tasks/start", "/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"];
    assert_eq!(bench.topics(), topics);
    bench.machine.end(0, None);
}

#[tokio::test]
async fn a_ping_asks_the_agent_and_runs_nothing() {
    let (bench, ran, agent) = booted_with_agent().await;
    let ping = async |id: &str| {
        bench.pod.add_exec(&exec_request("a", id, &["/.vireo/ping"])).unwrap();
        soon(bench.pod.start_exec("a", id)).await.unwrap();
        bench.pod.wait_exec("a", id).await.unwrap().code
    };
    assert_eq!(ping("there").await, 0);
    agent.abort();
    let _ = agent.await;
    assert_eq!(ping("gone").await, 1);
    assert!(ran.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_kill_ends_a_command_here_and_in_the_guest() {
    let (bench, ran) = booted().await;
    bench.pod.add_exec(&exec_request("a", "e", &["sleep", "9"])).unwrap();
    soon(bench.pod.start_exec("a", "e")).await.unwrap();
    bench.pod.kill_exec("a", "e", 0).unwrap();
    bench.pod.kill_exec("a", "e", 9).unwrap();
    assert_eq!(soon(bench.pod.wait_exec("a", "e")).await.unwrap().code, 137);
    soon(async {
        while ran.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(ran.lock().unwrap()[1], json!({"path": "kill", "arg": ["-9", "1"], "capture-output": false}));
}

#[tokio::test]
async fn another_signal_is_the_guests() {
    let (bench, _) = booted().await;
    bench.pod.add_exec(&exec_request("a", "e", &["sleep", "9"])).unwrap();
    soon(bench.pod.start_exec("a", "e")).await.unwrap();
    bench.pod.kill_exec("a", "e", 15).unwrap();
    assert_eq!(soon(bench.pod.wait_exec("a", "e")).await.unwrap().code, 143);
}

#[tokio::test]
async fn what_cant_run_says_why() {
    let (bench, _) = booted().await;
    bench.pod.add_exec(&exec_request("a", "e", &["nothing"])).unwrap();
    let error = soon(bench.pod.start_exec("a", "e")).await.unwrap_err();
    let text = format!("{:#}", anyhow::Error::from(error));
    assert_eq!(text, "exec: guest agent: guest-exec: refused: GenericError: no such file");
    assert_eq!(bench.pod.delete_exec("a", "e").unwrap().1.code, NOT_RUN);
    bench.pod.request("a", MachineRequest::Pause).await.unwrap();
    let error = bench.pod.add_exec(&exec_request("a", "e", &["cat"])).unwrap_err();
    assert!(matches!(error, PodError::Illegal { source: Illegal::Paused, .. }), "{error}");
}

#[tokio::test]
async fn commands_end_with_their_machine() {
    let (bench, _) = booted().await;
    bench.pod.add_exec(&exec_request("a", "e", &["sleep", "9"])).unwrap();
    soon(bench.pod.start_exec("a", "e")).await.unwrap();
    bench.machine.end(0, None);
    assert_eq!(soon(bench.pod.wait_exec("a", "e")).await.unwrap().code, 137);
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_closes_first_is_the_machine_s_end() {
    for (ends, code) in [(true, KILLED_CODE), (false, UNKNOWN)] {
        let (bench, _, agent) = booted_with_agent().await;
        bench.pod.add_exec(&exec_request("a", "e", &["sleep", "9"])).unwrap();
        soon(bench.pod.start_exec("a", "e")).await.unwrap();
        agent.abort();
        assert!(agent.await.is_err());
        // The command is asked after, in vain, and its end isn't told yet.
        tokio::time::sleep(ENDING / 2).await;
        assert!(bench.pod.exec("a", "e").unwrap().1.phase().exit().is_none());
        if ends {
            bench.machine.end(0, None);
        }
        assert_eq!(bench.pod.wait_exec("a", "e").await.unwrap().code, code);
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_agent_nothing_runs() {
    let bench = Bench::new(State::Ready, true, None);
    bench.pod.create(&bench.request("a")).await.unwrap();
    bench.pod.start("a").await.unwrap();
    let _nobody = bench.machine.agent_port();
    bench.pod.add_exec(&exec_request("a", "e", &["true"])).unwrap();
    let error = bench.pod.start_exec("a", "e").await.unwrap_err();
    assert!(matches!(error, PodError::Exec(AgentError::NotConnected)), "{error:?}");
}

#[tokio::test]
async fn too_much_input_is_refused() {
    let (bench, _) = booted().await;
    let mut request = exec_request("a", "e", &["cat"]);
    request.stdin = fifo(&bench, "in");
    request.stderr = fifo(&bench, "err");
    let mut stderr = reader(&request.stderr);
    bench.pod.add_exec(&request).unwrap();
    soon(bench.pod.start_exec("a", "e")).await.unwrap();
    let mut stdin = OpenOptions::new().write(true).open(&request.stdin).unwrap();
    let typing = std::thread::spawn(move || {
        // The other end closes in the midst of it.
        let _ = stdin.write_all(&vec![0; streams::MAX_INPUT + 4096]);
    });
    assert_eq!(soon(bench.pod.wait_exec("a", "e")).await.unwrap().code, NOT_RUN);
    let mut text = String::new();
    stderr.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("vireo: exec: stdin: more than 4194304 bytes"), "{text}");
    typing.join().unwrap();
}
