//! The topology leaves: sockets, cores, threads, and the caches that they share (Intel SDM vol. 3A §9.9, AMD APM vol. 3 appendix E).

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::features;
use super::models::Vendor;
use super::table::Table;
use crate::config::Topology;

/// Leaves that describe the host's topology: made anew for each vCPU, or left out.
const HOSTS: [u32; 4] = [0xB, 0x1F, 0x8000_001E, 0x8000_0026];

/// Writes what all vCPUs share.
pub(super) fn describe(table: &mut Table, topology: Topology) {
    table.0.retain(|entry| !HOSTS.contains(&entry.function) || entry.function == 0x8000_001E);
    let per_socket = topology.per_socket();
    // Ids in a socket, and in a core: powers of two, and one less is what the leaves hold.
    let (socket_ids, core_ids) = (1u32 << topology.socket_shift(), 1u32 << topology.core_shift());
    for entry in &mut table.0 {
        match entry.function {
            1 => entry.ebx = entry.ebx & 0xFF00_FFFF | socket_ids.min(0xFF) << 16,
            // Deterministic caches (Intel, AMD): levels 1 and 2 belong to one core, level 3 to the socket.
            4 | 0x8000_001D if entry.eax & 0x1F != 0 => {
                let level = entry.eax >> 5 & 7;
                let sharing = if level >= 3 { socket_ids } else { core_ids } - 1;
                entry.eax = entry.eax & 0x3FFF | sharing.min(0xFFF) << 14;
                if entry.function == 4 {
                    entry.eax |= (socket_ids / core_ids - 1).min(0x3F) << 26;
                }
            }
            // Threads in the socket, and the bits of their ids.
            0x8000_0008 => {
                entry.ecx = entry.ecx & 0xFFFF_0F00 | topology.socket_shift() << 12 | (per_socket - 1).min(0xFF);
            }
            _ => {}
        }
    }
    let several = per_socket > 1;
    // HTT: the count of logical processors in 1 EBX is valid. CmpLegacy says the same on AMD.
    let amd = table.vendor() == Vendor::Amd;
    // Without this leaf AMD's CPUs have no threads for Linux. It takes nothing of the host but what is told here.
    let threaded = amd && topology.threads() > 1 && table.entry(0x8000_0000, 0).is_some_and(|e| e.eax >= 0x8000_001E);
    if threaded {
        table.entry_mut(0x8000_001E, 0);
    }
    let topoext = threaded || features::by_name("topoext").is_some_and(|feature| table.has(feature));
    for (name, on) in [("ht", several), ("cmp_legacy", several && amd), ("topoext", topoext)] {
        if let Some(feature) = features::by_name(name) {
            table.set(feature, on);
        }
    }
}

/// The whole table of vCPU `index`.
pub(super) fn of_vcpu(table: &Table, topology: Topology, index: u8) -> Vec<kvm_cpuid_entry2> {
    let apic_id = u32::from(topology.apic_id(index));
    let (socket, core, _) = topology.place(index);
    let mut entries = table.0.clone();
    for entry in &mut entries {
        match entry.function {
            1 => entry.ebx = entry.ebx & 0x00FF_FFFF | apic_id << 24,
            // Core and its threads; a socket is a node.
            0x8000_001E => {
                (entry.eax, entry.ecx) = (apic_id, u32::from(socket));
                entry.ebx = u32::from(core) | (topology.threads() - 1) << 8;
            }
            _ => {}
        }
    }
    let max_leaf = table.entry(0, 0).map_or(0, |entry| entry.eax);
    for function in [0xB, 0x1F] {
        if max_leaf >= function {
            entries.extend(levels(function, apic_id, topology));
        }
    }
    entries
}

/// Extended topology: the threads of a core, the threads of a socket, then the end.
fn levels(function: u32, apic_id: u32, topology: Topology) -> [kvm_cpuid_entry2; 3] {
    const THREAD: u32 = 1;
    const CORE: u32 = 2;
    let levels = [
        (0, THREAD, topology.core_shift(), topology.threads()),
        (1, CORE, topology.socket_shift(), topology.per_socket()),
        (2, 0, 0, 0),
    ];
    levels.map(|(index, kind, shift, logical)| kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: logical,
        ecx: index | kind << 8,
        edx: apic_id,
        ..Default::default()
    })
}
