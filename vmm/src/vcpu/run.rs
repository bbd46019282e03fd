//! The run loop: enters the guest, answers its exits from the buses, until the machine ends.

use std::sync::Arc;

use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run};
use kvm_ioctls::{VcpuExit, VcpuFd};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::gate::Pass;
use super::kick;
use crate::bus::Bus;
use crate::ending::{Ending, Outcome};

/// A vCPU that is set up but not running yet.
#[derive(Debug)]
pub struct Vcpu {
    /// Its index.
    pub index: u8,
    /// The host CPU that it keeps to.
    pub host_cpu: Option<u16>,
    /// KVM's side of it.
    pub fd: VcpuFd,
    /// Port I/O.
    pub ports: Arc<Bus>,
    /// Memory-mapped I/O.
    pub mmio: Arc<Bus>,
    /// When to stop.
    pub ending: Arc<Ending>,
    /// When to stand still.
    pub pass: Pass,
}

/// What to do after an exit.
enum Next {
    Enter,
    End(Outcome),
}

impl Vcpu {
    /// Binds the calling thread, which is to run it, to its host CPU if it has one. A failure ends the machine.
    pub fn bind(&self) {
        let Some(cpu) = self.host_cpu else { return };
        let mut set = CpuSet::new();
        let bound = set.set(cpu.into()).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
        if let Err(error) = bound {
            let what = format!("vCPU {} can't be bound to host CPU {cpu}: {}", self.index, error.desc());
            self.ending.end(Outcome::KvmError(what));
        }
    }

    /// Runs until the machine ends. `started` is called right before the first instruction.
    pub fn run(mut self, started: impl FnOnce()) {
        let run: *const kvm_run = self.fd.get_kvm_run();
        let kicks = kick::Target::new(&mut self.fd);
        started();
        loop {
            if self.pass.wait() {
                // Tells a guest with a paravirtual clock that it was stopped, so that its watchdogs don't bark. Fails with EINVAL
                // for a guest without.
                let _ = self.fd.kvmclock_ctrl();
            }
            if self.ending.stopped() {
                return;
            }
            match self.step(run, &kicks) {
                Next::Enter => {}
                Next::End(outcome) => self.ending.end(outcome),
            }
        }
    }

    fn step(&mut self, run: *const kvm_run, kicks: &kick::Target) -> Next {
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                for unit in data.chunks(pio_width(run)) {
                    self.ports.write(port.into(), unit);
                }
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                for unit in data.chunks_mut(pio_width(run)) {
                    self.ports.read(port.into(), unit);
                }
            }
            Ok(VcpuExit::MmioRead(address, data)) => self.mmio.read(address, data),
            Ok(VcpuExit::MmioWrite(address, data)) => self.mmio.write(address, data),
            Ok(VcpuExit::Intr) => kicks.clear(),
            Ok(VcpuExit::Shutdown) => return Next::End(Outcome::TripleFault),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => return Next::End(Outcome::PowerOff),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => return Next::End(Outcome::Reset),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _)) => return Next::End(Outcome::GuestPanic),
            Ok(VcpuExit::InternalError) => {
                let what = internal_error(run);
                return self.fail(&what);
            }
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                return self.fail(&format!("entry failed, hardware reason {reason:#x}, host CPU {cpu}"));
            }
            Ok(VcpuExit::MemoryFault { gpa, size, .. }) => {
                return self.fail(&format!("memory fault at {gpa:#x}, {size} bytes"));
            }
            Ok(other) => {
                let what = format!("unexpected exit {other:?}");
                return self.fail(&what);
            }
            Err(error) => match error.errno() {
                libc::EINTR => kicks.clear(),
                // A vCPU that waits for its INIT or SIPI was woken.
                libc::EAGAIN => {}
                _ => return self.fail(&format!("KVM_RUN: {error}")),
            },
        }
        Next::Enter
    }

    fn fail(&self, what: &str) -> Next {
        let at = self.fd.get_regs().map_or_else(|_| "an unknown address".to_owned(), |regs| format!("{:#x}", regs.rip));
        Next::End(Outcome::KvmError(format!("vCPU {} at {at}: {what}", self.index)))
    }
}

/// Bytes of one access of a port exit; a string instruction brings several at once.
fn pio_width(run: *const kvm_run) -> usize {
    // SAFETY: `run` is the vCPU's own mapping, alive here, and the exit was KVM_EXIT_IO, so `io` is what KVM filled in. It
    // lies apart from the data that the exit borrows.
    let size = unsafe { (&raw const (*run).__bindgen_anon_1.io.size).read() };
    usize::from(size).max(1)
}

/// What KVM tells of an internal error.
fn internal_error(run: *const kvm_run) -> String {
    // SAFETY: as above, with KVM_EXIT_INTERNAL_ERROR and `internal`.
    let internal = unsafe { (&raw const (*run).__bindgen_anon_1.internal).read() };
    let name = match internal.suberror {
        1 => "emulation failed",
        2 => "simultaneous exceptions",
        3 => "failed to deliver an event",
        4 => "unexpected VM exit",
        _ => "unknown",
    };
    let count = (internal.ndata as usize).min(internal.data.len());
    format!("KVM internal error {} ({name}) {:#x?}", internal.suberror, &internal.data[..count])
}
