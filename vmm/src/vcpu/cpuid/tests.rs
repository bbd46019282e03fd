//! From hosts as they were recorded to what guests see there.

use kvm_bindings::kvm_cpuid_entry2;

use super::features::{self, Register, Word};
use super::table::Table;
use super::{SelectError, Template, complete, models};
use crate::config::{CpuFeature, CpuModel, CpuPlan, FeaturePolicy, Topology, TopologyConfig};

/// What a KVM has told, a line an answer.
fn recorded(text: &str) -> Table {
    let line = |line: &str| {
        let mut numbers = line.split(' ').map(|n| u32::from_str_radix(n.trim_start_matches("0x"), 16).unwrap());
        let mut next = || numbers.next().unwrap();
        kvm_cpuid_entry2 {
            function: next(),
            index: next(),
            flags: next(),
            eax: next(),
            ebx: next(),
            ecx: next(),
            edx: next(),
            ..Default::default()
        }
    };
    let mut table = Table(text.lines().filter(|line| !line.starts_with('#')).map(line).collect());
    complete(&mut table, true);
    table
}

fn emulated_epyc() -> Table {
    recorded(include_str!("hosts/emulated-epyc.txt"))
}

/// A host with every feature of a model, on the recorded one's other leaves.
fn host_like(model: &str, vendor: [u32; 3]) -> Table {
    let mut table = emulated_epyc();
    let entry = table.entry_mut(0, 0);
    (entry.ebx, entry.edx, entry.ecx) = (vendor[0], vendor[1], vendor[2]);
    for name in models::by_name(model).unwrap().features().into_iter().chain(["vmx", "svm", "invtsc"]) {
        table.set(features::by_name(name).unwrap(), true);
    }
    // State of AVX-512 and protection keys (sizes and offsets of the standard format).
    for (index, size, offset) in [(5, 0x40, 0x440), (6, 0x200, 0x480), (7, 0x400, 0x680), (9, 8, 0xA80)] {
        let entry = table.entry_mut(0xD, index);
        (entry.eax, entry.ebx) = (size, offset);
    }
    let entry = table.entry_mut(0xD, 0);
    (entry.eax, entry.ebx, entry.ecx) = (0x2E7, 0xA88, 0xA88);
    table
}

const INTEL: [u32; 3] = [0x756E_6547, 0x4965_6E69, 0x6C65_746E];
const AMD: [u32; 3] = [0x6874_7541, 0x6974_6E65, 0x444D_4163];

fn cpu(model: CpuModel) -> CpuPlan {
    CpuPlan { topology: Topology::cores(1), model, features: Vec::new(), hide_kvm: false, pins: Vec::new() }
}

fn named(name: &str) -> CpuPlan {
    cpu(CpuModel::Named(name.to_owned()))
}

fn with(mut plan: CpuPlan, name: &str, policy: FeaturePolicy) -> CpuPlan {
    plan.features.push(CpuFeature { name: name.to_owned(), policy });
    plan
}

fn guest(host: &Table, plan: &CpuPlan) -> Table {
    let template = Template::from_host(host, plan).unwrap();
    Table(template.for_vcpu(0).unwrap().as_slice().to_vec())
}

fn refused(host: &Table, plan: &CpuPlan) -> String {
    let error: SelectError = Template::from_host(host, plan).unwrap_err();
    error.to_string()
}

fn has(table: &Table, name: &str) -> bool {
    table.has(features::by_name(name).unwrap())
}

#[test]
fn host_models_are_the_host_less_what_nobody_asked_for() {
    let host = host_like("EPYC-Genoa", AMD);
    let (passed, model) = (guest(&host, &cpu(CpuModel::HostPassthrough)), guest(&host, &cpu(CpuModel::HostModel)));
    assert!(has(&passed, "invtsc") && !has(&model, "invtsc"));
    for table in [passed, model] {
        assert!(has(&table, "avx512f") && has(&table, "hypervisor"));
        assert!(!has(&table, "svm") && !has(&table, "vmx"));
        assert!(table.entry(0x8000_000A, 0).is_none());
        assert!(table.entry(0x4000_0000, 0).is_some());
        let state = table.entry(0xD, 0).unwrap();
        assert_eq!((state.eax, state.ecx), (0x2E7, 0xA88));
    }
}

