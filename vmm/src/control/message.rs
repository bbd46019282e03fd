//! What crosses the control socket: one postcard message a packet (`SOCK_SEQPACKET`), descriptors as `SCM_RIGHTS`.
//!
//! ```text
//! shim   Launch ──────────> │            Start ──> │              PowerButton, AttachConsole, … ──>
//! VMM    (builds, jails)    └── Ready | Refused    └── Started … Rebooted … Ended
//! ```
//!
//! [`Command::Launch`] comes first and once, with the files that its config names; console commands are taken from
//! [`Event::Ready`] on. [`Event::Refused`] and [`Event::Ended`] are the VMM's last word.

use serde::{Deserialize, Serialize};

use crate::config::{JailConfig, MachineConfig};

/// The largest packet, bytes. A config with 255 disks and a 2 KiB command line stays below a third of it.
pub const MAX_PACKET: usize = 64 << 10;
/// The most descriptors in one packet: Linux's own bound (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

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
    /// Let the built machine run.
    Start,
    /// Press the ACPI power button.
    PowerButton,
    /// A new console client: a stream socket comes with the packet. It gets the history, then what follows; what it
    /// sends is typed into the guest.
    AttachConsole,
    /// The console's size in characters, for a virtio console; a serial line has none.
    ResizeConsole {
        /// Columns.
        columns: u16,
        /// Rows.
        rows: u16,
    },
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
    /// The guest reset itself and was started afresh.
    Rebooted,
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
