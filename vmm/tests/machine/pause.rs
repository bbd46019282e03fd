//! A paused machine stands still, every vCPU of it, and goes on where it was.

use std::time::{Duration, Instant};

use vireo_vmm::ending::Outcome;
use vireo_vmm::memory::GuestRam;
use vm_memory::{Bytes, GuestAddress};

use super::payload::{bzimage, payload, take_interrupts};
use super::rig::{Rig, wait_until};

/// Where the boot vCPU and the other count.
const COUNTERS: [u64; 2] = [0x30_0000, 0x8800];
/// How long a machine is watched while it shouldn't move: thousands of rounds of its loops.
const WATCH: Duration = Duration::from_millis(30);
/// What each vCPU reports of an NMI.
const NMIS: [u32; 2] = [0xB0, 0xA0];

// Starts the other vCPU on 16-bit code at 0x8000, then both count for ever; an NMI is reported.
payload!(
    count,
    "64",
    take_interrupts!("2", "9f"),
    "lea rsi, [rip + 5f]",
    "lea rax, [rip + 7f]",
    "sub rax, rsi",
    "add eax, 0x8000",
    // The other's real-mode vector 2.
    "mov edi, 8",
    "mov word ptr [rdi], ax",
    "mov word ptr [rdi + 2], 0",
    "mov edi, 0x8000",
    "mov ecx, 128",
    "cld",
    "rep movsb",
    "mov edi, 0xfee00300",
    "mov dword ptr [rdi], 0xc4500",
    "mov dword ptr [rdi], 0xc4608",
    "mov edi, 0x300000",
    "2: inc dword ptr [rdi]",
    "jmp 2b",
    "9: mov dx, 0x700",
    "mov eax, 0xb0",
    "out dx, eax",
    "iretq",
    ".code16",
    "5: xor ax, ax",
    "mov ds, ax",
    "mov ss, ax",
    "mov sp, 0x7000",
    "6: inc dword ptr ds:[0x8800]",
    "jmp 6b",
    "7: mov dx, 0x700",
    "mov eax, 0xa0",
    "out dx, eax",
    "iret",
    ".code64",
);

fn counts(ram: &GuestRam) -> [u32; 2] {
    COUNTERS.map(|at| ram.read_obj(GuestAddress(at)).unwrap())
}

/// Both vCPUs have gone on since `before`.
fn moved(ram: &GuestRam, before: [u32; 2]) -> bool {
    counts(ram).iter().zip(before).all(|(now, then)| *now != then)
}

#[test]
fn every_vcpu_stands_still_and_goes_on() {
    let rig = Rig::new(bzimage(count()), 2);
    let machine = rig.build();
    let ram = machine.ram().clone();
    let run = rig.run(machine);
    wait_until(|| moved(&ram, [0, 0]));
    for _ in 0..3 {
        run.running().pause();
        let still = counts(&ram);
        let until = Instant::now() + WATCH;
        while Instant::now() < until {
            assert_eq!(counts(&ram), still);
        }
        run.running().resume();
        wait_until(|| moved(&ram, still));
    }
    // Twice paused is paused, and a paused machine can be stopped.
    run.running().pause();
    run.running().pause();
}

#[test]
fn an_nmi_reaches_every_vcpu() {
    let rig = Rig::new(bzimage(count()), 2);
    let machine = rig.build();
    let ram = machine.ram().clone();
    let run = rig.run(machine);
    wait_until(|| moved(&ram, [0, 0]));
    for round in 1..=2 {
        run.running().nmi().unwrap();
        wait_until(|| NMIS.iter().all(|nmi| rig.reports.all().iter().filter(|report| *report == nmi).count() == round));
    }
}

// Powers off at once.
payload!(power_off, "32", "mov dx, 0x604", "mov ax, 0x3400", "out dx, ax", "2: hlt", "jmp 2b");

#[test]
fn an_end_is_not_lost_in_a_pause() {
    let rig = Rig::new(super::payload::elf(power_off()), 1);
    let run = rig.run(rig.build());
    run.running().pause();
    run.running().resume();
    assert_eq!(run.outcome(), Outcome::PowerOff);
}