#[test]
fn nested_virtualization_is_there_if_asked_for() {
    let host = || host_like("EPYC", AMD);
    let nested = guest(&host(), &with(cpu(CpuModel::HostModel), "svm", FeaturePolicy::Require));
    assert!(has(&nested, "svm") && nested.entry(0x8000_000A, 0).is_some());
    let nested = guest(&host_like("Haswell", INTEL), &with(named("Haswell"), "vmx", FeaturePolicy::Require));
    assert!(has(&nested, "vmx"));
}

#[test]
fn a_named_model_is_the_same_everywhere() {
    let (small, large) = (host_like("EPYC", AMD), host_like("EPYC-Genoa", AMD));
    let (on_small, on_large) = (guest(&small, &named("EPYC")), guest(&large, &named("EPYC")));
    for word in features::words() {
        assert_eq!(on_small.word(word), on_large.word(word), "{word:x?}");
    }
    for index in [0, 1] {
        assert_eq!(on_small.entry(0xD, index), on_large.entry(0xD, index));
    }
    assert_eq!(on_large.entry(0xD, 0).unwrap().eax, 7);
    assert!(on_large.entry(0xD, 9).is_none());
    assert_eq!(on_large.entry(1, 0).unwrap().eax, 0x0080_0F12);
    let brand = on_large.entry(0x8000_0002, 0).unwrap().eax.to_le_bytes();
    assert_eq!(&brand, b"EPYC");
    // AMD's CPUs say the basic features twice.
    let basic = on_large.word(Word { function: 1, index: 0, register: Register::Edx });
    let again = on_large.word(Word { function: 0x8000_0001, index: 0, register: Register::Edx });
    assert_eq!((basic ^ again) & 0x0183_F3FF, 0);
}

#[test]
fn the_recorded_host_runs_what_it_can() {
    let host = emulated_epyc;
    for model in ["kvm64", "qemu64", "Opteron_G2"] {
        let result = Template::from_host(&host(), &named(model));
        assert_eq!(result.is_ok(), model != "Opteron_G2", "{model}");
    }
    assert_eq!(
        refused(&host(), &named("EPYC")),
        "model: \"EPYC\" needs 3dnowprefetch, avx2, fxsr_opt, misalignsse and 6 more, which this host's KVM does not offer"
    );
    let software = recorded(include_str!("hosts/software-kvm.txt"));
    let table = guest(&software, &cpu(CpuModel::HostModel));
    assert!(table.entry(0xD, 0).is_none(), "no state without xsave");
}

#[test]
fn what_the_host_lacks_is_named() {
    let host = || host_like("Haswell", INTEL);
    assert_eq!(
        refused(&host(), &named("Icelake-Server")),
        "model: \"Icelake-Server\" needs 3dnowprefetch, avx512-vpopcntdq, avx512bitalg, avx512bw and 19 more, which this host's KVM does not \
         offer"
    );
    assert!(
        refused(&host(), &named("EPYC")).starts_with("model: \"EPYC\" is a CPU of AMD's, which this host's is not; ")
    );
    assert!(
        refused(&host(), &named("Pentium-7")).starts_with("model: \"Pentium-7\" is not a CPU model known to vireo; ")
    );
    let asked =
        |name, policy| refused(&host(), &with(with(named("Haswell"), "avx", FeaturePolicy::Require), name, policy));
    assert_eq!(
        asked("avx512f", FeaturePolicy::Require),
        "features[1]: \"avx512f\" is required, which this host's KVM does not offer"
    );
    assert!(
        asked("avx2", FeaturePolicy::Forbid)
            .starts_with("features[1]: \"avx2\" is forbidden, which this host's KVM offers")
    );
    assert_eq!(asked("avx3", FeaturePolicy::Optional), "features[1]: \"avx3\" is not a CPU feature known to vireo");
}

