//! What crosses the control socket: one postcard message a packet (`SOCK_SEQPACKET`), descriptors as `SCM_RIGHTS`.
//!
//! ```text
//! shim   Launch ──────────> │            Start ──> │              Request ─> │      AttachConsole, … ──>
//! VMM    (builds, jails)    └── Ready | Refused    └── Started …             └── Answer … Paused … Rebooted … Ended
//! ```
//!
//! What is asked of the machine is a [`Command::Request`], and every one is answered, in their order, by what became of it.
//! [`Event::Paused`] and [`Event::Resumed`] come before the answer to the request that brought them about.
//!
//! [`Command::Launch`] comes first and once, with the files that its config names; console commands are taken from
//! [`Event::Ready`] on. [`Event::Refused`] and [`Event::Ended`] are the VMM's last word.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{JailConfig, MachineConfig};
use crate::machine::lifecycle::Action;
pub use crate::pausing::PauseReason;
pub use crate::virtio::balloon::{Report as MemoryReport, Statistics as MemoryStatistics};

/// The largest packet, bytes. A config with 255 disks and a 2 KiB command line stays below a third of it.
pub const MAX_PACKET: usize = 64 << 10;
/// The most descriptors in one packet: Linux's own bound (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;
/// How long a guest may take to power off for a [`Request::Reboot`]; one that does so later means it.
pub const REBOOT_LIMIT: Duration = Duration::from_mins(5);

/// To the VMM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Become this machine, but don't run it yet.
    Launch {
        /// The machine.
        machine: Box<MachineConfig>,
        /// The process that runs it; `None` runs it unjailed (tests and benches of the machine alone).
        jail: Option<JailConfig>,
    },
    /// Let the built machine run. Answered by [`Event::Started`], or [`Event::Paused`].
    Start {
        /// Stop before the first instruction, until [`Request::Resume`].
        paused: bool,
    },
    /// Do something to the machine.
    Request {
        /// Names it in its [`Event::Answer`].
        id: u32,
        /// What.
        request: Request,
    },
    /// A new console client: a stream socket comes with the packet. It gets the history, then what follows; what it
    /// sends is typed into the guest.
    AttachConsole,
    /// The guest agent's client: a stream socket comes with the packet, and takes the place of the one before. What it sends
    /// before the guest's agent is there waits; it stays attached through resets.
    AttachAgent,
    /// Reach a vsock port of the guest's: the client's stream socket comes with the packet. It gets `OK <port>` and a line feed
    /// once the guest has accepted, and is closed if it doesn't.
    ConnectVsock {
        /// The guest's port.
        port: u32,
    },
    /// Yes to an [`Event::VsockAsk`]: the stream socket that the guest is connected to comes with the packet.
    AcceptVsock {
        /// Which.
        id: u32,
    },
    /// No.
    RefuseVsock {
        /// To which.
        id: u32,
    },
    /// Ask the guest to have this much of its RAM in the balloon, down to whole pages; nothing without a balloon. It holds
    /// through resets.
    SetBalloon {
        /// Bytes.
        bytes: u64,
    },
    /// Tell how much memory the guest uses: [`Event::Memory`] follows when the guest has answered, which it may never do, or at
    /// once if no driver answers.
    AskMemory,
    /// The console's size in characters, for a virtio console; a serial line has none.
    ResizeConsole {
        /// Columns.
        columns: u16,
        /// Rows.
        rows: u16,
    },
}

/// What can be asked of a machine. When it may be asked is [`crate::machine::lifecycle`]'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Stand still. Once it is answered nothing of the machine runs: no vCPU, no device, no I/O.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Begin anew, as by a reset button; a paused machine stays paused.
    Reset,
    /// Press the ACPI power button.
    PowerButton,
    /// Send a non-maskable interrupt to every vCPU.
    Nmi,
    /// Plug a network card's cable in, or pull it; resets don't change it.
    SetLink {
        /// The card, by its place in the config.
        nic: u16,
        /// Whether it is in.
        up: bool,
    },
    /// Press the power button, and begin anew if the guest powers off within [`REBOOT_LIMIT`]. A reset, or another press, ends that.
    Reboot,
}

impl Request {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        Action::from(self).name()
    }
}

impl From<Request> for Action {
    fn from(request: Request) -> Self {
        match request {
            Request::Pause => Self::Pause,
            Request::Resume => Self::Resume,
            Request::Reset => Self::Reset,
            Request::PowerButton => Self::PowerButton,
            Request::Reboot => Self::Reboot,
            Request::Nmi => Self::Nmi,
            Request::SetLink { .. } => Self::Link,
        }
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// It is not done, and nothing has changed; the text says why, as in `pause: the machine is already paused`.
    Refused(String),
}

/// From the VMM. To the receiver these are the guest's own words: bounded and typed, never trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The machine can't be built; the process ends. The text names what, where and what to do.
    Refused(String),
    /// The machine is built and the process jailed.
    Ready,
    /// The boot vCPU is about to execute its first instruction.
    Started {
        /// `CLOCK_MONOTONIC` of that moment, nanoseconds.
        at: u64,
    },
    /// The machine was reset, by its guest or on request, and was started afresh.
    Rebooted,
    /// The machine stands still: nothing of it runs.
    Paused(PauseReason),
    /// It goes on.
    Resumed,
    /// To a request.
    Answer {
        /// Which.
        id: u32,
        /// What became of it.
        answer: Answer,
    },
    /// The guest wants a vsock connection to a port of the host's. It waits for [`Command::AcceptVsock`] or
    /// [`Command::RefuseVsock`]; more than 32 never wait.
    VsockAsk {
        /// Names it in the answer.
        id: u32,
        /// The host's port.
        port: u32,
    },
    /// The guest's memory, as it was asked for.
    Memory(MemoryReport),
    /// The machine has ended, and so does the process.
    Ended(End),
}

/// Why a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// The guest powered off (ACPI S5).
    PowerOff,
    /// The guest said through pvpanic that its kernel panicked.
    GuestPanic,
    /// A triple fault: the guest's CPU shut down.
    TripleFault,
    /// KVM could not go on (`KVM_EXIT_INTERNAL_ERROR`, `KVM_EXIT_FAIL_ENTRY`).
    KvmError(String),
    /// The VMM itself failed.
    VmmError(String),
}
