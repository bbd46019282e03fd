//! A running machine on a terminal: one thread that waits for the guest's output, the user's keys, signals, and the end.
//!
//! ```text
//! running ──(Ctrl-], SIGTERM, SIGINT, SIGHUP: power button)──> stopping ──(again, or grace over: plug)──> ended
//!    └─────────────────────────(the guest ends)──────────────────┴──────────────────────────────────────────^
//! ```

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _, stdin, stdout};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use vireo_shim::launch::{ExitStatus, Vmm};
use vireo_vmm::control::client::Received;
use vireo_vmm::control::message::{Answer, Command, End, Event, PauseReason, Request};

use crate::terminal::{LEAVE, Terminal};

/// What a guest that reads nothing may have waiting, bytes; more keys are lost.
const MAX_PENDING: usize = 64 << 10;
/// How long the last words and the end of the VMM may take once the guest has ended.
const END_LIMIT: Duration = Duration::from_secs(5);
/// The exit code of a machine that was killed, as a shell gives it (128 + SIGKILL).
const KILLED: u8 = 137;

/// The signals that a session handles.
#[derive(Debug)]
pub(super) struct Signals(SignalFd);

impl Signals {
    /// Blocks them, so that they are read instead of killing.
    pub(super) fn block() -> Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGWINCH] {
            set.add(signal);
        }
        set.thread_block().context("signals")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self(SignalFd::with_flags(&set, flags).context("signals")?))
    }
}

/// A machine and the terminal that it is on.
#[derive(Debug)]
pub(super) struct Session<'a> {
    vmm: &'a Vmm,
    console: Option<UnixStream>,
    signals: Signals,
    /// Standard input, while it is open.
    input: bool,
    /// Whether [`LEAVE`] means what it says.
    keys: bool,
    /// The terminal that the guest's console has the size of.
    resizable: bool,
    /// Keys on their way to the guest.
    pending: VecDeque<u8>,
    grace: Duration,
    /// When the plug is pulled.
    deadline: Option<Instant>,
    killed: bool,
}

