//! Named CPU models: the features of a generation of processors, so that a guest sees the same CPU on every host that has them.
//!
//! Names are those of libvirt and QEMU, each with the features of QEMU's first version of the model as far as a guest of Vireo can have
//! them: `monitor` and performance counters are left out, as are Intel's AMX and MPX; nested virtualization is a feature
//! to be asked for. `-IBRS`, `-noTSX` and `-IBPB` are the base model with what their names say.

/// Whose processors a model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    Intel,
    Amd,
    /// Any vendor's: the guest sees the host's.
    Any,
}

/// A model.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    pub name: &'static str,
    pub vendor: Vendor,
    /// Family, model and stepping as CPUID leaf 1 gives them.
    pub signature: (u32, u32, u32),
    /// The model whose features it has, too.
    base: &'static str,
    /// Feature names; those after a `!` it has not, though its base has.
    features: &'static str,
}

const fn model(
    name: &'static str,
    vendor: Vendor,
    signature: (u32, u32, u32),
    base: &'static str,
    features: &'static str,
) -> Model {
    Model { name, vendor, signature, base, features }
}

use Vendor::{Amd, Any, Intel};

static MODELS: &[Model] = &[
    model(
        "kvm64",
        Any,
        (15, 6, 1),
        "",
        "apic clflush cmov cx16 cx8 de fpu fxsr lm mca mce mmx msr mtrr nx pae pat pge pni pse pse36 sep sse sse2 syscall tsc",
    ),
    model("qemu64", Any, (15, 107, 1), "kvm64", "lahf_lm"),
    model("Nehalem", Intel, (6, 26, 3), "qemu64", "popcnt sse4.1 sse4.2 ssse3 vme"),
    model("Nehalem-IBRS", Intel, (6, 26, 3), "Nehalem", "spec-ctrl"),
    model("Westmere", Intel, (6, 44, 1), "Nehalem", "aes pclmuldq"),
    model("Westmere-IBRS", Intel, (6, 44, 1), "Westmere", "spec-ctrl"),
    model("SandyBridge", Intel, (6, 42, 1), "Westmere", "avx rdtscp tsc-deadline x2apic xsave xsaveopt"),
    model("SandyBridge-IBRS", Intel, (6, 42, 1), "SandyBridge", "spec-ctrl"),
    model("IvyBridge", Intel, (6, 58, 9), "SandyBridge", "erms f16c fsgsbase rdrand smep"),
    model("IvyBridge-IBRS", Intel, (6, 58, 9), "IvyBridge", "spec-ctrl"),
    model("Haswell-noTSX", Intel, (6, 60, 1), "IvyBridge", "abm avx2 bmi1 bmi2 fma invpcid movbe pcid"),
    model("Haswell-noTSX-IBRS", Intel, (6, 60, 1), "Haswell-noTSX", "spec-ctrl"),
    model("Haswell", Intel, (6, 60, 4), "Haswell-noTSX", "hle rtm"),
    model("Haswell-IBRS", Intel, (6, 60, 4), "Haswell", "spec-ctrl"),
    model("Broadwell-noTSX", Intel, (6, 61, 2), "Haswell-noTSX", "3dnowprefetch adx rdseed smap"),
    model("Broadwell-noTSX-IBRS", Intel, (6, 61, 2), "Broadwell-noTSX", "spec-ctrl"),
    model("Broadwell", Intel, (6, 61, 2), "Broadwell-noTSX", "hle rtm"),
    model("Broadwell-IBRS", Intel, (6, 61, 2), "Broadwell", "spec-ctrl"),
    model("Skylake-Client", Intel, (6, 94, 3), "Broadwell", "xgetbv1 xsavec"),
    model("Skylake-Client-IBRS", Intel, (6, 94, 3), "Skylake-Client", "spec-ctrl"),
    model("Skylake-Client-noTSX-IBRS", Intel, (6, 94, 3), "Skylake-Client-IBRS", "!hle !rtm"),
    model(
        "Skylake-Server",
        Intel,
        (6, 85, 4),
        "Skylake-Client",
        "avx512bw avx512cd avx512dq avx512f avx512vl clwb pdpe1gb pku",
    ),
    model("Skylake-Server-IBRS", Intel, (6, 85, 4), "Skylake-Server", "spec-ctrl"),
    model("Skylake-Server-noTSX-IBRS", Intel, (6, 85, 4), "Skylake-Server-IBRS", "!hle !rtm"),
    model("Cascadelake-Server", Intel, (6, 85, 6), "Skylake-Server", "avx512vnni spec-ctrl ssbd"),
    model("Cascadelake-Server-noTSX", Intel, (6, 85, 6), "Cascadelake-Server", "!hle !rtm"),
    model(
        "Icelake-Server",
        Intel,
        (6, 134, 0),
        "Cascadelake-Server",
        "avx512-vpopcntdq avx512bitalg avx512vbmi avx512vbmi2 gfni la57 umip vaes vpclmulqdq wbnoinvd",
    ),
    model("Icelake-Server-noTSX", Intel, (6, 134, 0), "Icelake-Server", "!hle !rtm"),
    model(
        "SapphireRapids",
        Intel,
        (6, 143, 4),
        "Icelake-Server",
        "arch-capabilities avx-vnni avx512-bf16 avx512-fp16 avx512ifma bus-lock-detect clflushopt fsrc fsrm fsrs fzrm rdpid serialize \
         sha-ni tsx-ldtrk xsaves",
    ),
    model("Opteron_G1", Amd, (15, 6, 1), "kvm64", "!cx16 vme"),
    model("Opteron_G2", Amd, (15, 6, 1), "Opteron_G1", "cx16 lahf_lm"),
    model("Opteron_G3", Amd, (16, 2, 3), "Opteron_G2", "abm misalignsse popcnt sse4a"),
    model(
        "Opteron_G4",
        Amd,
        (21, 1, 2),
        "Opteron_G3",
        "3dnowprefetch aes avx fma4 pclmuldq pdpe1gb rdtscp sse4.1 sse4.2 ssse3 xop xsave",
    ),
    model("Opteron_G5", Amd, (21, 2, 0), "Opteron_G4", "f16c fma tbm"),
    model(
        "EPYC",
        Amd,
        (23, 1, 2),
        "Opteron_G5",
        "!fma4 !tbm !xop adx arat avx2 bmi1 bmi2 clflushopt cr8legacy fsgsbase fxsr_opt mmxext movbe osvw rdrand rdseed sha-ni smap \
         smep topoext xgetbv1 xsavec xsaveopt",
    ),
    model("EPYC-IBPB", Amd, (23, 1, 2), "EPYC", "ibpb"),
    model("EPYC-Rome", Amd, (23, 49, 0), "EPYC-IBPB", "amd-stibp clwb clzero rdpid umip wbnoinvd xsaveerptr"),
    model(
        "EPYC-Milan",
        Amd,
        (25, 1, 1),
        "EPYC-Rome",
        "amd-ssbd erms fsrm ibrs invpcid pcid pku vaes vpclmulqdq xsaves",
    ),
    model(
        "EPYC-Genoa",
        Amd,
        (25, 17, 0),
        "EPYC-Milan",
        "amd-psfd auto-ibrs avx512-bf16 avx512-vpopcntdq avx512bitalg avx512bw avx512cd avx512dq avx512f avx512ifma avx512vbmi \
         avx512vbmi2 avx512vl avx512vnni gfni la57 lfence-always-serializing no-nested-data-bp null-sel-clr-base stibp-always-on",
    ),
];

