//! The life of the process: commands from the shim drive one machine, from launch to its end.
//!
//! ```text
//! Waiting ── Launch ──> Built ── Start ──> Running ── power off, panic, fault ──> ended
//!    └── (refused) ──> ended                 └── reset ──> Running
//! ```
//! Everything here happens on the event thread. When the shim hangs up, the process is over at once.

use std::error::Error as StdError;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vmm_sys_util::epoll::EventSet;

use super::message::{Command, End, Event};
use super::server::{Received, Server};
use crate::config::{self, JailConfig, MachineConfig, MachinePlan};
use crate::console::hub::Hub;
use crate::ending::Outcome;
use crate::event_loop::{EventLoop, Handle};
use crate::jail;
use crate::jail::seccomp::{self, ThreadKind};
use crate::machine::{Machine, RunError, Running};

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

enum Phase {
    Waiting,
    Built(MachinePlan, Machine),
    Running(MachinePlan, Running),
    Over(Verdict),
}

struct Process {
    server: Server,
    hub: Arc<Hub>,
    events: Handle,
    phase: Phase,
    /// The console's columns and rows, for a machine yet to run.
    size: Option<(u16, u16)>,
}

type Shared = Arc<Mutex<Process>>;

/// Serves the shim behind `control` until the machine has ended or the shim is gone. What still runs then is left to the
/// process's exit.
pub fn serve(control: OwnedFd) -> Result<Verdict, Error> {
    let server = Server::from_fd(control)?;
    let mut events = EventLoop::new()?;
    let handle = events.handle();
    let hub = Hub::new(handle.clone());
    let fd = server.as_fd().as_raw_fd();
    let process = Arc::new(Mutex::new(Process { server, hub, events: handle, phase: Phase::Waiting, size: None }));
    let shared = Arc::clone(&process);
    events.add(fd, EventSet::IN, move |events, _| {
        let over = lock(&shared).receive(&shared);
        if over {
            events.stop();
        }
    })?;
    events.run()?;
    let verdict = match lock(&process).phase {
        Phase::Over(verdict) => verdict,
        _ => Verdict::Failure,
    };
    // The loop's handlers hold the process; neither is taken apart, for threads may still use them.
    std::mem::forget(events);
    Ok(verdict)
}

fn lock(process: &Shared) -> std::sync::MutexGuard<'_, Process> {
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
        matches!(self.phase, Phase::Over(_))
    }

    fn obey(&mut self, shared: &Shared, command: Command, files: Vec<OwnedFd>) {
        match (command, std::mem::replace(&mut self.phase, Phase::Over(Verdict::Failure))) {
            (Command::Launch { machine, jail }, Phase::Waiting) => {
                self.phase = match self.launch(*machine, jail, files) {
                    Ok((plan, machine)) => {
                        self.tell(&Event::Ready);
                        Phase::Built(plan, machine)
                    }
                    Err(refusal) => {
                        self.tell(&Event::Refused(refusal));
                        Phase::Over(Verdict::Failure)
                    }
                };
            }
            (Command::Start, Phase::Built(plan, machine)) => match self.run(shared, machine, true) {
                Ok(running) => self.phase = Phase::Running(plan, running),
                Err(error) => self.finish(End::VmmError(chain(&error))),
            },
            (Command::AttachConsole, phase) => {
                self.phase = phase;
                for file in files {
                    self.hub.attach(UnixStream::from(file));
                }
            }
            (Command::PowerButton, phase) => {
                if let Phase::Running(_, running) = &phase {
                    running.power_button();
                }
                self.phase = phase;
            }
            (Command::ResizeConsole { columns, rows }, phase) => {
                self.size = Some((columns, rows));
                if let Phase::Running(_, running) = &phase {
                    running.resize_console(columns, rows);
                }
                self.phase = phase;
            }
            (Command::Launch { .. } | Command::Start, phase) => {
                eprintln!("control: Launch or Start out of turn is ignored");
                self.phase = phase;
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
        if let Some(jail) = jail {
            jail::enter(jail).map_err(|e| chain(&e))?;
            seccomp::install(ThreadKind::Main).map_err(|e| chain(&e))?;
        }
        let machine = Machine::build(&plan, &self.hub, &self.events).map_err(|e| chain(&e))?;
        Ok((plan, machine))
    }

    /// Sets a machine running; what it reports comes back to this thread.
    fn run(&self, shared: &Shared, machine: Machine, first: bool) -> Result<Running, RunError> {
        let (events, process) = (self.events.clone(), Arc::clone(shared));
        let started = move |at| {
            let event = if first { Event::Started { at } } else { Event::Rebooted };
            events.run(move |_| lock(&process).tell(&event));
        };
        let (events, process) = (self.events.clone(), Arc::clone(shared));
        let ended = move |outcome| {
            events.run(move |events| {
                if lock(&process).ended(&process, outcome) {
                    events.stop();
                }
            });
        };
        let running = machine.run(started, ended)?;
        if let Some((columns, rows)) = self.size {
            running.resize_console(columns, rows);
        }
        Ok(running)
    }

    /// The machine stopped; whether the process is over.
    fn ended(&mut self, shared: &Shared, outcome: Outcome) -> bool {
        let Phase::Running(plan, running) = std::mem::replace(&mut self.phase, Phase::Over(Verdict::Failure)) else {
            return true;
        };
        running.stop();
        match outcome {
            Outcome::Reset => match self.reboot(shared, &plan) {
                Ok(running) => self.phase = Phase::Running(plan, running),
                Err(error) => self.finish(End::VmmError(error)),
            },
            Outcome::PowerOff => self.finish(End::PowerOff),
            Outcome::GuestPanic => self.finish(End::GuestPanic),
            Outcome::TripleFault => self.finish(End::TripleFault),
            Outcome::KvmError(what) => self.finish(End::KvmError(what)),
        }
        matches!(self.phase, Phase::Over(_))
    }

    fn reboot(&self, shared: &Shared, plan: &MachinePlan) -> Result<Running, String> {
        let machine = Machine::build(plan, &self.hub, &self.events).map_err(|e| chain(&e))?;
        self.run(shared, machine, false).map_err(|e| chain(&e))
    }

    /// The console first: once the end is told, the shim may close it.
    fn finish(&mut self, end: End) {
        self.hub.drain(DRAIN_LIMIT);
        let verdict = if end == End::PowerOff { Verdict::Success } else { Verdict::Failure };
        self.tell(&Event::Ended(end));
        self.phase = Phase::Over(verdict);
    }

    fn tell(&self, event: &Event) {
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
