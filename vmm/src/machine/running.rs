//! A machine that runs: one thread a vCPU.
//!
//! States: [`Machine`] → [`Machine::run`] → [`Running`] → dropped, or stopped, which waits for every thread.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use vmm_sys_util::signal::Killable;

use super::Machine;
use super::devices::Devices;
use crate::ending::{Ending, Outcome};
use crate::jail::seccomp::{self, ThreadKind};
use crate::memory::GuestRam;
use crate::platform::generation_id::GenerationId;
use crate::vcpu::kick;
use crate::worker::STACK_SIZE;

/// Why a machine could not be set running.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The signal that stops vCPUs has no handler.
    #[error("signal handler for vCPU threads")]
    Signal(#[source] io::Error),
    /// The host refused a thread.
    #[error("thread of vCPU {index}")]
    Thread {
        /// Which vCPU.
        index: u8,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A running machine. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    threads: Vec<JoinHandle<()>>,
    devices: Devices,
    ending: Arc<Ending>,
    /// Unmapped last.
    _ram: GuestRam,
    _generation: GenerationId,
}

impl Machine {
    /// Runs it. `started` is called with the time (`CLOCK_MONOTONIC`, ns) right before the boot vCPU's first instruction,
    /// `ended` once with how it ended; both on a vCPU's thread, so neither may stop the machine itself.
    pub fn run(
        self,
        started: impl FnOnce(u64) + Send + 'static,
        ended: impl FnOnce(Outcome) + Send + 'static,
    ) -> Result<Running, RunError> {
        kick::install().map_err(RunError::Signal)?;
        let Self { vcpus, devices, ending, ram, generation, .. } = self;
        ending.watch(ended);
        let mut running =
            Running { threads: Vec::with_capacity(vcpus.len()), devices, ending, _ram: ram, _generation: generation };
        let mut started = Some(started);
        // The boot vCPU goes last: those that it starts are there by then.
        for vcpu in vcpus.into_iter().rev() {
            let index = vcpu.index;
            let started = if index == 0 { started.take() } else { None };
            let thread = Builder::new().name(format!("vcpu{index}")).stack_size(STACK_SIZE).spawn(move || {
                seccomp::confine(ThreadKind::Vcpu);
                vcpu.run(|| {
                    if let Some(started) = started {
                        started(monotonic_ns());
                    }
                });
            });
            running.threads.push(thread.map_err(|source| RunError::Thread { index, source })?);
        }
        Ok(running)
    }
}

impl Running {
    /// Presses the ACPI power button.
    pub fn power_button(&self) {
        self.devices.acpi_pm.power_button();
    }

    /// Tells the guest the size of its virtio console.
    pub fn resize_console(&self, columns: u16, rows: u16) {
        self.devices.console.resize(columns, rows);
    }

    /// Stops every vCPU and device; when it returns nothing of the machine runs any more.
    pub fn stop(mut self) {
        self.halt();
    }

    fn halt(&mut self) {
        self.ending.stop();
        for thread in &self.threads {
            // Fails only for a thread that has ended.
            let _ = thread.kill(kick::signal());
        }
        for thread in self.threads.drain(..) {
            // A thread that panicked has ended too.
            let _ = thread.join();
        }
        self.devices.pci.reset();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.halt();
    }
}

fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills the struct that it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0) * 1_000_000_000 + nanos.unwrap_or(0)
}
