//! The other vCPUs wait for the first to start them.

use vireo_vmm::config::{Topology, TopologyConfig};
use vireo_vmm::ending::Outcome;

use super::payload::{bzimage, payload};
use super::rig::Rig;

// Copies the 16-bit code to 0x8000 and sends INIT and start-up IPIs to all others, which report their APIC ids.
payload!(
    start_others,
    "64",
    "lea rsi, [rip + 5f]",
    "mov edi, 0x8000",
    "mov ecx, 64",
    "cld",
    "rep movsb",
    "mov edi, 0xfee000f0",
    "mov dword ptr [rdi], 0x1ff",
    "mov edi, 0xfee00300",
    "mov dword ptr [rdi], 0xc4500",
    "mov dword ptr [rdi], 0xc4608",
    "mov dx, 0x700",
    "xor eax, eax",
    "out dx, eax",
    "2: hlt",
    "jmp 2b",
    ".code16",
    "5: mov eax, 1",
    "cpuid",
    "mov eax, ebx",
    "shr eax, 24",
    "mov dx, 0x700",
    "out dx, eax",
    "6: cli",
    "hlt",
    "jmp 6b",
    ".code64",
);

#[test]
fn init_and_sipi_start_the_others() {
    let rig = Rig::new(bzimage(start_others()), 4);
    let run = rig.run(rig.build());
    let mut ids = rig.reports.wait(4);
    drop(run);
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2, 3]);
}

#[test]
fn apic_ids_follow_the_topology() {
    let mut rig = Rig::new(bzimage(start_others()), 6);
    rig.plan.cpu.topology = Topology::new(TopologyConfig { sockets: 2, cores: 3, threads: 1 }).unwrap();
    let run = rig.run(rig.build());
    let mut ids = rig.reports.wait(6);
    drop(run);
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2, 4, 5, 6]);
}

#[test]
fn a_host_cpu_that_is_not_there_ends_the_machine() {
    let mut rig = Rig::new(bzimage(start_others()), 1);
    rig.plan.cpu.pins = vec![1023];
    let outcome = rig.outcome();
    let Outcome::KvmError(text) = outcome else { panic!("{outcome:?}") };
    assert!(text.starts_with("vCPU 0 can't be bound to host CPU 1023: "), "{text}");
    assert!(rig.reports.all().is_empty(), "nothing has run");
}

#[test]
fn without_them_only_the_first_runs() {
    // A payload for one vCPU on a machine of four: nothing but its own reports.
    let rig = Rig::new(super::boot::reporting_kernel(), 4);
    rig.outcome();
    assert_eq!(rig.reports.all().len(), 3);
}