/// Which descriptor a poll entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    Control,
    Signals,
    Log,
    Console,
    Input,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        vmm: &'a Vmm,
        console: UnixStream,
        signals: Signals,
        keys: bool,
        resizable: Option<&Terminal>,
        grace: Duration,
    ) -> Result<Self> {
        console.set_nonblocking(true).context("console")?;
        let session = Self {
            vmm,
            console: Some(console),
            signals,
            input: true,
            keys,
            resizable: resizable.is_some(),
            pending: VecDeque::new(),
            grace,
            deadline: None,
            killed: false,
        };
        session.resize();
        Ok(session)
    }

    /// Serves the machine until it ends, and says by the exit code how: 0 for a power-off.
    pub(super) fn until_end(mut self) -> Result<ExitCode> {
        loop {
            for ready in self.wait()? {
                match ready {
                    Ready::Control => {
                        if let Some(code) = self.hear()? {
                            return Ok(code);
                        }
                    }
                    Ready::Signals => self.signals()?,
                    Ready::Log => self.log(),
                    Ready::Console => self.console(),
                    Ready::Input => self.input(),
                }
            }
            if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                self.kill();
            }
        }
    }

    /// What can be read now (for the console: read or written). Empty once the grace is over.
    fn wait(&self) -> Result<Vec<Ready>> {
        let read = PollFlags::POLLIN;
        let stdin = stdin();
        let mut wanted: Vec<(Ready, BorrowedFd<'_>, PollFlags)> = vec![
            (Ready::Control, self.vmm.control.as_fd(), read),
            (Ready::Signals, self.signals.0.as_fd(), read),
            (Ready::Log, self.vmm.stderr.as_fd(), read),
        ];
        if let Some(console) = &self.console {
            let write = if self.pending.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
            wanted.push((Ready::Console, console.as_fd(), read | write));
        }
        if self.input {
            wanted.push((Ready::Input, stdin.as_fd(), read));
        }
        let mut fds: Vec<_> = wanted.iter().map(|(_, fd, flags)| PollFd::new(*fd, *flags)).collect();
        let timeout = match self.deadline {
            None => PollTimeout::NONE,
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("poll"),
        }
        let ready = wanted.iter().zip(&fds).filter(|(_, fd)| fd.any().unwrap_or(true));
        Ok(ready.map(|((ready, ..), _)| *ready).collect())
    }

    /// Hears the VMM out; the exit code if the machine has ended.
    fn hear(&mut self) -> Result<Option<ExitCode>> {
        loop {
            match self.vmm.control.receive()? {
                Received::Empty => return Ok(None),
                Received::Message(Event::Ended(end)) => {
                    self.last_words();
                    return Ok(Some(report(&end)));
                }
                Received::Message(Event::Rebooted) => note("the guest has rebooted"),
                Received::Message(Event::Refused(why)) => bail!("{why}"),
                Received::Message(Event::Paused(PauseReason::IoError(why))) => {
                    note(&format!("the machine is paused: {}", why.replace(char::is_control, "?")));
                }
                Received::Message(Event::Answer { answer: Answer::Refused(why), .. }) => {
                    note(&why.replace(char::is_control, "?"));
                }
                Received::Message(
                    Event::Ready
                    | Event::Started { .. }
                    | Event::Paused(_)
                    | Event::Resumed
                    | Event::Answer { .. }
                    | Event::Memory(_)
                    | Event::VsockAsk { .. },
                ) => {}
                Received::Closed => {
                    self.last_words();
                    if self.killed {
                        note("switched off");
                        return Ok(Some(ExitCode::from(KILLED)));
                    }
                    bail!("the VMM ended without a word: {}", how(self.vmm));
                }
            }
        }
    }

    /// What the guest wrote before it ended.
    fn last_words(&mut self) {
        let deadline = Instant::now() + END_LIMIT;
        self.log();
        while let Some(console) = &self.console
            && Instant::now() < deadline
        {
            let mut fds = [PollFd::new(console.as_fd(), PollFlags::POLLIN)];
            let left = PollTimeout::try_from(END_LIMIT).unwrap_or(PollTimeout::ZERO);
            match poll(&mut fds, left) {
                Ok(0) => return,
                _ => self.console(),
            }
        }
    }

    fn signals(&mut self) -> Result<()> {
        while let Some(info) = self.signals.0.read_signal().context("signals")? {
            let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
            match signal {
                Some(Signal::SIGWINCH) => self.resize(),
                _ => self.stop(),
            }
        }
        Ok(())
    }

    fn resize(&self) {
        if self.resizable
            && let Some((columns, rows)) = Terminal::size()
        {
            // A VMM that is gone is heard of in another way.
            let _ = self.vmm.control.send(&Command::ResizeConsole { columns, rows }, &[]);
        }
    }

    /// The power button; pressed again, the plug.
    fn stop(&mut self) {
        if self.deadline.is_some() {
            return self.kill();
        }
        self.deadline = Some(Instant::now() + self.grace);
        let again = if self.keys { "; Ctrl-] again switches it off" } else { "" };
        note(&format!("power button pressed; the guest has {} seconds{again}", self.grace.as_secs()));
        let _ = self.vmm.control.send(&Command::Request { id: 0, request: Request::PowerButton }, &[]);
    }

    fn kill(&mut self) {
        self.killed = true;
        self.vmm.kill();
    }

    /// Lines that the VMM logs.
    fn log(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = nix::unistd::read(&self.vmm.stderr, &mut buffer) {
            // Nothing of the guest's making comes here raw: control characters stay out of the terminal.
            for line in String::from_utf8_lossy(&buffer[..len]).lines() {
                note(&line.replace(char::is_control, "?"));
            }
        }
    }

    /// Passes the guest's output on, and the user's keys.
    fn console(&mut self) {
        let Some(console) = &mut self.console else { return };
        let mut buffer = [0; 16 << 10];
        let open = match console.read(&mut buffer) {
            Ok(0) => false,
            Ok(len) => {
                let mut out = stdout().lock();
                // A closed standard output is no reason to end a machine.
                let _ = out.write_all(&buffer[..len]).and_then(|()| out.flush());
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        };
        if !open {
            self.console = None;
        } else if let Ok(len) = console.write(self.pending.as_slices().0) {
            self.pending.drain(..len);
        }
    }

    fn input(&mut self) {
        let mut buffer = [0; 4096];
        let keys = match nix::unistd::read(stdin(), &mut buffer) {
            Ok(0) | Err(Errno::EIO) => {
                self.input = false;
                return;
            }
            Ok(len) => &buffer[..len],
            Err(_) => return,
        };
        for key in keys {
            if self.keys && *key == LEAVE {
                self.stop();
            } else if self.pending.len() < MAX_PENDING {
                self.pending.push_back(*key);
            }
        }
    }
}

/// A line of this program's own.
fn note(text: &str) {
    eprintln!("\rvireo: {text}");
}

/// Says how a machine ended, if not as it should.
fn report(end: &End) -> ExitCode {
    let why = match end {
        End::PowerOff => return ExitCode::SUCCESS,
        End::GuestPanic => "the guest's kernel panicked".to_owned(),
        End::TripleFault => "the guest's CPU shut down (triple fault)".to_owned(),
        End::KvmError(why) => format!("KVM could not go on: {why}"),
        End::VmmError(why) => format!("the VMM failed: {why}"),
    };
    note(&why.replace(char::is_control, "?"));
    ExitCode::FAILURE
}

/// How a VMM process ended.
pub(super) fn how(vmm: &Vmm) -> String {
    match vmm.wait(END_LIMIT) {
        Some(ExitStatus::Exited(code)) => format!("exit code {code}"),
        Some(ExitStatus::Signaled(signal)) => {
            let name = Signal::try_from(signal).map_or("unknown", Signal::as_str);
            format!("killed by signal {signal} ({name})")
        }
        Some(ExitStatus::Lost) | None => format!("process {} doesn't answer", vmm.pid),
    }
}
