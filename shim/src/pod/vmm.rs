//! The machine in a `vireo-vmm` process: commands go through its control socket, a task follows what it says until it is
//! gone.
//!
//! What the VMM says is the guest's own word: it is bounded, stripped of control characters, and believed only as far as
//! the process's exit status bears it out.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncReadExt as _;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use vireo_vmm::control::client::Received;
use vireo_vmm::control::message::{Answer, Command, End, Event, PauseReason, Request};

use super::answers::Answers;
use super::container::lock;
use super::machine::{ANSWER, CommandError, Machine, Outcome, State};
use super::vsock::Connections;
use crate::cpuset::Placement;
use crate::launch::{ExitStatus, Vmm};
use crate::log::bounded;
use crate::network::Attachment;
use crate::ready::readable;
use crate::vsock::Sockets;

/// How long a VMM that has said its last word may stay.
const LEAVE: Duration = Duration::from_secs(5);
/// How long the rest of its log may take.
const LAST_LINES: Duration = Duration::from_millis(200);
/// The longest line of its log, and the longest reason, bytes.
const MAX_LINE: usize = 1024;
/// Why a machine's vsock has no ports.
const NO_VSOCK: &str = "vsock: the machine has none: set spec.domain.devices.autoattachVSOCK to true";

/// What a machine has beside its process.
#[derive(Debug)]
pub struct Belongings {
    /// Its interfaces.
    pub network: Option<Attachment>,
    /// Its vsock's side of the node.
    pub sockets: Option<Sockets>,
    /// Its guest is to be paused before its first instruction.
    pub start_paused: bool,
    /// The CPUs that its threads keep to.
    pub placement: Option<Placement>,
}

/// A machine's process. Dropping it kills the process and then gives back its network.
#[derive(Debug)]
pub struct Process {
    vmm: Arc<Vmm>,
    pid: u32,
    killed: Arc<AtomicBool>,
    state: watch::Receiver<State>,
    reboots: watch::Receiver<u64>,
    start_paused: bool,
    has_vsock: bool,
    placement: Mutex<Option<Placement>>,
    answers: Arc<Answers>,
    network: Network,
}

/// The machine's network, until whoever is first gives it back: the end of the process, or of its owner.
type Network = Arc<Mutex<Option<Attachment>>>;

impl Process {
    /// Takes a launched VMM over, with what else its machine has. Needs a tokio runtime.
    pub fn follow(vmm: Vmm, belongings: Belongings) -> io::Result<Process> {
        let Belongings { mut network, sockets, start_paused, placement } = belongings;
        network.iter_mut().try_for_each(Attachment::serve)?;
        let network = Arc::new(Mutex::new(network));
        let (sender, state) = watch::channel(State::Building);
        let (rebooted, reboots) = watch::channel(0);
        let has_vsock = sockets.is_some();
        let killed = Arc::new(AtomicBool::new(false));
        let pid = u32::try_from(vmm.pid.as_raw()).unwrap_or_default();
        let log = pipe::Receiver::from_owned_fd(vmm.stderr.try_clone()?)?;
        let (vmm, answers) = (Arc::new(vmm), Arc::new(Answers::default()));
        let follower = Follower {
            control: readable(&vmm.control)?,
            exit: readable(&vmm.pidfd)?,
            log: tokio::spawn(copy_log(log)),
            vmm: vmm.clone(),
            killed: killed.clone(),
            state: sender,
            rebooted,
            answers: answers.clone(),
            network: network.clone(),
            vsock: sockets.map(|sockets| Connections::serve(sockets, vmm.clone())),
            last: None,
        };
        tokio::spawn(follower.run());
        let placement = Mutex::new(placement);
        Ok(Process { vmm, pid, killed, state, reboots, start_paused, has_vsock, placement, answers, network })
    }

