//! Getting a thread out of `KVM_RUN` without a race: a signal whose handler sets the vCPU's `immediate_exit`.
//!
//! A signal that arrives between the check for work and `KVM_RUN` would be lost if it only interrupted; the flag it leaves
//! makes the next `KVM_RUN` return at once.

use std::cell::Cell;
use std::io;
use std::ptr;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// `kvm_run.immediate_exit` of the vCPU that this thread runs; null on all other threads.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// The signal that kicks.
pub fn signal() -> i32 {
    SIGRTMIN()
}

/// Installs the handler; once in a process is enough, more is harmless.
pub fn install() -> io::Result<()> {
    register_signal_handler(signal(), on_signal).map_err(|e| io::Error::from_raw_os_error(e.errno()))
}

extern "C" fn on_signal(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: the pointer is set only while its vCPU is alive on this very thread; the kernel reads the byte.
        unsafe { flag.write_volatile(1) };
    }
}

/// While it lives, kicks of this thread reach `vcpu`.
#[derive(Debug)]
pub(super) struct Target {
    flag: *mut u8,
}

impl Target {
    /// The caller keeps `vcpu` on this thread for as long as the target.
    pub(super) fn new(vcpu: &mut VcpuFd) -> Self {
        let flag = &raw mut vcpu.get_kvm_run().immediate_exit;
        IMMEDIATE_EXIT.set(flag);
        Self { flag }
    }

    /// Takes the kick back, once it has been answered.
    pub(super) fn clear(&self) {
        // SAFETY: the vCPU is alive, as `new` asks for.
        unsafe { self.flag.write_volatile(0) };
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}
