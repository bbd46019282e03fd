//! The machine monitors under test, each started as its users start it.

mod guest;
mod qemu;
mod vireo;

use std::{os::fd::OwnedFd, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use vireo_shim::launch::Vmm;

pub use guest::{Boot, Card, Disk, Guest, Tap};

use super::console::Console;
use crate::scenarios::measure::now;
use qemu::Qemu;

/// One of those that are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Monitor {
    /// `vireo-vmm`, the binary at this path, launched and jailed as the shim does it.
    Vireo(PathBuf),
    /// `qemu-system-x86_64 -M <machine>`, with KVM and no default devices.
    Qemu {
        /// `microvm` or `q35`.
        machine: &'static str,
        /// What the place needs besides.
        arguments: &'static [&'static str],
    },
}

impl Monitor {
    /// As it stands in the tables.
    pub fn name(&self) -> String {
        match self {
            Self::Vireo(_) => "Vireo".to_owned(),
            Self::Qemu { machine, .. } => format!("QEMU {machine}"),
        }
    }

    /// Starts it: one vCPU, [`GUEST_MEMORY_BYTES`](super::GUEST_MEMORY_BYTES) of RAM, a serial console, a virtio console, and what
    /// the guest has besides.
    pub fn start(&self, guest: &Guest) -> Result<Running> {
        let begun = now()?;
        let (process, console) = match self {
            Self::Vireo(binary) => vireo::start(binary, guest).map(|(vmm, console)| (Process::Vireo(vmm), console)),
            Self::Qemu { machine, arguments } => {
                Qemu::start(machine, arguments, guest).map(|(qemu, console)| (Process::Qemu(qemu), console))
            }
        }
        .with_context(|| format!("start {}", self.name()))?;
        Ok(Running { begun, console: Console::new(console), process })
    }
}

/// A monitor with its guest; dropping it kills it.
#[derive(Debug)]
pub struct Running {
    /// When its start was begun, on `CLOCK_MONOTONIC`.
    pub begun: Duration,
    /// The guest's serial port.
    pub console: Console,
    process: Process,
}

#[derive(Debug)]
enum Process {
    Vireo(Vmm),
    Qemu(Qemu),
}

impl Running {
    /// Process id of the monitor.
    pub fn pid(&self) -> Result<u32> {
        Ok(match &self.process {
            Process::Vireo(vmm) => u32::try_from(vmm.pid.as_raw())?,
            Process::Qemu(qemu) => qemu.child.id(),
        })
    }

    /// When the guest had written `marker`, since the start.
    pub fn wait_for(&mut self, marker: &[u8], limit: Duration) -> Result<Duration> {
        match self.console.wait_for(marker, limit) {
            Ok(at) => Ok(at.saturating_sub(self.begun)),
            Err(error) => Err(error.context(self.last_words())),
        }
    }

    /// Types a line into the guest's console.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.console.say(line).map_err(|error| error.context(self.last_words()))
    }

    /// The rest of the first line that the guest has written after `marker`.
    pub fn line_after(&mut self, marker: &str, limit: Duration) -> Result<String> {
        self.console.line_after(marker, limit).map_err(|error| error.context(self.last_words()))
    }

    /// The host's end of the connection that the guest opens to a vsock port; `None` if the node's own vsock has it.
    pub fn accept_vsock(&self, port: u32) -> Result<Option<OwnedFd>> {
        match &self.process {
            Process::Vireo(vmm) => vireo::accept_vsock(vmm, port).map(Some),
            Process::Qemu(_) => Ok(None),
        }
    }

    /// Kills it, and waits for its end.
    pub fn end(&mut self) {
        self.last_words();
    }

    /// What the monitor itself said, and how it ended; it is killed for it.
    pub fn last_words(&mut self) -> String {
        match &mut self.process {
            Process::Vireo(vmm) => vireo::last_words(vmm),
            Process::Qemu(qemu) => qemu.last_words(),
        }
    }
}
