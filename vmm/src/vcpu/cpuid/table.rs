//! A CPUID table that can be asked for and given single words.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::features::{Feature, Register, Word};
use super::models::Vendor;

/// Functions whose answer depends on the index in ECX.
const INDEXED: [u32; 8] = [4, 7, 0xB, 0xD, 0x14, 0x1F, 0x8000_001D, 0x8000_0026];

/// All answers of one CPU.
#[derive(Debug, Clone)]
pub struct Table(pub Vec<kvm_cpuid_entry2>);

impl Table {
    /// One answer.
    pub fn entry(&self, function: u32, index: u32) -> Option<&kvm_cpuid_entry2> {
        self.0.iter().find(|entry| (entry.function, entry.index) == (function, index))
    }

    /// One answer, made if it isn't there.
    pub fn entry_mut(&mut self, function: u32, index: u32) -> &mut kvm_cpuid_entry2 {
        let at = self.0.iter().position(|entry| (entry.function, entry.index) == (function, index));
        let at = at.unwrap_or_else(|| {
            let flags = if INDEXED.contains(&function) { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 };
            self.0.push(kvm_cpuid_entry2 { function, index, flags, ..Default::default() });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    /// One word; 0 where there is no such answer.
    pub fn word(&self, word: Word) -> u32 {
        self.entry(word.function, word.index).map_or(0, |entry| match word.register {
            Register::Eax => entry.eax,
            Register::Ebx => entry.ebx,
            Register::Ecx => entry.ecx,
            Register::Edx => entry.edx,
        })
    }

    /// Sets one word. An answer that isn't there stays away for zeros.
    pub fn set_word(&mut self, word: Word, value: u32) {
        if value == 0 && self.entry(word.function, word.index).is_none() {
            return;
        }
        let entry = self.entry_mut(word.function, word.index);
        match word.register {
            Register::Eax => entry.eax = value,
            Register::Ebx => entry.ebx = value,
            Register::Ecx => entry.ecx = value,
            Register::Edx => entry.edx = value,
        }
    }

    /// Whether a feature is there.
    pub fn has(&self, feature: Feature) -> bool {
        self.word(feature.word) >> feature.bit & 1 != 0
    }

    /// Switches a feature on or off.
    pub fn set(&mut self, feature: Feature, on: bool) {
        let (word, bit) = (self.word(feature.word), 1 << feature.bit);
        self.set_word(feature.word, if on { word | bit } else { word & !bit });
    }

    /// Whose CPU it is.
    pub fn vendor(&self) -> Vendor {
        let name = self.entry(0, 0).map(|entry| [entry.ebx, entry.edx, entry.ecx].map(u32::to_le_bytes).concat());
        match name.as_deref() {
            Some(b"GenuineIntel") => Vendor::Intel,
            // Hygon's are AMD's under another name.
            Some(b"AuthenticAMD" | b"HygonGenuine") => Vendor::Amd,
            _ => Vendor::Any,
        }
    }
}