/// The model `name`, if there is one.
pub fn by_name(name: &str) -> Option<Model> {
    MODELS.iter().find(|model| model.name == name).copied()
}

impl Model {
    /// The names of its features, in no order.
    pub fn features(self) -> Vec<&'static str> {
        let mut features = by_name(self.base).map_or_else(Vec::new, Self::features);
        for name in self.features.split_ascii_whitespace() {
            match name.strip_prefix('!') {
                Some(absent) => features.retain(|feature| *feature != absent),
                None => features.push(name),
            }
        }
        features
    }

    /// CPUID leaf 1 EAX (Intel SDM vol. 2A CPUID, "Version Information").
    pub fn version(self) -> u32 {
        let (family, model, stepping) = self.signature;
        let (base, extended) = if family > 15 { (15, family - 15) } else { (family, 0) };
        extended << 20 | (model >> 4) << 16 | base << 8 | (model & 15) << 4 | stepping
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::cpuid::features;

    #[test]
    fn every_model_is_made_of_known_features_each_once() {
        for model in MODELS {
            assert!(model.base.is_empty() || by_name(model.base).is_some(), "{}", model.name);
            let mut names = model.features();
            assert!(names.iter().all(|name| features::by_name(name).is_some()), "{}: {names:?}", model.name);
            names.sort_unstable();
            assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{}: {names:?}", model.name);
            assert!(
                !names.iter().any(|name| ["svm", "vmx", "monitor", "perfctr_core"].contains(name)),
                "{}",
                model.name
            );
        }
        assert!(by_name("Nothing").is_none() && by_name("").is_none());
    }

    #[test]
    fn variants_differ_in_what_their_names_say() {
        let has = |name: &str, feature: &str| by_name(name).unwrap().features().contains(&feature);
        assert!(has("Haswell", "rtm") && !has("Haswell-noTSX", "rtm"));
        assert!(has("Skylake-Server-noTSX-IBRS", "spec-ctrl") && !has("Skylake-Server-noTSX-IBRS", "hle"));
        assert!(has("EPYC-IBPB", "ibpb") && !has("EPYC", "ibpb"));
        assert!(has("Icelake-Server", "avx512f") && has("EPYC-Genoa", "avx512f") && !has("EPYC-Milan", "avx512f"));
    }

    #[test]
    fn signatures_are_coded_as_cpuid_does() {
        assert_eq!(by_name("EPYC").unwrap().version(), 0x0080_0F12);
        assert_eq!(by_name("Icelake-Server").unwrap().version(), 0x0008_0660);
        assert_eq!(by_name("Haswell").unwrap().version(), 0x0003_06C4);
        assert_eq!(by_name("EPYC-Genoa").unwrap().version(), 0x00A1_0F10);
    }
}