    fn send(&self, name: &'static str, command: &Command, files: &[BorrowedFd<'_>]) -> Result<(), CommandError> {
        self.vmm.control.send(command, files).map_err(|error| CommandError::NotTaken {
            command: name,
            reason: format!("{:#}", anyhow::Error::from(error)),
        })
    }
}

#[async_trait]
impl Machine for Process {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    fn reboots(&self) -> watch::Receiver<u64> {
        self.reboots.clone()
    }

    fn start(&self) -> Result<(), CommandError> {
        self.send("start", &Command::Start { paused: self.start_paused }, &[])
    }

    fn power_button(&self) -> Result<(), CommandError> {
        let request = Request::PowerButton;
        self.send(request.name(), &Command::Request { id: self.answers.unheard(), request }, &[])
    }

    async fn request(&self, request: Request) -> Result<(), CommandError> {
        let name = request.name();
        let (id, answer) = self.answers.expect();
        let answer = match self.send(name, &Command::Request { id, request }, &[]) {
            Ok(()) => tokio::time::timeout(ANSWER, answer).await.map_err(|_| CommandError::NoAnswer(name)),
            Err(error) => Err(error),
        };
        self.answers.forget(id);
        match answer? {
            Ok(Answer::Done) => Ok(()),
            Ok(Answer::Refused(why)) => Err(CommandError::Refused(one_line(&why))),
            Err(_) => Err(CommandError::Ended(name)),
        }
    }

    fn attach_console(&self, client: UnixStream) -> Result<(), CommandError> {
        self.send("attach", &Command::AttachConsole, &[client.as_fd()])
    }

    fn attach_agent(&self, client: UnixStream) -> Result<(), CommandError> {
        self.send("attach agent", &Command::AttachAgent, &[client.as_fd()])
    }

    fn connect_vsock(&self, port: u32, client: UnixStream) -> Result<(), CommandError> {
        if !self.has_vsock {
            return Err(CommandError::Refused(NO_VSOCK.to_owned()));
        }
        self.send("vsock", &Command::ConnectVsock { port }, &[client.as_fd()])
    }

    fn resize_console(&self, columns: u16, rows: u16) -> Result<(), CommandError> {
        self.send("resize", &Command::ResizeConsole { columns, rows }, &[])
    }

    fn placement(&self) -> Option<Placement> {
        lock(&self.placement).clone()
    }

    fn place(&self, placement: Placement) -> Result<(), CommandError> {
        placement.bind_threads(self.pid).map_err(CommandError::Place)?;
        *lock(&self.placement) = Some(placement);
        Ok(())
    }

    fn kill(&self) {
        self.killed.store(true, Ordering::Relaxed);
        self.vmm.kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.vmm.kill();
        drop(lock(&self.network).take());
    }
}

/// A VMM's last word.
#[derive(Debug)]
enum LastWord {
    Refused(String),
    Ended(End),
}

/// The task that follows a VMM.
struct Follower {
    vmm: Arc<Vmm>,
    control: AsyncFd<OwnedFd>,
    exit: AsyncFd<OwnedFd>,
    log: JoinHandle<String>,
    killed: Arc<AtomicBool>,
    state: watch::Sender<State>,
    rebooted: watch::Sender<u64>,
    answers: Arc<Answers>,
    network: Network,
    vsock: Option<Connections>,
    last: Option<LastWord>,
}

