//! Keeps the jump labels of the node's kernel still that KVM flips with its first and last machine.
//!
//! QEMU before 8.1 translates a page while another vCPU may be writing to it. Linux flips a jump label by writing a
//! breakpoint over it, and `preempt_notifier_key`, which KVM flips as its first machine comes and its last one goes, is
//! in the scheduler: sooner or later the other vCPU keeps a stale translation of the breakpoint, takes it for ever with
//! interrupts off, and the node hangs. A machine that is always there keeps the labels as they are; its vCPU, with
//! an APIC that was never enabled, does the same for `apic_sw_disabled`.

use kvm_ioctls::{Kvm, VcpuFd, VmFd};

/// The machine that is always there; it never runs.
#[derive(Debug)]
pub struct Held {
    _vcpu: VcpuFd,
    _vm: VmFd,
}

/// Makes it.
pub fn hold() -> Result<Held, kvm_ioctls::Error> {
    let vm = Kvm::new()?.create_vm()?;
    vm.create_irq_chip()?;
    Ok(Held { _vcpu: vm.create_vcpu(0)?, _vm: vm })
}
