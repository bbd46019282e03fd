//! Both boot protocols, and what a payload finds where the protocol says.

use std::fs::File;

use vireo_vmm::ending::Outcome;

use super::payload::{bzimage, elf, payload};
use super::rig::Rig;

// Reports the start info's magic, its RSDP's first bytes and the command line's, then powers off.
payload!(
    pvh,
    "32",
    "mov dx, 0x700",
    "mov eax, [ebx]",
    "out dx, eax",
    "mov esi, [ebx + 32]",
    "mov eax, [esi]",
    "out dx, eax",
    "mov esi, [ebx + 24]",
    "mov eax, [esi]",
    "out dx, eax",
    "mov dx, 0x604",
    "mov ax, 0x3400",
    "out dx, ax",
    "2: hlt",
    "jmp 2b",
);

/// Three reports, then a power-off.
pub fn reporting_kernel() -> File {
    elf(pvh())
}

#[test]
fn pvh_elf_boots() {
    let rig = Rig::new(elf(pvh()), 1);
    assert_eq!(rig.outcome(), Outcome::PowerOff);
    let rsdp = u32::from_le_bytes(*b"RSD ");
    let cmdline = u32::from_le_bytes(*b"hell");
    assert_eq!(rig.reports.all(), [0x336E_C578, rsdp, cmdline]);
}

// The same from the zero page, in 64-bit mode.
payload!(
    linux64,
    "64",
    "mov dx, 0x700",
    "mov eax, [rsi + 0x202]",
    "out dx, eax",
    "mov rdi, [rsi + 0x70]",
    "mov eax, [rdi]",
    "out dx, eax",
    "mov edi, [rsi + 0x228]",
    "mov eax, [rdi]",
    "out dx, eax",
    "mov dx, 0x604",
    "mov ax, 0x3400",
    "out dx, ax",
    "2: hlt",
    "jmp 2b",
);

#[test]
fn bzimage_boots() {
    let rig = Rig::new(bzimage(linux64()), 1);
    assert_eq!(rig.outcome(), Outcome::PowerOff);
    let [header, rsdp, cmdline] = [*b"HdrS", *b"RSD ", *b"hell"].map(u32::from_le_bytes);
    assert_eq!(rig.reports.all(), [header, rsdp, cmdline]);
}
