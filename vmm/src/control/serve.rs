//! The life of the process: commands from the shim drive one machine, from launch to its end.
//!
//! ```text
//! Waiting ── Launch ──> Built ── Start ──> Running, Paused ── power off, panic, fault ──> ended
//!    └── (refused) ──> ended                 └── reset ──> (a new machine in the same place)
//! ```
//! What may be done with a built machine is [`lifecycle`](crate::machine::lifecycle)'s; it is done in [`super::requests`].
//! Everything here happens on the event thread. When the shim hangs up, the process is over at once.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::EventSet;

use super::message::{Command, End, Event, MemoryReport};
use super::server::{Received, Server};
use crate::config::{self, JailConfig, MachineConfig, MachinePlan};
use crate::console::hub::Hub;
use crate::console::line::Line;
use crate::disk::ring;
use crate::ending::Outcome;
use crate::event_loop::{EventLoop, Handle};
use crate::jail;
use crate::jail::seccomp::{self, ThreadKind};
use crate::machine::lifecycle::Action;
use crate::machine::{Machine, RunError, Running};
use crate::virtio::vsock::Ask;

/// How long the guest's last words may take to reach a console that doesn't read.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// What the process says to whoever waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The guest powered off.
    Success,
    /// Anything else; an event has told what.
    Failure,
}

