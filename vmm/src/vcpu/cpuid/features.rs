//! The names of CPU features, as libvirt and so KubeVirt spell them, and the CPUID bit that each one is (Intel SDM vol. 2A CPUID, AMD
//! APM vol. 3 appendix E).

/// A register of a CPUID answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// One 32-bit word of feature bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Word {
    pub function: u32,
    pub index: u32,
    pub register: Register,
}

/// A feature's bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    pub word: Word,
    /// 0 to 31.
    pub bit: u32,
}

const fn word(function: u32, index: u32, register: Register) -> Word {
    Word { function, index, register }
}

/// A word of features, and the names of its bits from bit 0 on; `-` is a bit without a name.
struct Names(Word, &'static str);

use Register::{Eax, Ebx, Ecx, Edx};

static NAMES: [Names; 17] = [
    Names(
        word(1, 0, Edx),
        "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - ds acpi mmx fxsr sse sse2 ss ht tm \
         ia64 pbe",
    ),
    Names(
        word(1, 0, Ecx),
        "pni pclmuldq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid - fma cx16 xtpr pdcm - pcid dca sse4.1 sse4.2 x2apic movbe \
         popcnt tsc-deadline aes xsave osxsave avx f16c rdrand hypervisor",
    ),
    Names(word(6, 0, Eax), "- - arat"),
    Names(
        word(7, 0, Ebx),
        "fsgsbase tsc_adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm cmt - mpx - avx512f avx512dq rdseed adx smap avx512ifma \
         - clflushopt clwb intel-pt avx512pf avx512er avx512cd sha-ni avx512bw avx512vl",
    ),
    Names(
        word(7, 0, Ecx),
        "- avx512vbmi umip pku ospke waitpkg avx512vbmi2 shstk gfni vaes vpclmulqdq avx512vnni avx512bitalg - avx512-vpopcntdq - la57 \
         - - - - - rdpid - bus-lock-detect cldemote - movdiri movdir64b - sgxlc pks",
    ),
    Names(
        word(7, 0, Edx),
        "- - avx512-4vnniw avx512-4fmaps fsrm uintr - - avx512-vp2intersect - md-clear - - - serialize - tsx-ldtrk - - arch-lbr ibt - \
         amx-bf16 avx512-fp16 amx-tile amx-int8 spec-ctrl stibp flush-l1d arch-capabilities core-capability ssbd",
    ),
    Names(
        word(7, 1, Eax),
        "sha512 sm3 sm4 - avx-vnni avx512-bf16 lass cmpccxadd - - fzrm fsrs fsrc - - - - fred lkgs wrmsrns - amx-fp16 - avx-ifma",
    ),
    Names(word(7, 1, Edx), "- - - - avx-vnni-int8 avx-ne-convert - - amx-complex - - - - - prefetchiti"),
    Names(word(7, 2, Edx), "intel-psfd ipred-ctrl rrsba-ctrl ddpd-u bhi-ctrl mcdt-no"),
    Names(word(0xD, 1, Eax), "xsaveopt xsavec xgetbv1 xsaves xfd"),
    Names(
        word(0x8000_0001, 0, Edx),
        "- - - - - - - - - - - syscall - - - - - - - - nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
    ),
    Names(
        word(0x8000_0001, 0, Ecx),
        "lahf_lm cmp_legacy svm extapic cr8legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp fma4 tce - \
         nodeid_msr - tbm topoext perfctr_core perfctr_nb",
    ),
    Names(word(0x8000_0007, 0, Edx), "- - - - - - - - invtsc"),
    Names(
        word(0x8000_0008, 0, Ebx),
        "clzero - xsaveerptr - - - - - - wbnoinvd - - ibpb - ibrs amd-stibp - stibp-always-on - - - - - - amd-ssbd virt-ssbd \
         amd-no-ssb - amd-psfd",
    ),
    Names(
        word(0x8000_000A, 0, Edx),
        "npt lbrv svm-lock nrip-save tsc-scale vmcb-clean flushbyasid decodeassists - - pause-filter - \
         pfthreshold avic - v-vmsave-vmload vgif",
    ),
    Names(word(0x8000_001F, 0, Eax), "sme sev - sev-es"),
    Names(
        word(0x8000_0021, 0, Eax),
        "no-nested-data-bp - lfence-always-serializing - - - null-sel-clr-base - auto-ibrs",
    ),
];

/// Other spellings that QEMU and older libvirts know.
static ALIASES: [(&str, &str); 9] = [
    ("sse3", "pni"),
    ("pclmulqdq", "pclmuldq"),
    ("sse4-1", "sse4.1"),
    ("sse4-2", "sse4.2"),
    ("sse4_1", "sse4.1"),
    ("sse4_2", "sse4.2"),
    ("lzcnt", "abm"),
    ("ffxsr", "fxsr_opt"),
    ("i64", "lm"),
];

/// What a feature stands on: without the second, the first is of no use, and goes too.
pub static STANDS_ON: [(&str, &str); 32] = [
    ("xsaveopt", "xsave"),
    ("xsavec", "xsave"),
    ("xgetbv1", "xsave"),
    ("xsaves", "xsave"),
    ("xfd", "xsave"),
    ("avx", "xsave"),
    ("pku", "xsave"),
    ("avx2", "avx"),
    ("fma", "avx"),
    ("f16c", "avx"),
    ("fma4", "avx"),
    ("xop", "avx"),
    ("vaes", "avx"),
    ("vpclmulqdq", "avx"),
    ("avx-vnni", "avx2"),
    ("avx-ifma", "avx2"),
    ("avx512f", "avx2"),
    ("avx512dq", "avx512f"),
    ("avx512ifma", "avx512f"),
    ("avx512cd", "avx512f"),
    ("avx512bw", "avx512f"),
    ("avx512vl", "avx512f"),
    ("avx512vbmi", "avx512f"),
    ("avx512vbmi2", "avx512f"),
    ("avx512vnni", "avx512f"),
    ("avx512bitalg", "avx512f"),
    ("avx512-vpopcntdq", "avx512f"),
    ("avx512-bf16", "avx512f"),
    ("avx512-fp16", "avx512f"),
    ("avx512-vp2intersect", "avx512f"),
    ("tsx-ldtrk", "rtm"),
    ("amx-int8", "amx-tile"),
];

/// The words that hold features.
pub fn words() -> impl Iterator<Item = Word> {
    NAMES.iter().map(|names| names.0)
}

/// The feature `name`, if there is one.
pub fn by_name(name: &str) -> Option<Feature> {
    if name == "-" {
        return None;
    }
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
    // libvirt and QEMU don't agree on dashes and underscores.
    let same =
        |known: &str| known.len() == name.len() && known.bytes().zip(name.bytes()).all(|(a, b)| dash(a) == dash(b));
    NAMES.iter().find_map(|Names(word, names)| {
        let bit = (0..).zip(names.split_ascii_whitespace()).find(|(_, known)| *known != "-" && same(known))?.0;
        Some(Feature { word: *word, bit })
    })
}

fn dash(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str) -> (u32, u32, Register, u32) {
        let Feature { word: Word { function, index, register }, bit } = by_name(name).unwrap();
        (function, index, register, bit)
    }

    #[test]
    fn names_are_where_the_manuals_say() {
        let known = [
            ("fpu", 1, 0, Edx, 0),
            ("apic", 1, 0, Edx, 9),
            ("sep", 1, 0, Edx, 11),
            ("clflush", 1, 0, Edx, 19),
            ("mmx", 1, 0, Edx, 23),
            ("ht", 1, 0, Edx, 28),
            ("pbe", 1, 0, Edx, 31),
            ("pni", 1, 0, Ecx, 0),
            ("vmx", 1, 0, Ecx, 5),
            ("ssse3", 1, 0, Ecx, 9),
            ("fma", 1, 0, Ecx, 12),
            ("cx16", 1, 0, Ecx, 13),
            ("pcid", 1, 0, Ecx, 17),
            ("sse4.1", 1, 0, Ecx, 19),
            ("x2apic", 1, 0, Ecx, 21),
            ("tsc-deadline", 1, 0, Ecx, 24),
            ("avx", 1, 0, Ecx, 28),
            ("hypervisor", 1, 0, Ecx, 31),
            ("arat", 6, 0, Eax, 2),
            ("avx2", 7, 0, Ebx, 5),
            ("smep", 7, 0, Ebx, 7),
            ("rtm", 7, 0, Ebx, 11),
            ("mpx", 7, 0, Ebx, 14),
            ("avx512f", 7, 0, Ebx, 16),
            ("smap", 7, 0, Ebx, 20),
            ("clflushopt", 7, 0, Ebx, 23),
            ("sha-ni", 7, 0, Ebx, 29),
            ("avx512vl", 7, 0, Ebx, 31),
            ("umip", 7, 0, Ecx, 2),
            ("gfni", 7, 0, Ecx, 8),
            ("avx512-vpopcntdq", 7, 0, Ecx, 14),
            ("la57", 7, 0, Ecx, 16),
            ("rdpid", 7, 0, Ecx, 22),
            ("bus-lock-detect", 7, 0, Ecx, 24),
            ("movdir64b", 7, 0, Ecx, 28),
            ("pks", 7, 0, Ecx, 31),
            ("fsrm", 7, 0, Edx, 4),
            ("md-clear", 7, 0, Edx, 10),
            ("serialize", 7, 0, Edx, 14),
            ("ibt", 7, 0, Edx, 20),
            ("amx-tile", 7, 0, Edx, 24),
            ("spec-ctrl", 7, 0, Edx, 26),
            ("arch-capabilities", 7, 0, Edx, 29),
            ("ssbd", 7, 0, Edx, 31),
            ("avx-vnni", 7, 1, Eax, 4),
            ("fsrc", 7, 1, Eax, 12),
            ("fred", 7, 1, Eax, 17),
            ("avx-ifma", 7, 1, Eax, 23),
            ("prefetchiti", 7, 1, Edx, 14),
            ("mcdt-no", 7, 2, Edx, 5),
            ("xsaves", 0xD, 1, Eax, 3),
            ("syscall", 0x8000_0001, 0, Edx, 11),
            ("nx", 0x8000_0001, 0, Edx, 20),
            ("mmxext", 0x8000_0001, 0, Edx, 22),
            ("pdpe1gb", 0x8000_0001, 0, Edx, 26),
            ("lm", 0x8000_0001, 0, Edx, 29),
            ("3dnow", 0x8000_0001, 0, Edx, 31),
            ("svm", 0x8000_0001, 0, Ecx, 2),
            ("abm", 0x8000_0001, 0, Ecx, 5),
            ("xop", 0x8000_0001, 0, Ecx, 11),
            ("fma4", 0x8000_0001, 0, Ecx, 16),
            ("tbm", 0x8000_0001, 0, Ecx, 21),
            ("topoext", 0x8000_0001, 0, Ecx, 22),
            ("perfctr_core", 0x8000_0001, 0, Ecx, 23),
            ("invtsc", 0x8000_0007, 0, Edx, 8),
            ("wbnoinvd", 0x8000_0008, 0, Ebx, 9),
            ("ibpb", 0x8000_0008, 0, Ebx, 12),
            ("ibrs", 0x8000_0008, 0, Ebx, 14),
            ("stibp-always-on", 0x8000_0008, 0, Ebx, 17),
            ("amd-ssbd", 0x8000_0008, 0, Ebx, 24),
            ("amd-psfd", 0x8000_0008, 0, Ebx, 28),
            ("vgif", 0x8000_000A, 0, Edx, 16),
            ("auto-ibrs", 0x8000_0021, 0, Eax, 8),
        ];
        for (name, function, index, register, bit) in known {
            assert_eq!(at(name), (function, index, register, bit), "{name}");
        }
    }

    #[test]
    fn spellings_meet_and_strangers_are_none() {
        assert_eq!((at("sse4_1"), at("sse3"), at("tsc_deadline")), (at("sse4.1"), at("pni"), at("tsc-deadline")));
        assert!(["", "-", "avx3", "AVX"].iter().all(|name| by_name(name).is_none()));
        assert!(STANDS_ON.iter().all(|(feature, base)| by_name(feature).is_some() && by_name(base).is_some()));
    }
}
