//! The agent of a node: runs what the host asks for; see `vireo_tests::node::protocol`.
#![forbid(unsafe_code)]

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Read, Result, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use vireo_tests::node::{
    jump_labels,
    protocol::{ALIVE_INTERVAL, CommandLine, GREETING, Kind, PORT, TOKEN_LENGTH, receive, send},
};

fn main() -> Result<()> {
    let cmdline = std::fs::read_to_string("/proc/cmdline")?;
    let token = cmdline.split_whitespace().find_map(|word| word.strip_prefix("vireo.token=")).unwrap_or_default();
    if token.len() != TOKEN_LENGTH {
        return Err(std::io::Error::new(ErrorKind::InvalidData, "no vireo.token= on the kernel's command line"));
    }
    let _held = jump_labels::hold().inspect_err(|error| eprintln!("agent: KVM's jump labels are not held: {error}"));
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    let token: Arc<str> = token.into();
    for socket in listener.incoming() {
        let (socket, token) = (socket?, Arc::clone(&token));
        thread::spawn(move || {
            if let Err(error) = serve(socket, &token) {
                eprintln!("agent: {error}");
            }
        });
    }
    Ok(())
}

fn serve(socket: TcpStream, token: &str) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut from_host = BufReader::new(socket.try_clone()?);
    let mut line = String::new();
    (&mut from_host).take(TOKEN_LENGTH as u64 + 1).read_line(&mut line)?;
    if line.trim_end() != token {
        return Err(std::io::Error::new(ErrorKind::PermissionDenied, "a client without the token"));
    }
    (&socket).write_all(GREETING)?;
    // A client that only asks whether we are there hangs up here.
    let Ok((Kind::Command, command)) = receive(&mut from_host) else { return Ok(()) };
    let command: CommandLine = serde_json::from_slice(&command)?;
    let to_host = Arc::new(Mutex::new(socket));
    match run(&command, from_host, &to_host) {
        Ok(code) => reply(&to_host, Kind::Exit, code.to_string().as_bytes()),
        Err(error) => {
            let text = format!("{}: {error}\n", command.argv.join(" "));
            reply(&to_host, Kind::ErrorOutput, text.as_bytes())?;
            reply(&to_host, Kind::Exit, b"127")
        }
    }
}

fn run(command: &CommandLine, from_host: BufReader<TcpStream>, to_host: &Arc<Mutex<TcpStream>>) -> Result<i32> {
    let (program, arguments) = command.argv.split_first().ok_or(ErrorKind::InvalidInput)?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(if command.stdin { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir("/root")
        .process_group(0)
        .spawn()?;
    let group = Pid::from_raw(i32::try_from(child.id()).map_err(|_| ErrorKind::InvalidData)?);
    let outputs = [
        child.stdout.take().map(|pipe| pump(pipe, Kind::Output, to_host)),
        child.stderr.take().map(|pipe| pump(pipe, Kind::ErrorOutput, to_host)),
    ];
    let stdin = child.stdin.take();
    thread::spawn(move || feed(from_host, stdin, group));
    let (ended, running) = mpsc::channel();
    let say_alive = Arc::clone(to_host);
    thread::spawn(move || {
        while running.recv_timeout(ALIVE_INTERVAL) == Err(RecvTimeoutError::Timeout)
            && reply(&say_alive, Kind::Alive, &[]).is_ok()
        {}
    });
    let status = child.wait()?;
    // What the command left running may hold the pipes: its last words are waited for only as long as they come.
    for output in outputs.into_iter().flatten() {
        let _ = output.join();
    }
    drop::<mpsc::Sender<()>>(ended);
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// Copies a pipe to the host until its end.
fn pump(mut pipe: impl Read + Send + 'static, kind: Kind, to_host: &Arc<Mutex<TcpStream>>) -> thread::JoinHandle<()> {
    let to_host = Arc::clone(to_host);
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length) = pipe.read(&mut buffer) {
            if length == 0 || reply(&to_host, kind, &buffer[..length]).is_err() {
                break;
            }
        }
    })
}

/// Hands input on; when the host hangs up, the command's processes are killed.
fn feed(mut from_host: BufReader<TcpStream>, mut stdin: Option<ChildStdin>, group: Pid) {
    while let Ok((Kind::Input, content)) = receive(&mut from_host) {
        // Its end, or a command that does not want more.
        if content.is_empty() || stdin.as_mut().is_some_and(|stdin| stdin.write_all(&content).is_err()) {
            stdin = None;
        }
    }
    // Fails if it has ended, as after every finished command.
    let _ = killpg(group, Signal::SIGKILL);
}

fn reply(to_host: &Mutex<TcpStream>, kind: Kind, content: &[u8]) -> Result<()> {
    let mut socket = to_host.lock().unwrap_or_else(PoisonError::into_inner);
    send(&mut *socket, kind, content)
}
