//! The serial port as a guest's console.

use std::fs::File;

use vireo_vmm::ending::Outcome;

use super::payload::{elf, payload};
use super::rig::{Rig, expect, type_in};

// Says hello with a string instruction, then echoes with 1 added, until a dot.
payload!(
    echo,
    "32",
    "mov esp, 0x180000",
    "call 3f",
    ".ascii \"hello>\"",
    "3: pop esi",
    "mov dx, 0x3f8",
    "mov ecx, 6",
    "cld",
    "rep outsb",
    "2: mov dx, 0x3fd",
    "in al, dx",
    "test al, 1",
    "jz 2b",
    "mov dx, 0x3f8",
    "in al, dx",
    "cmp al, 0x2e",
    "je 4f",
    "inc al",
    "out dx, al",
    "jmp 2b",
    "4: mov dx, 0x604",
    "mov ax, 0x3400",
    "out dx, ax",
);

/// Greets, echoes, and powers off at a dot.
pub fn echo_kernel() -> File {
    elf(echo())
}

#[test]
fn output_and_input_pass_through_the_hub() {
    let rig = Rig::new(echo_kernel(), 1);
    let mut console = rig.console();
    let run = rig.run(rig.build());
    expect(&mut console, "hello>");
    // More than the receive queue holds.
    type_in(&mut console, &"a".repeat(300));
    expect(&mut console, &"b".repeat(300));
    type_in(&mut console, ".");
    assert_eq!(run.outcome(), Outcome::PowerOff);
}

#[test]
fn a_late_client_sees_what_was_said() {
    let rig = Rig::new(echo_kernel(), 1);
    let mut first = rig.console();
    let run = rig.run(rig.build());
    expect(&mut first, "hello>");
    let mut late = rig.console();
    expect(&mut late, "hello>");
    type_in(&mut late, ".");
    assert_eq!(run.outcome(), Outcome::PowerOff);
}
