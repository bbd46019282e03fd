//! CPUID as the guest sees it: what KVM supports on this host, with this machine's own topology (Intel SDM vol. 2A CPUID,
//! AMD APM vol. 3 appendix E).
//!
//! One socket of single-threaded cores; the APIC id is the vCPU's index. Nested virtualization and the PMU aren't offered.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

/// Why the table could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM didn't say what it supports.
    #[error("KVM_GET_SUPPORTED_CPUID")]
    Supported(#[source] kvm_ioctls::Error),
    /// More leaves than KVM takes.
    #[error("CPUID of more than {KVM_MAX_CPUID_ENTRIES} leaves")]
    TooMany,
}

/// What all vCPUs of one machine share; [`Template::for_vcpu`] adds what tells them apart.
#[derive(Debug)]
pub struct Template {
    entries: Vec<kvm_cpuid_entry2>,
    vcpus: u8,
}

impl Template {
    /// Asks KVM what it supports, for a machine of `vcpus` processors.
    pub fn new(kvm: &Kvm, vcpus: u8) -> Result<Self, Error> {
        let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::Supported)?;
        let mut entries = supported.as_slice().to_vec();
        // Topology leaves describe the host; they are made anew for each vCPU. 0x8000_000A is SVM.
        entries.retain(|e| !matches!(e.function, 0xB | 0x1F | 0x8000_000A | 0x8000_0026));
        let deadline_timer = kvm.check_extension(Cap::TscDeadlineTimer);
        for entry in &mut entries {
            adapt(entry, u32::from(vcpus), deadline_timer);
        }
        Ok(Self { entries, vcpus })
    }

    /// The state components that XSAVE can save (leaf 0xD.0, EDX:EAX); `None` on a CPU without it.
    pub fn xsave_features(&self) -> Option<u64> {
        let leaf = self.entries.iter().find(|e| e.function == 0xD && e.index == 0)?;
        Some(u64::from(leaf.edx) << 32 | u64::from(leaf.eax)).filter(|features| *features != 0)
    }

    /// Physical address bits (leaf 0x8000_0008); 36 on a CPU that doesn't say.
    pub fn address_bits(&self) -> u8 {
        self.entries.iter().find(|e| e.function == 0x8000_0008).map_or(36, |e| e.eax.to_le_bytes()[0])
    }

    /// The table of one vCPU.
    pub fn for_vcpu(&self, index: u8) -> Result<CpuId, Error> {
        let (apic_id, count) = (u32::from(index), u32::from(self.vcpus));
        let mut entries = self.entries.clone();
        for entry in &mut entries {
            match entry.function {
                1 => entry.ebx = entry.ebx & 0x00FF_FFFF | apic_id << 24,
                // Compute unit = core, one thread each; node 0.
                0x8000_001E => (entry.eax, entry.ebx, entry.ecx) = (apic_id, apic_id & 0xFF, 0),
                _ => {}
            }
        }
        let max_leaf = entries.iter().find(|e| e.function == 0).map_or(0, |e| e.eax);
        for function in [0xB, 0x1F] {
            if max_leaf >= function {
                entries.extend(topology(function, apic_id, count));
            }
        }
        CpuId::from_entries(&entries).map_err(|_| Error::TooMany)
    }
}

/// Bits that an APIC id of `count` processors takes.
fn id_bits(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

fn adapt(entry: &mut kvm_cpuid_entry2, vcpus: u32, deadline_timer: bool) {
    let bit = |value: u32, bit: u32, on: bool| if on { value | 1 << bit } else { value & !(1 << bit) };
    match entry.function {
        1 => {
            // VMX and SMX off, TSC deadline as KVM has it, and a hypervisor is present.
            entry.ecx = bit(bit(entry.ecx, 5, false), 6, false);
            entry.ecx = bit(bit(entry.ecx, 24, deadline_timer), 31, true);
            // HTT: the count of logical processors in EBX is valid.
            entry.edx = bit(entry.edx, 28, vcpus > 1);
            entry.ebx = entry.ebx & 0xFF00_FFFF | vcpus.next_power_of_two().min(0xFF) << 16;
        }
        // Deterministic caches (Intel, AMD): levels 1 and 2 belong to one core, level 3 to all.
        4 | 0x8000_001D if entry.eax & 0x1F != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level >= 3 { vcpus.next_power_of_two() - 1 } else { 0 };
            entry.eax = entry.eax & 0x3FFF | sharing.min(0xFFF) << 14;
            if entry.function == 4 {
                entry.eax |= (vcpus.next_power_of_two() - 1).min(0x3F) << 26;
            }
        }
        // Architectural performance monitoring.
        0xA => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        // SVM off; AMD's performance counters off.
        0x8000_0001 => entry.ecx = bit(bit(entry.ecx, 2, false), 23, false),
        // Cores in the package, and the bits of their ids.
        0x8000_0008 => entry.ecx = entry.ecx & 0xFFFF_0F00 | id_bits(vcpus) << 12 | (vcpus - 1).min(0xFF),
        _ => {}
    }
}

/// Extended topology: one thread a core, `count` cores a package, then the end.
fn topology(function: u32, apic_id: u32, count: u32) -> [kvm_cpuid_entry2; 3] {
    const THREAD: u32 = 1;
    const CORE: u32 = 2;
    [(0, THREAD, 0, 1), (1, CORE, id_bits(count), count), (2, 0, 0, 0)].map(|(index, kind, shift, logical)| {
        kvm_cpuid_entry2 {
            function,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: logical,
            ecx: index | kind << 8,
            edx: apic_id,
            ..Default::default()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(vcpus: u8) -> Template {
        Template::new(&Kvm::new().expect("/dev/kvm"), vcpus).unwrap()
    }

    fn leaf(template: &Template, vcpu: u8, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let table = template.for_vcpu(vcpu).unwrap();
        *table.as_slice().iter().find(|e| (e.function, e.index) == (function, index)).unwrap()
    }

    #[test]
    fn each_vcpu_has_its_own_apic_id() {
        let template = template(3);
        for vcpu in 0..3 {
            assert_eq!(leaf(&template, vcpu, 1, 0).ebx >> 24, u32::from(vcpu));
            let core = leaf(&template, vcpu, 0xB, 1);
            assert_eq!((core.eax, core.ebx, core.edx), (2, 3, u32::from(vcpu)));
        }
    }

    #[test]
    fn no_nested_virtualization_is_offered() {
        let template = template(1);
        assert_eq!(leaf(&template, 0, 1, 0).ecx >> 5 & 1, 0);
        assert_eq!(leaf(&template, 0, 0x8000_0001, 0).ecx >> 2 & 1, 0);
        assert_eq!(leaf(&template, 0, 1, 0).ecx >> 31, 1, "a hypervisor is there");
    }
}