impl Follower {
    async fn run(mut self) {
        let mut leave = None;
        let status = loop {
            tokio::select! {
                ready = self.control.readable(), if leave.is_none() => {
                    let Ok(mut ready) = ready else { break ExitStatus::Lost };
                    let more = match self.vmm.control.receive() {
                        Ok(Received::Message(event)) => {
                            drop(ready);
                            self.hear(event)
                        }
                        Ok(Received::Empty) => {
                            ready.clear_ready();
                            true
                        }
                        Ok(Received::Closed) => false,
                        Err(error) => {
                            log::warn!("vireo-vmm {}: {:#}", self.vmm.pid, anyhow::Error::from(error));
                            false
                        }
                    };
                    if !more {
                        leave = Some(Instant::now() + LEAVE);
                    }
                }
                ready = self.exit.readable() => {
                    let Ok(mut ready) = ready else { break ExitStatus::Lost };
                    if let Some(status) = self.vmm.reap() {
                        break status;
                    }
                    ready.clear_ready();
                }
                () = until(leave) => {
                    log::warn!("vireo-vmm {}: it ended its machine but not itself: killed", self.vmm.pid);
                    self.vmm.kill();
                    leave = Some(Instant::now() + LEAVE);
                }
            }
        };
        // What it said last may still be in the socket.
        while self.last.is_none() {
            match self.vmm.control.receive() {
                Ok(Received::Message(event)) => self.hear(event),
                _ => break,
            };
        }
        let line = match tokio::time::timeout(LAST_LINES, &mut self.log).await {
            Ok(Ok(line)) => line,
            _ => String::new(),
        };
        self.answers.close();
        // The next machine of this pod may come as soon as the end of this one is known. Rules take their time.
        let network = lock(&self.network).take();
        if let Err(error) = tokio::task::spawn_blocking(move || drop(network)).await {
            log::error!("vireo-vmm {}: its network is not given back: {error}", self.vmm.pid);
        }
        let started = matches!(*self.state.borrow(), State::Started | State::Paused(_));
        let outcome = outcome(self.last, status, self.killed.load(Ordering::Relaxed), &line);
        self.state.send_replace(State::Ended { outcome, started });
    }

