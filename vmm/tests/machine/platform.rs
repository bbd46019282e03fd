//! Board devices as a guest reads them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vireo_vmm::ending::Outcome;
use vm_memory::{Bytes, GuestAddress};

use super::payload::{bzimage, elf, payload};
use super::puppet::{self, Puppet, VECTOR};
use super::rig::Rig;

#[test]
fn the_pm_timer_ticks_at_its_frequency() {
    let rig = Rig::new(super::boot::reporting_kernel(), 1);
    let machine = rig.build();
    let read = || {
        let mut count = [0; 4];
        machine.ports().read(0x608, &mut count);
        u32::from_le_bytes(count)
    };
    let before = Instant::now();
    let first = read();
    let after = Instant::now();
    while after.elapsed() < Duration::from_millis(20) {
        std::hint::spin_loop();
    }
    let shortest = after.elapsed();
    let ticks = f64::from(read().wrapping_sub(first));
    let longest = before.elapsed();
    // However long another process had the CPU between two of these lines.
    let [least, most] = [shortest, longest].map(|elapsed| elapsed.as_secs_f64() * 3_579_545.0);
    assert!((least * 0.99..=most * 1.01).contains(&ticks), "{ticks} ticks in {shortest:?} to {longest:?}");
}

#[test]
fn pm1_enable_bits_stick_and_writing_status_clears_it() {
    let rig = Rig::new(super::boot::reporting_kernel(), 1);
    let machine = rig.build();
    let read = |port| {
        let mut value = [0; 2];
        machine.ports().read(port, &mut value);
        u16::from_le_bytes(value)
    };
    machine.ports().write(0x602, &u16::MAX.to_le_bytes());
    assert_eq!(read(0x602), 0x0521, "Linux gives up on an event whose bit doesn't stick");
    machine.ports().write(0x600, &u16::MAX.to_le_bytes());
    assert_eq!((read(0x600), read(0x604) & 1), (0, 1), "nothing is pending, ACPI mode is on");
}

// Waits for 3580 ticks of the PM timer (1 ms) and for the PIT's speaker output to change, then powers off.
payload!(
    timers,
    "32",
    "mov dx, 0x608",
    "in eax, dx",
    "mov ebx, eax",
    "2: in eax, dx",
    "sub eax, ebx",
    "cmp eax, 3580",
    "jb 2b",
    "in al, 0x61",
    "and al, 0x10",
    "mov bl, al",
    "3: in al, 0x61",
    "and al, 0x10",
    "cmp al, bl",
    "je 3b",
    "mov dx, 0x604",
    "mov ax, 0x3400",
    "out dx, ax",
);

#[test]
fn a_guest_sees_time_pass() {
    let start = Instant::now();
    assert_eq!(Rig::new(elf(timers()), 1).outcome(), Outcome::PowerOff);
    assert!(start.elapsed() >= Duration::from_millis(1));
}

// Reads where nothing answers, in ports and in memory, and writes there.
payload!(
    nowhere,
    "32",
    "mov dx, 0x900",
    "in eax, dx",
    "out dx, eax",
    "mov dx, 0x700",
    "out dx, eax",
    "mov edi, 0xd0000000",
    "mov eax, [edi]",
    "mov [edi], eax",
    "out dx, eax",
    "mov dx, 0x604",
    "mov ax, 0x3400",
    "out dx, ax",
);

#[test]
fn nothing_there_reads_as_all_ones() {
    let rig = Rig::new(elf(nowhere()), 1);
    assert_eq!(rig.outcome(), Outcome::PowerOff);
    assert_eq!(rig.reports.all(), [u32::MAX, u32::MAX]);
}

#[test]
fn each_machine_has_a_generation_id_of_its_own_in_memory_that_a_guest_reads() {
    let id = || {
        let rig = Rig::new(bzimage(puppet::code()), 1);
        let machine = rig.build();
        let cpu = Puppet::attach(&machine);
        let run = rig.run(machine);
        let id: Vec<u32> = (0..4).map(|word| cpu.read(0xFEFF_B000 + 4 * word, 4)).collect();
        assert_eq!(cpu.read(0xFEFF_B010, 4), 0, "nothing else is on its page");
        drop(cpu);
        assert_eq!(run.outcome(), Outcome::PowerOff);
        id
    };
    let (first, second) = (id(), id());
    assert!(first != second && first.iter().any(|word| *word != 0), "{first:x?} {second:x?}");
}

#[test]
fn a_guest_finds_the_smbios_tables() {
    let rig = Rig::new(super::boot::reporting_kernel(), 1);
    let machine = rig.build();
    let mut anchor = [0; 24];
    machine.ram().read_slice(&mut anchor, GuestAddress(0xF_0000)).unwrap();
    assert_eq!((&anchor[..5], &anchor[16..24]), (b"_SM3_".as_slice(), 0xF_0020_u64.to_le_bytes().as_slice()));
}

#[test]
fn the_clocks_interrupt_reaches_the_guest() {
    let rig = Rig::new(bzimage(puppet::code()), 1);
    let machine = rig.build();
    let ports = Arc::clone(machine.ports());
    let cpu = Puppet::attach(&machine);
    let run = rig.run(machine);
    // I/O APIC, pin 8: to the puppet's vector.
    for (register, value) in [(0x10 + 2 * 8, VECTOR), (0x11 + 2 * 8, 0)] {
        cpu.write(0xFEC0_0000, 4, register);
        cpu.write(0xFEC0_0010, 4, value);
    }
    // Register B: 24 hours, periodic interrupt.
    ports.write(0x70, &[0x0B]);
    ports.write(0x71, &[0x42]);
    cpu.wait_interrupt();
    drop(cpu);
    assert_eq!(run.outcome(), Outcome::PowerOff);
}
