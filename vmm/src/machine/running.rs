//! A machine that runs: one thread a vCPU.
//!
//! States: [`Machine`] → [`Machine::run`] → [`Running`] (paused and resumed any number of times) → dropped, or stopped, which waits
//! for every thread.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use kvm_bindings::kvm_msi;
use kvm_ioctls::VmFd;
use vmm_sys_util::signal::Killable;

use super::Machine;
use super::devices::Devices;
use crate::ending::{Ending, Outcome};
use crate::jail::seccomp::{self, ThreadKind};
use crate::memory::GuestRam;
use crate::memory::layout::LAPIC_START;
use crate::memory::prefault::Prefault;
use crate::memory::rom::RomSlot;
use crate::pausing::PauseReason;
use crate::platform::generation_id::GenerationId;
use crate::vcpu::gate::Gate;
use crate::vcpu::kick;
use crate::virtio::balloon::Report;
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
    gate: Arc<Gate>,
    vm: Arc<VmFd>,
    prefault: Option<Prefault>,
    /// Unmapped last.
    _rom: Option<RomSlot>,
    ram: GuestRam,
    _generation: GenerationId,
}

impl Machine {
    /// Runs it. `started` is called with the time (`CLOCK_MONOTONIC`, ns) right before the boot vCPU's first instruction,
    /// `ended` once with how it ended; both on a vCPU's thread. `pause` is called on a device's thread when that wants the machine
    /// paused. None of them may pause or stop the machine itself.
    pub fn run(
        self,
        started: impl FnOnce(u64) + Send + 'static,
        ended: impl FnOnce(Outcome) + Send + 'static,
        pause: impl Fn(PauseReason) + Send + 'static,
    ) -> Result<Running, RunError> {
        kick::install().map_err(RunError::Signal)?;
        let Self { vcpus, devices, ending, gate, pauses, vm, rom, ram, generation, soon, .. } = self;
        ending.watch(ended);
        pauses.watch(pause);
        let (threads, prefault) = (Vec::with_capacity(vcpus.len()), None);
        let mut running =
            Running { threads, devices, ending, gate, vm, prefault, _rom: rom, ram, _generation: generation };
        let mut started = Some(started);
        // The boot vCPU goes last: those that it starts are there by then.
        for vcpu in vcpus.into_iter().rev() {
            let index = vcpu.index;
            let started = if index == 0 { started.take() } else { None };
            let thread = Builder::new().name(format!("vcpu{index}")).stack_size(STACK_SIZE).spawn(move || {
                // No vCPU may bind itself anew once it runs.
                vcpu.bind();
                seccomp::confine(ThreadKind::Vcpu);
                vcpu.run(|| {
                    if let Some(started) = started {
                        started(monotonic_ns());
                    }
                });
            });
            running.threads.push(thread.map_err(|source| RunError::Thread { index, source })?);
        }
        // Not earlier: it would hold the address space's lock against the stacks of those threads.
        running.prefault = Some(Prefault::start(&running.ram, soon));
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
        self.devices.hosts.console.console.resize(columns, rows);
    }

    /// Asks the guest to have `bytes` of its RAM in the balloon, if there is one.
    pub fn set_balloon(&self, bytes: u64) {
        if let Some(balloon) = &self.devices.hosts.balloon {
            balloon.set_target(bytes);
        }
    }

    /// Connects `socket` to a vsock port of the guest's; without the device it is closed.
    pub fn connect_vsock(&self, port: u32, socket: UnixStream) {
        if let Some(vsock) = &self.devices.hosts.vsock {
            vsock.connect(port, socket);
        }
    }

    /// Asks the guest how much memory it uses. `answer` is called once it has told, on any thread; at once if it can't.
    pub fn ask_memory(&self, answer: impl FnOnce(Report) + Send + 'static) {
        match &self.devices.hosts.balloon {
            Some(balloon) => balloon.ask(answer),
            None => answer(Report::default()),
        }
    }

    /// Pauses every vCPU and device; when it returns nothing of the machine runs, and no I/O is under way. Not to be called on a
    /// thread of the machine's own. Paused twice it is paused.
    pub fn pause(&self) {
        self.gate.close();
        self.kick();
        self.gate.wait_parked();
        self.devices.pci.pause();
    }

    /// Lets a paused machine go on.
    pub fn resume(&self) {
        self.devices.pci.resume();
        self.gate.open();
    }

    /// Plugs the cable of network card `nic` in, or pulls it; a card that isn't there has none.
    pub fn set_link(&self, nic: usize, up: bool) {
        self.devices.set_link(nic, up);
    }

    /// A non-maskable interrupt to every vCPU.
    ///
    /// As a message to all local APICs (Intel SDM vol. 3A §11.11): KVM_NMI would have to wait until the vCPU leaves the guest.
    pub fn nmi(&self) -> Result<(), kvm_ioctls::Error> {
        const EVERYONE: u32 = 0xFF << 12;
        const NMI: u32 = 4 << 8;
        let address_lo = u32::try_from(LAPIC_START).unwrap_or_default() | EVERYONE;
        self.vm.signal_msi(kvm_msi { address_lo, data: NMI, ..Default::default() }).map(|_| ())
    }

    /// Stops every vCPU and device; when it returns nothing of the machine runs any more.
    pub fn stop(mut self) {
        self.halt();
    }

    fn halt(&mut self) {
        self.ending.stop();
        self.prefault = None;
        self.gate.open();
        self.kick();
        for thread in self.threads.drain(..) {
            // A thread that panicked has ended too.
            let _ = thread.join();
        }
        self.devices.pci.reset();
    }

    fn kick(&self) {
        for thread in &self.threads {
            // Fails only for a thread that has ended.
            let _ = thread.kill(kick::signal());
        }
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