#[test]
fn every_policy_does_what_it_says() {
    let host = || host_like("Haswell", INTEL);
    let table = |name, policy| guest(&host(), &with(named("Westmere"), name, policy));
    assert!(has(&table("rdrand", FeaturePolicy::Require), "rdrand"));
    assert!(has(&table("rdrand", FeaturePolicy::Optional), "rdrand"));
    assert!(!has(&table("rdseed", FeaturePolicy::Optional), "rdseed"));
    assert!(has(&table("rdseed", FeaturePolicy::Force), "rdseed"));
    assert!(!has(&table("aes", FeaturePolicy::Disable), "aes"));
    assert!(!has(&table("rdseed", FeaturePolicy::Forbid), "rdseed"));
    // What stands on a feature goes with it, and so does its state.
    let table = guest(&host(), &with(named("Haswell"), "avx", FeaturePolicy::Disable));
    assert!(!["avx", "avx2", "fma", "f16c"].iter().any(|name| has(&table, name)));
    assert_eq!((table.entry(0xD, 0).unwrap().eax, table.entry(0xD, 0).unwrap().ecx), (3, 576));
    let table = guest(&host(), &with(named("Haswell"), "xsave", FeaturePolicy::Disable));
    assert!(table.entry(0xD, 0).is_none() && !has(&table, "avx"));
}

#[test]
fn hidden_is_hidden() {
    let table = guest(&emulated_epyc(), &CpuPlan { hide_kvm: true, ..cpu(CpuModel::HostModel) });
    assert!(!table.0.iter().any(|entry| entry.function >> 28 == 4));
}

#[test]
fn the_topology_is_the_machine_s() {
    let topology = Topology::new(TopologyConfig { sockets: 2, cores: 3, threads: 2 }).unwrap();
    let plan = CpuPlan { topology, ..cpu(CpuModel::HostModel) };
    let template = Template::from_host(&emulated_epyc(), &plan).unwrap();
    let of = |index| Table(template.for_vcpu(index).unwrap().as_slice().to_vec());
    let apic_ids: Vec<_> = (0..12).map(|index| of(index).entry(1, 0).unwrap().ebx >> 24).collect();
    assert_eq!(apic_ids, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
    let last = of(11);
    let threads = last.entry(0xB, 0).unwrap();
    assert_eq!((threads.eax, threads.ebx, threads.ecx, threads.edx), (1, 2, 0x100, 13));
    let cores = last.entry(0xB, 1).unwrap();
    assert_eq!((cores.eax, cores.ebx, cores.ecx, cores.edx), (3, 6, 0x201, 13));
    assert_eq!(last.entry(0xB, 2).unwrap().ebx, 0);
    let basic = last.entry(1, 0).unwrap();
    assert_eq!((basic.ebx >> 16 & 0xFF, basic.edx >> 28 & 1), (8, 1));
    let amd = last.entry(0x8000_001E, 0).unwrap();
    assert_eq!((amd.eax, amd.ebx, amd.ecx), (13, 0x102, 1));
    assert!(has(&last, "topoext"), "threads are told of where AMD's are looked for");
    assert_eq!(last.entry(0x8000_0008, 0).unwrap().ecx & 0xF0FF, 3 << 12 | 5);
    let sharing = |index| last.entry(0x8000_001D, index).unwrap().eax >> 14 & 0xFFF;
    assert_eq!((sharing(0), sharing(2), sharing(3)), (1, 1, 7), "two threads share a core's caches, a socket its last");
    let one = guest(&emulated_epyc(), &cpu(CpuModel::HostModel));
    assert_eq!((one.entry(1, 0).unwrap().edx >> 28 & 1, one.entry(0x8000_0008, 0).unwrap().ecx & 0xFF), (0, 0));
}

#[test]
fn this_host_gives_tables_for_every_vcpu() {
    let plan = CpuPlan { topology: Topology::cores(3), ..cpu(CpuModel::HostModel) };
    let template = Template::new(&kvm_ioctls::Kvm::new().expect("/dev/kvm"), &plan).unwrap();
    for vcpu in 0..3 {
        let table = template.for_vcpu(vcpu).unwrap();
        let leaf = table.as_slice().iter().find(|entry| entry.function == 1).unwrap();
        assert_eq!((leaf.ebx >> 24, leaf.ecx >> 31), (u32::from(vcpu), 1), "its own id, and a hypervisor");
    }
}