/// The process could not serve at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The control socket is unusable.
    #[error(transparent)]
    Control(#[from] super::Error),
    /// The event loop failed.
    #[error("event loop")]
    Events(#[from] std::io::Error),
}

/// The machine, and what it is made from.
pub(super) struct Guest {
    pub plan: MachinePlan,
    pub body: Body,
    /// Counts resets: what an earlier machine had to say counts no more.
    pub run: u64,
    /// Up to then a power-off is a reboot.
    pub reboots: Option<Instant>,
}

pub(super) enum Body {
    Built(Machine),
    Running(Running),
    Paused(Still),
}

/// A paused machine.
pub(super) enum Still {
    /// It hasn't executed anything yet.
    Fresh(Machine),
    /// Its threads stand still.
    Running(Running),
}

pub(super) struct Process {
    server: Server,
    pub hub: Arc<Hub>,
    agent: Arc<Line>,
    pub events: Handle,
    /// None before the launch and after the end.
    pub guest: Option<Guest>,
    over: Option<Verdict>,
    /// The console's columns and rows, for a machine yet to run.
    size: Option<(u16, u16)>,
    /// What the balloon is to hold, bytes, likewise.
    balloon: u64,
    /// What the guest has asked for over vsock, by the id that the shim knows it by.
    pub asks: BTreeMap<u32, Ask>,
    next_ask: u32,
}

pub(super) type Shared = Arc<Mutex<Process>>;

/// Serves the shim behind `control` until the machine has ended or the shim is gone. What still runs then is left to the
/// process's exit.
pub fn serve(control: OwnedFd) -> Result<Verdict, Error> {
    let server = Server::from_fd(control)?;
    let mut events = EventLoop::new()?;
    let handle = events.handle();
    let (hub, agent) = (Hub::new(handle.clone()), Line::new(handle.clone()));
    let fd = server.as_fd().as_raw_fd();
    let process = Process {
        server,
        hub,
        agent,
        events: handle,
        guest: None,
        over: None,
        size: None,
        balloon: 0,
        asks: BTreeMap::new(),
        next_ask: 0,
    };
    let process = Arc::new(Mutex::new(process));
    let shared = Arc::clone(&process);
    events.add(fd, EventSet::IN, move |events, _| {
        let over = lock(&shared).receive(&shared);
        if over {
            events.stop();
        }
    })?;
    events.run()?;
    let verdict = lock(&process).over.unwrap_or(Verdict::Failure);
    // The loop's handlers hold the process; neither is taken apart, for threads may still use them.
    std::mem::forget(events);
    Ok(verdict)
}

pub(super) fn lock(process: &Shared) -> std::sync::MutexGuard<'_, Process> {
    process.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    /// Takes one command; whether the process is over.
    fn receive(&mut self, shared: &Shared) -> bool {
        match self.server.receive() {
            Ok(Received::Message(command, files)) => self.obey(shared, command, files),
            Ok(Received::Empty) => {}
            Ok(Received::Closed) => return true,
            Err(error) => {
                eprintln!("control: {}", chain(&error));
                return true;
            }
        }
        self.over()
    }

    fn obey(&mut self, shared: &Shared, command: Command, files: Vec<OwnedFd>) {
        match command {
            Command::Launch { machine, jail } if self.guest.is_none() && self.over.is_none() => {
                match self.launch(*machine, jail, files) {
                    Ok((plan, machine)) => {
                        self.guest = Some(Guest { plan, body: Body::Built(machine), run: 0, reboots: None });
                        self.tell(&Event::Ready);
                    }
                    Err(refusal) => {
                        self.tell(&Event::Refused(refusal));
                        self.over = Some(Verdict::Failure);
                    }
                }
            }
            Command::Launch { .. } => eprintln!("control: a second Launch is ignored"),
            Command::Start { paused } => {
                let action = if paused { Action::StartPaused } else { Action::Start };
                if let Err(why) = self.act(shared, action) {
                    eprintln!("control: {}: {why}", action.name());
                }
            }
            Command::Request { id, request } => self.answer(shared, id, request),
            Command::AttachConsole => {
                for file in files {
                    self.hub.attach(UnixStream::from(file));
                }
            }
            Command::AttachAgent => {
                for file in files {
                    self.agent.attach(UnixStream::from(file));
                }
            }
            Command::ConnectVsock { port } => {
                for file in files {
                    if let Some(running) = self.running() {
                        running.connect_vsock(port, UnixStream::from(file));
                    }
                }
            }
            Command::AcceptVsock { id } => {
                // One of a machine before the reset is unknown, and its socket closed.
                if let (Some(ask), Some(file)) = (self.asks.remove(&id), files.into_iter().next()) {
                    ask.accept(UnixStream::from(file));
                }
            }
            Command::RefuseVsock { id } => drop(self.asks.remove(&id)),
            Command::SetBalloon { bytes } => {
                self.balloon = bytes;
                if let Some(running) = self.running() {
                    running.set_balloon(bytes);
                }
            }
            Command::AskMemory => {
                let (events, process) = (self.events.clone(), Arc::clone(shared));
                match self.running() {
                    Some(running) => running.ask_memory(move |report| {
                        events.run(move |_| lock(&process).tell(&Event::Memory(report)));
                    }),
                    None => self.tell(&Event::Memory(MemoryReport::default())),
                }
            }
            Command::ResizeConsole { columns, rows } => {
                self.size = Some((columns, rows));
                if let Some(running) = self.running() {
                    running.resize_console(columns, rows);
                }
            }
        }
    }

    fn launch(
        &self,
        machine: MachineConfig,
        jail: Option<JailConfig>,
        files: Vec<OwnedFd>,
    ) -> Result<(MachinePlan, Machine), String> {
        let plan = config::check(machine, files).map_err(|e| chain(&e))?;
        // The jail lets nobody make a ring; where there is none, disks do without.
        ring::prepare(plan.disks.iter().map(ring::wanted).sum());
        if let Some(jail) = jail {
            jail::enter(jail).map_err(|e| chain(&e))?;
            seccomp::install(ThreadKind::Main).map_err(|e| chain(&e))?;
        }
        let machine = self.build(&plan)?;
        Ok((plan, machine))
    }

    /// The machine's threads, if it has any.
    fn running(&self) -> Option<&Running> {
        match &self.guest.as_ref()?.body {
            Body::Running(running) | Body::Paused(Still::Running(running)) => Some(running),
            Body::Built(_) | Body::Paused(Still::Fresh(_)) => None,
        }
    }

    /// A new machine at the ends that outlive it.
    pub(super) fn build(&self, plan: &MachinePlan) -> Result<Machine, String> {
        let machine = Machine::build(plan, &self.hub, &self.events).map_err(|e| chain(&e))?;
        machine.connect_agent(&self.agent);
        Ok(machine)
    }

    /// Sets a machine running; what it reports comes back to this thread.
    pub(super) fn run(&self, shared: &Shared, machine: Machine, run: u64) -> Result<Running, RunError> {
        let (events, process) = (self.events.clone(), Arc::clone(shared));
        let started = move |at| {
            let event = if run == 0 { Event::Started { at } } else { Event::Rebooted };
            events.run(move |_| lock(&process).tell(&event));
        };
        let (events, process) = (self.events.clone(), Arc::clone(shared));
        let ended = move |outcome| {
            events.run(move |events| {
                if lock(&process).ended(&process, run, outcome) {
                    events.stop();
                }
            });
        };
        let (events, process) = (self.events.clone(), Arc::clone(shared));
        machine.watch_vsock(move |ask| {
            let process = Arc::clone(&process);
            events.run(move |_| lock(&process).pass_on(run, ask));
        });
        let running = machine.run(started, ended, self.pauses(shared, run))?;
        if let Some((columns, rows)) = self.size {
            running.resize_console(columns, rows);
        }
        running.set_balloon(self.balloon);
        Ok(running)
    }

    /// Passes a wish of the guest's on to the shim.
    fn pass_on(&mut self, run: u64, ask: Ask) {
        if self.guest.as_ref().is_none_or(|guest| guest.run != run) {
            return;
        }
        let (id, port) = (self.next_ask, ask.port());
        self.next_ask = id.wrapping_add(1);
        self.asks.insert(id, ask);
        self.tell(&Event::VsockAsk { id, port });
    }

    /// The machine of run `run` stopped; whether the process is over.
    fn ended(&mut self, shared: &Shared, run: u64, outcome: Outcome) -> bool {
        let Some(guest) = self.guest.take_if(|guest| guest.run == run) else { return self.over() };
        let end = match outcome {
            Outcome::PowerOff if guest.reboots.is_none_or(|until| Instant::now() >= until) => End::PowerOff,
            Outcome::Reset | Outcome::PowerOff => {
                // What goes wrong is told as the machine's end.
                let _ = self.reset(shared, guest);
                return self.over();
            }
            Outcome::GuestPanic => End::GuestPanic,
            Outcome::TripleFault => End::TripleFault,
            Outcome::KvmError(what) => End::KvmError(what),
        };
        if let Body::Running(running) | Body::Paused(Still::Running(running)) = guest.body {
            running.stop();
        }
        self.finish(end);
        true
    }

    /// The machine can't be run any more; returns why.
    pub(super) fn lost(&mut self, why: String) -> String {
        self.finish(End::VmmError(why.clone()));
        why
    }

    /// The console first: once the end is told, the shim may close it.
    fn finish(&mut self, end: End) {
        self.hub.drain(DRAIN_LIMIT);
        let verdict = if end == End::PowerOff { Verdict::Success } else { Verdict::Failure };
        self.tell(&Event::Ended(end));
        self.over = Some(verdict);
    }

    pub(super) fn over(&self) -> bool {
        self.over.is_some()
    }

    pub(super) fn tell(&self, event: &Event) {
        if let Err(error) = self.server.send(event) {
            eprintln!("control: {event:?} not sent: {}", chain(&error));
        }
    }
}

/// An error with all its causes, as one line.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
