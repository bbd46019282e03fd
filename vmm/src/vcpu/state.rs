//! The state that a vCPU starts in: registers by boot protocol, MSRs and local interrupt pins as firmware would leave them.

use kvm_bindings::{Msrs, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, kvm_xcr, kvm_xcrs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::boot::Entry;
use crate::memory::GuestRam;
use crate::memory::layout::low;

/// Why a vCPU could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM refused a part of the state.
    #[error("{call}")]
    Kvm {
        /// The call.
        call: &'static str,
        /// Why.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// KVM refused an MSR.
    #[error("KVM_SET_MSRS refuses MSR {index:#x}")]
    Msr {
        /// Which.
        index: u32,
    },
    /// The tables don't fit into RAM.
    #[error("memory: too small for the boot vCPU's tables")]
    NoRam(#[source] GuestMemoryError),
}

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always set.
const RFLAGS: u64 = 2;

const MSR_MISC_ENABLE: u32 = 0x1A0;
const FAST_STRINGS: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2FF;
/// MTRRs on, all memory write-back.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// Offsets of the local vector table's pins in the APIC page, and their delivery modes (Intel SDM vol. 3A §11.5.1).
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const EXT_INT: u32 = 7 << 8;
const NMI: u32 = 4 << 8;

/// MSRs and local interrupt pins as firmware would leave them, for every vCPU of a machine without it. CPUID must be set: KVM
/// checks MSRs against it.
pub fn set_common(vcpu: &VcpuFd) -> Result<(), Error> {
    for (index, data) in [(MSR_MISC_ENABLE, FAST_STRINGS), (MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK)] {
        let entry = kvm_msr_entry { index, data, ..Default::default() };
        let msrs = Msrs::from_entries(&[entry]).map_err(|_| Error::Msr { index })?;
        let set = vcpu.set_msrs(&msrs).map_err(|source| Error::Kvm { call: "KVM_SET_MSRS", source })?;
        if set != 1 {
            return Err(Error::Msr { index });
        }
    }
    let mut lapic = vcpu.get_lapic().map_err(|source| Error::Kvm { call: "KVM_GET_LAPIC", source })?;
    set_lvt(&mut lapic, LVT_LINT0, EXT_INT);
    set_lvt(&mut lapic, LVT_LINT1, NMI);
    vcpu.set_lapic(&lapic).map_err(|source| Error::Kvm { call: "KVM_SET_LAPIC", source })
}

/// Switches on every state component that XSAVE can save here (`features`, CPUID 0xD.0 EDX:EAX), as the guest's kernel will.
///
/// KVM follows the guest's own XSETBV where it sees it. A hypervisor below it that does not intercept XSETBV (QEMU's emulated SVM)
/// hides it, and KVM would go on running the guest with x87 state alone: its kernel would lose SSE registers at every switch.
pub fn set_xcr0(vcpu: &VcpuFd, features: u64) -> Result<(), Error> {
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0] = kvm_xcr { xcr: 0, value: features, ..Default::default() };
    vcpu.set_xcrs(&xcrs).map_err(|source| Error::Kvm { call: "KVM_SET_XCRS", source })
}

fn set_lvt(lapic: &mut kvm_lapic_state, register: usize, value: u32) {
    for (slot, byte) in lapic.regs[register..].iter_mut().zip(value.to_le_bytes()) {
        *slot = std::ffi::c_char::from_ne_bytes([byte]);
    }
}

/// The boot vCPU's registers for `entry`, and the tables in RAM that they point to.
pub fn set_entry(vcpu: &VcpuFd, entry: Entry, ram: &GuestRam) -> Result<(), Error> {
    let mut sregs = vcpu.get_sregs().map_err(|source| Error::Kvm { call: "KVM_GET_SREGS", source })?;
    let mut regs = kvm_regs { rflags: RFLAGS, ..Default::default() };
    match entry {
        // KVM makes a vCPU as a reset leaves it.
        Entry::Reset => return Ok(()),
        Entry::Linux64 { rip } => {
            (regs.rip, regs.rsi) = (rip, low::ZERO_PAGE);
            set_segments(&mut sregs, true, ram)?;
            write_page_tables(ram)?;
            sregs.cr3 = low::PAGE_TABLES;
            sregs.cr4 = CR4_PAE;
            sregs.efer = EFER_LME | EFER_LMA;
            sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
        }
        Entry::Pvh { eip } => {
            (regs.rip, regs.rbx) = (u64::from(eip), low::PVH_START_INFO);
            set_segments(&mut sregs, false, ram)?;
            sregs.cr0 = CR0_PE | CR0_ET;
        }
    }
    vcpu.set_sregs(&sregs).map_err(|source| Error::Kvm { call: "KVM_SET_SREGS", source })?;
    vcpu.set_regs(&regs).map_err(|source| Error::Kvm { call: "KVM_SET_REGS", source })
}

/// Flat segments at the selectors that Linux's boot protocol asks for: code 0x10, data 0x18; and a TSS at 0x20.
fn set_segments(sregs: &mut kvm_sregs, long: bool, ram: &GuestRam) -> Result<(), Error> {
    let flat = |selector, kind| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        s: 1,
        g: 1,
        db: 1,
        ..Default::default()
    };
    // Execute/read and read/write, accessed.
    let mut code = flat(0x10, 0xB);
    if long {
        (code.l, code.db) = (1, 0);
    }
    let data = flat(0x18, 0x3);
    let tss = kvm_segment { limit: 0x67, selector: 0x20, type_: 0xB, present: 1, ..Default::default() };
    let descriptors = [0, 0, descriptor(&code), descriptor(&data), descriptor(&tss), 0];
    for (at, value) in (low::GDT..).step_by(8).zip(descriptors) {
        ram.write_obj(value, GuestAddress(at)).map_err(Error::NoRam)?;
    }
    sregs.gdt.base = low::GDT;
    sregs.gdt.limit = u16::try_from(descriptors.len() * 8 - 1).unwrap_or(u16::MAX);
    // No IDT: an exception before the guest has its own is a triple fault.
    sregs.idt.limit = 0;
    (sregs.cs, sregs.tr) = (code, tss);
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    (sregs.fs, sregs.gs) = (data, data);
    Ok(())
}