    /// Whether more may follow.
    fn hear(&mut self, event: Event) -> bool {
        match event {
            Event::Ready => {
                self.state.send_if_modified(|state| {
                    let first = *state == State::Building;
                    if first {
                        *state = State::Ready;
                    }
                    first
                });
            }
            Event::Started { at } => {
                log::info!("vireo-vmm {}: the guest runs since {at} ns (CLOCK_MONOTONIC)", self.vmm.pid);
                self.state.send_replace(State::Started);
            }
            // Nobody asks yet.
            Event::Memory(_) => {}
            Event::VsockAsk { id, port } => {
                // Without sockets there is no device to ask.
                if let Some(connections) = &self.vsock {
                    connections.ask(id, port);
                }
            }
            Event::Rebooted => {
                log::info!("vireo-vmm {}: the guest rebooted", self.vmm.pid);
                self.rebooted.send_modify(|count| *count = count.wrapping_add(1));
            }
            Event::Paused(reason) => {
                let reason = match reason {
                    PauseReason::User => None,
                    PauseReason::IoError(text) => Some(one_line(&text)),
                };
                let why = reason.as_deref().unwrap_or("as asked");
                log::info!("vireo-vmm {}: the machine is paused: {why}", self.vmm.pid);
                self.state.send_replace(State::Paused(reason));
            }
            Event::Resumed => {
                log::info!("vireo-vmm {}: the machine goes on", self.vmm.pid);
                self.state.send_replace(State::Started);
            }
            Event::Answer { id, answer } => self.answers.hear(id, answer),
            Event::Refused(text) => self.last = Some(LastWord::Refused(text)),
            Event::Ended(end) => self.last = Some(LastWord::Ended(end)),
        }
        self.last.is_none()
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What a machine's end means to containerd and its user.
fn outcome(last: Option<LastWord>, status: ExitStatus, killed: bool, line: &str) -> Outcome {
    let because = |code, reason: String| Outcome { code, reason: Some(one_line(&reason)) };
    match (last, status) {
        (Some(LastWord::Refused(text)), _) => because(1, text),
        (Some(LastWord::Ended(End::PowerOff)), _) => Outcome { code: 0, reason: None },
        (Some(LastWord::Ended(end)), _) => because(1, told(end)),
        (None, _) if killed => because(137, "killed".into()),
        (None, ExitStatus::Signaled(libc::SIGKILL)) => because(137, "killed from outside".into()),
        (None, ExitStatus::Signaled(libc::SIGSYS)) => {
            because(1, "the VMM tried a forbidden system call and was stopped".into())
        }
        (None, ExitStatus::Signaled(signal)) => because(1, format!("the VMM died of signal {signal}")),
        (None, ExitStatus::Exited(code)) if line.is_empty() => because(1, format!("the VMM ended with {code}")),
        (None, ExitStatus::Exited(_)) => because(1, line.into()),
        (None, ExitStatus::Lost) => because(1, "the VMM was lost".into()),
    }
}

fn told(end: End) -> String {
    match end {
        End::PowerOff => "guest powered off".into(),
        End::GuestPanic => "guest panicked".into(),
        End::TripleFault => "guest CPU shut down (triple fault)".into(),
        End::KvmError(text) => format!("KVM could not go on: {text}"),
        End::VmmError(text) => format!("VMM failed: {text}"),
    }
}

/// At most [`MAX_LINE`] bytes without control characters: it goes to terminals.
fn one_line(text: &str) -> String {
    bounded(text, MAX_LINE).chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

/// Copies the VMM's log into the shim's, line by line; returns the last one.
async fn copy_log(mut log: pipe::Receiver) -> String {
    let (mut line, mut last) = (Vec::new(), String::new());
    let mut buffer = [0; 512];
    let mut tell = |line: &mut Vec<u8>| {
        if !line.is_empty() {
            last = one_line(&String::from_utf8_lossy(line));
            log::warn!("vireo-vmm: {last}");
            line.clear();
        }
    };
    while let Ok(count @ 1..) = log.read(&mut buffer).await {
        for &byte in &buffer[..count] {
            if byte == b'\n' || line.len() == MAX_LINE {
                tell(&mut line);
            }
            if byte != b'\n' {
                line.push(byte);
            }
        }
    }
    tell(&mut line);
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told_as(last: Option<LastWord>, status: ExitStatus, killed: bool) -> (u32, String) {
        let outcome = outcome(last, status, killed, "");
        (outcome.code, outcome.reason.unwrap_or_default())
    }

    #[test]
    fn only_a_power_off_is_success() {
        let ended = |end| Some(LastWord::Ended(end));
        assert_eq!(told_as(ended(End::PowerOff), ExitStatus::Exited(0), false), (0, String::new()));
        assert_eq!(told_as(ended(End::GuestPanic), ExitStatus::Exited(1), false).1, "guest panicked");
        assert_eq!(told_as(None, ExitStatus::Exited(0), false), (1, "the VMM ended with 0".into()));
        assert_eq!(told_as(None, ExitStatus::Signaled(9), true), (137, "killed".into()));
        assert_eq!(told_as(None, ExitStatus::Signaled(9), false), (137, "killed from outside".into()));
        assert_eq!(told_as(None, ExitStatus::Signaled(31), false).0, 1);
        assert_eq!(told_as(None, ExitStatus::Lost, false).0, 1);
    }

    #[test]
    fn a_guests_words_are_one_bounded_line() {
        let hostile = "\u{1b}[2J\nhello".repeat(1000);
        let (_, reason) = told_as(Some(LastWord::Ended(End::VmmError(hostile))), ExitStatus::Exited(1), false);
        assert!(reason.len() <= MAX_LINE && !reason.contains(char::is_control));
    }

    #[tokio::test]
    async fn the_log_is_cut_into_lines() {
        let (mut sender, receiver) = pipe::pipe().unwrap();
        let copy = tokio::spawn(copy_log(receiver));
        let mut text = vec![b'x'; 3000];
        text.extend(b"\n\nfirst\nlast");
        tokio::io::AsyncWriteExt::write_all(&mut sender, &text).await.unwrap();
        drop(sender);
        assert_eq!(copy.await.unwrap(), "last");
    }
}
