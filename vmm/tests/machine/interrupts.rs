//! Interrupts reach the guest: an MSI, an edge on the I/O APIC, and a level that stays until it is answered.

use std::sync::{Arc, Mutex};

use vireo_vmm::bus::BusDevice;
use vireo_vmm::ending::Outcome;
use vireo_vmm::interrupts::{MsiMessage, MsiVector};

use super::payload::{bzimage, end_of_interrupt, payload, route_pin, take_interrupts};
use super::rig::{Rig, type_in};

const DOORBELL: u64 = 0x710;

/// Raises its MSI on every write.
#[derive(Debug)]
struct Doorbell(Mutex<MsiVector>);

impl BusDevice for Doorbell {
    fn read(&self, _: u64, _: &mut [u8]) {}

    fn write(&self, _: u64, _: &[u8]) {
        self.0.lock().unwrap().event().write(1).unwrap();
    }
}

// Rings three times, reports each interrupt, then powers off.
payload!(
    msi,
    "64",
    take_interrupts!("0x41", "5f"),
    "xor ebx, ebx",
    // The interrupt comes no earlier than the HLT, which it ends.
    "2: cli",
    "mov dx, 0x710",
    "out dx, al",
    "sti",
    "hlt",
    "cmp ebx, 3",
    "jb 2b",
    "mov dx, 0x604",
    "mov ax, 0x3400",
    "out dx, ax",
    "5: inc ebx",
    "mov dx, 0x700",
    "mov eax, ebx",
    "out dx, eax",
    end_of_interrupt!(),
    "iretq",
);

#[test]
fn an_msi_arrives_through_its_route() {
    let rig = Rig::new(bzimage(msi()), 1);
    let machine = rig.build();
    let mut vector = machine.interrupts().msi().unwrap();
    vector.set(MsiMessage { address: 0xFEE0_0000, data: 0x41 }).unwrap();
    machine.ports().insert(DOORBELL, 1, Arc::new(Doorbell(Mutex::new(vector)))).unwrap();
    assert_eq!(rig.run(machine).outcome(), Outcome::PowerOff);
    assert_eq!(rig.reports.all(), [1, 2, 3]);
}

// Reports what is typed, by interrupt only; a dot powers off.
payload!(
    serial_input,
    "64",
    take_interrupts!("0x42", "5f"),
    route_pin!("4", "0x42"),
    "mov dx, 0x3f9",
    "mov al, 1",
    "out dx, al",
    "mov dx, 0x700",
    "mov eax, 0x100",
    "out dx, eax",
    "sti",
    "2: hlt",
    "jmp 2b",
    "5: mov dx, 0x3fd",
    "in al, dx",
    "test al, 1",
    "jz 6f",
    "mov dx, 0x3f8",
    "xor eax, eax",
    "in al, dx",
    "mov dx, 0x700",
    "out dx, eax",
    "cmp al, 0x2e",
    "jne 5b",
    "mov dx, 0x604",
    "mov ax, 0x3400",
    "out dx, ax",
    "6:",
    end_of_interrupt!(),
    "iretq",
);

#[test]
fn serial_input_raises_its_line() {
    let rig = Rig::new(bzimage(serial_input()), 1);
    let mut console = rig.console();
    let run = rig.run(rig.build());
    rig.reports.wait(1);
    for (count, key) in ["a", "b"].into_iter().enumerate() {
        type_in(&mut console, key);
        rig.reports.wait(count + 2);
    }
    type_in(&mut console, ".");
    assert_eq!(run.outcome(), Outcome::PowerOff);
    assert_eq!(rig.reports.all(), [0x100, 0x61, 0x62, 0x2E]);
}

// Enables the power button; its interrupt reports PM1 status before and after clearing it, then powers off.
payload!(
    power_button,
    "64",
    take_interrupts!("0x43", "5f"),
    route_pin!("9", "0x8043"),
    "mov dx, 0x602",
    "mov ax, 0x100",
    "out dx, ax",
    "mov dx, 0x700",
    "mov eax, 1",
    "out dx, eax",
    "sti",
    "2: hlt",
    // The button's interrupt has come once, and not again.
    "mov dx, 0x604",
    "mov ax, 0x3400",
    "out dx, ax",
    "5: mov dx, 0x600",
    "xor eax, eax",
    "in ax, dx",
    "mov dx, 0x700",
    "out dx, eax",
    "mov dx, 0x600",
    "mov ax, 0x100",
    "out dx, ax",
    "xor eax, eax",
    "in ax, dx",
    "mov dx, 0x700",
    "out dx, eax",
    end_of_interrupt!(),
    "iretq",
);

#[test]
fn the_power_button_raises_the_sci() {
    let rig = Rig::new(bzimage(power_button()), 1);
    let run = rig.run(rig.build());
    rig.reports.wait(1);
    run.running().power_button();
    assert_eq!(run.outcome(), Outcome::PowerOff);
    assert_eq!(rig.reports.all(), [1, 0x100, 0]);
}