/// A segment's descriptor as it stands in the GDT (Intel SDM vol. 3A §3.4.5).
fn descriptor(s: &kvm_segment) -> u64 {
    let limit = u64::from(if s.g == 1 { s.limit >> 12 } else { s.limit });
    let access = u64::from(s.type_) | u64::from(s.s) << 4 | u64::from(s.dpl) << 5 | u64::from(s.present) << 7;
    let flags = u64::from(s.avl) | u64::from(s.l) << 1 | u64::from(s.db) << 2 | u64::from(s.g) << 3;
    limit & 0xFFFF
        | (s.base & 0xFF_FFFF) << 16
        | access << 40
        | (limit >> 16 & 0xF) << 48
        | flags << 52
        | (s.base >> 24) << 56
}

/// Maps the first 4 GiB one to one with 2 MiB pages.
fn write_page_tables(ram: &GuestRam) -> Result<(), Error> {
    const PRESENT_WRITE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    const PAGE: u64 = 4096;
    let (pml4, pdpt, directories) = (low::PAGE_TABLES, low::PAGE_TABLES + PAGE, low::PAGE_TABLES + 2 * PAGE);
    let write = |value: u64, at: u64| ram.write_obj(value, GuestAddress(at)).map_err(Error::NoRam);
    write(pdpt | PRESENT_WRITE, pml4)?;
    for gib in 0..4 {
        write((directories + gib * PAGE) | PRESENT_WRITE, pdpt + gib * 8)?;
    }
    let mut table = Vec::with_capacity(4 * 4096);
    for page in 0u64..2048 {
        table.extend((page << 21 | LARGE | PRESENT_WRITE).to_le_bytes());
    }
    ram.write_slice(&table, GuestAddress(directories)).map_err(Error::NoRam)
}
