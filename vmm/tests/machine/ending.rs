//! Every way in which a run ends is told apart, and a reset machine runs again.

use vireo_vmm::ending::Outcome;

use super::payload::{elf, payload};
use super::rig::{Rig, wait_until};

payload!(
    reset_control,
    "32",
    "mov dx, 0x700",
    "mov al, 1",
    "out dx, al",
    "mov dx, 0xcf9",
    "mov al, 6",
    "out dx, al",
    "mov dx, 0x700",
    "out dx, al"
);
payload!(reset_i8042, "32", "mov dx, 0x700", "mov al, 1", "out dx, al", "mov al, 0xfe", "out 0x64, al", "out dx, al");
payload!(triple_fault, "32", "ud2");
payload!(panic, "32", "mov dx, 0x505", "in al, dx", "out dx, al", "mov dx, 0x700", "out dx, al");
payload!(power_off_bytewise, "32", "mov dx, 0x605", "mov al, 0x34", "out dx, al", "mov dx, 0x700", "out dx, al");
payload!(idle, "32", "mov dx, 0x700", "out dx, al", "2: hlt", "jmp 2b");
payload!(spin, "32", "mov dx, 0x700", "out dx, al", "2: jmp 2b");
// Code that KVM can neither run nor emulate: it isn't RAM.
payload!(runs_off_ram, "32", "mov eax, 0xd0000000", "jmp eax");

#[test]
fn reset_by_the_reset_register_boots_again() {
    let rig = Rig::new(elf(reset_control()), 1);
    for round in 1..=3 {
        assert_eq!(rig.outcome(), Outcome::Reset);
        assert_eq!(rig.reports.all(), vec![1; round], "nothing runs after the reset");
    }
}

#[test]
fn reset_by_the_keyboard_controller_boots_again() {
    let rig = Rig::new(elf(reset_i8042()), 1);
    for round in 1..=2 {
        assert_eq!(rig.outcome(), Outcome::Reset);
        assert_eq!(rig.reports.all(), vec![1; round]);
    }
}

#[test]
fn power_off_works_byte_by_byte() {
    let rig = Rig::new(elf(power_off_bytewise()), 1);
    assert_eq!((rig.outcome(), rig.reports.all()), (Outcome::PowerOff, vec![]));
}

#[test]
fn a_triple_fault_is_one() {
    assert_eq!(Rig::new(elf(triple_fault()), 1).outcome(), Outcome::TripleFault);
}

#[test]
fn a_guest_panic_is_told() {
    let rig = Rig::new(elf(panic()), 1);
    assert_eq!((rig.outcome(), rig.reports.all()), (Outcome::GuestPanic, vec![]));
}

#[test]
fn an_internal_error_says_where() {
    let outcome = Rig::new(elf(runs_off_ram()), 1).outcome();
    let Outcome::KvmError(text) = outcome else { panic!("{outcome:?}") };
    assert!(text.starts_with("vCPU 0 at 0xd0000000: KVM internal error 1 (emulation failed)"), "{text}");
}

#[test]
fn a_halted_and_a_spinning_vcpu_can_be_stopped() {
    for code in [idle(), spin()] {
        let rig = Rig::new(elf(code), 2);
        let run = rig.run(rig.build());
        rig.reports.wait(1);
        drop(run);
        wait_until(|| true);
    }
}
