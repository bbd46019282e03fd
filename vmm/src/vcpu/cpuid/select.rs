//! Chooses what of a host's CPU the guest gets: a model, and what is said of single features. Pure: from table to table.

use super::features::{self, Feature, Register, STANDS_ON, Word};
use super::models::{self, Model, Vendor};
use super::table::Table;
use crate::config::{CpuFeature, CpuModel, CpuPlan, FeaturePolicy};

/// Features that a named model says nothing of: what a hypervisor adds, and what describes the topology.
const ALWAYS: [&str; 4] = ["hypervisor", "x2apic", "ht", "cmp_legacy"];
/// Nested virtualization: on only if asked for by name.
const NESTED: [&str; 3] = ["vmx", "smx", "svm"];
/// What no other host has in the same way: its time stamp counter.
const NOT_MIGRATABLE: [&str; 1] = ["invtsc"];
/// Names in a message before it is cut.
const MAX_NAMED: usize = 4;

/// Leaves that a named model keeps of the host's: the basic ones, caches and the like, topology, KVM's own.
const KEPT: [u32; 27] = [
    0,
    1,
    2,
    4,
    6,
    7,
    0xA,
    0xB,
    0xD,
    0x15,
    0x16,
    0x1F,
    0x8000_0000,
    0x8000_0001,
    0x8000_0002,
    0x8000_0003,
    0x8000_0004,
    0x8000_0005,
    0x8000_0006,
    0x8000_0007,
    0x8000_0008,
    0x8000_000A,
    0x8000_0019,
    0x8000_001A,
    0x8000_001D,
    0x8000_001E,
    0x8000_0021,
];
/// Bits of 0x8000_0001 EDX that repeat those of 1 EDX on AMD's CPUs.
const REPEATED: u32 = 0x0183_F3FF;
/// Components of the extended state (XCR0) that are a feature's; x87 and SSE are everybody's.
const STATE: [(&str, u64); 5] =
    [("avx", 1 << 2), ("mpx", 3 << 3), ("avx512f", 7 << 5), ("pku", 1 << 9), ("amx-tile", 3 << 17)];
const LEGACY_STATE: u64 = 3;
/// Bytes of the state that XSAVE always has room for: the legacy region and the header.
const LEGACY_SIZE: u32 = 576;

/// A model or feature that can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {what}")]
pub struct SelectError {
    /// The value below `cpu`: `model`, or `features[1]`.
    pub path: String,
    /// What is wrong with it.
    pub what: String,
}

/// What of `host` (all that its KVM offers) the guest gets. Topology is not looked at.
pub fn select(host: &Table, cpu: &CpuPlan) -> Result<Table, SelectError> {
    let wrong = |path: &str, what| SelectError { path: path.to_owned(), what };
    let mut guest = host.clone();
    let named = match &cpu.model {
        CpuModel::HostPassthrough => None,
        CpuModel::HostModel => {
            switch_off(&mut guest, &NOT_MIGRATABLE);
            None
        }
        CpuModel::Named(name) => Some(models::by_name(name).ok_or_else(|| {
            let what = format!(
                "{name:?} is not a CPU model known to vireo; host-model, host-passthrough and names such as EPYC or \
                 Skylake-Server are"
            );
            wrong("model", what)
        })?),
    };
    switch_off(&mut guest, &NESTED);
    if let Some(model) = named {
        become_model(&mut guest, host, model).map_err(|what| wrong("model", what))?;
    }
    let mut forced = Vec::new();
    for (i, feature) in cpu.features.iter().enumerate() {
        apply(&mut guest, host, feature, &mut forced).map_err(|what| wrong(&format!("features[{i}]"), what))?;
    }
    settle(&mut guest, &forced);
    if let Some(model) = named {
        keep_only(&mut guest, model);
    }
    limit_state(&mut guest, named.is_some());
    if !has(&guest, "svm") {
        guest.0.retain(|entry| entry.function != 0x8000_000A);
    }
    if cpu.hide_kvm {
        guest.0.retain(|entry| entry.function >> 28 != 4);
    }
    Ok(guest)
}

fn has(table: &Table, name: &str) -> bool {
    features::by_name(name).is_some_and(|feature| table.has(feature))
}

fn switch_off(table: &mut Table, names: &[&str]) {
    for feature in names.iter().filter_map(|name| features::by_name(name)) {
        table.set(feature, false);
    }
}

/// Leaves the features of `model`, if the host has them all.
fn become_model(guest: &mut Table, host: &Table, model: Model) -> Result<(), String> {
    let Model { name, vendor, .. } = model;
    if vendor != Vendor::Any && vendor != host.vendor() {
        let whose = if vendor == Vendor::Intel { "Intel" } else { "AMD" };
        return Err(format!(
            "{name:?} is a CPU of {whose}'s, which this host's is not; host-model, qemu64 or another maker's model would run here"
        ));
    }
    let wanted: Vec<(&str, Feature)> =
        model.features().into_iter().filter_map(|name| Some((name, features::by_name(name)?))).collect();
    let mut missing: Vec<&str> = wanted.iter().filter(|(_, f)| !host.has(*f)).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        missing.sort_unstable();
        let more = missing.len().saturating_sub(MAX_NAMED);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        let named = missing[..missing.len() - more].join(", ");
        return Err(format!("{name:?} needs {named}{rest}, which this host's KVM does not offer"));
    }
    for word in features::words() {
        guest.set_word(word, 0);
    }
    let always = ALWAYS.into_iter().filter_map(features::by_name).filter(|feature| host.has(*feature));
    for feature in wanted.into_iter().map(|(_, feature)| feature).chain(always) {
        guest.set(feature, true);
    }
    Ok(())
}

/// Does what is said of one feature.
fn apply(guest: &mut Table, host: &Table, asked: &CpuFeature, forced: &mut Vec<Feature>) -> Result<(), String> {
    let name = &asked.name;
    let feature = features::by_name(name).ok_or_else(|| format!("{name:?} is not a CPU feature known to vireo"))?;
    match asked.policy {
        FeaturePolicy::Require if !host.has(feature) => {
            return Err(format!("{name:?} is required, which this host's KVM does not offer"));
        }
        FeaturePolicy::Forbid if host.has(feature) => {
            return Err(format!(
                "{name:?} is forbidden, which this host's KVM offers; disable keeps it from the guest"
            ));
        }
        FeaturePolicy::Force => {
            guest.set(feature, true);
            forced.push(feature);
        }
        FeaturePolicy::Require => guest.set(feature, true),
        FeaturePolicy::Optional if host.has(feature) => guest.set(feature, true),
        FeaturePolicy::Optional => {}
        FeaturePolicy::Disable | FeaturePolicy::Forbid => guest.set(feature, false),
    }
    Ok(())
}

/// Takes away what stands on something that isn't there, unless it was forced; and repeats what AMD's CPUs say twice.
fn settle(guest: &mut Table, forced: &[Feature]) {
    // In the table's order a feature comes after what it stands on.
    for (name, base) in STANDS_ON {
        if let Some(feature) = features::by_name(name).filter(|feature| !forced.contains(feature))
            && !has(guest, base)
        {
            guest.set(feature, false);
        }
    }
    if guest.vendor() == Vendor::Amd {
        let basic = guest.word(Word { function: 1, index: 0, register: Register::Edx });
        let word = Word { function: 0x8000_0001, index: 0, register: Register::Edx };
        guest.set_word(word, guest.word(word) & !REPEATED | basic & REPEATED);
    }
}

/// Leaves nothing that a named model doesn't tell of, and gives it its name.
fn keep_only(guest: &mut Table, model: Model) {
    guest.0.retain(|entry| KEPT.contains(&entry.function) || entry.function >> 28 == 4);
    guest.entry_mut(1, 0).eax = model.version();
    if guest.vendor() == Vendor::Amd {
        guest.entry_mut(0x8000_0001, 0).eax = model.version();
    }
    let mut brand = [0; 48];
    brand[..model.name.len()].copy_from_slice(model.name.as_bytes());
    for (function, bytes) in (0x8000_0002..).zip(brand.chunks_exact(16)) {
        let word = |at: usize| bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let entry = guest.entry_mut(function, 0);
        (entry.eax, entry.ebx, entry.ecx, entry.edx) = (word(0), word(4), word(8), word(12));
    }
}

/// Makes leaf 0xD tell of the state of the features that are there, and no other (Intel SDM vol. 1 §13.2).
fn limit_state(guest: &mut Table, known_only: bool) {
    if !has(guest, "xsave") {
        return guest.0.retain(|entry| entry.function != 0xD);
    }
    let Some(main) = guest.entry(0xD, 0) else { return };
    let mut user = u64::from(main.edx) << 32 | u64::from(main.eax);
    let mut known = LEGACY_STATE;
    for (name, components) in STATE {
        known |= components;
        if !has(guest, name) {
            user &= !components;
        }
    }
    if known_only {
        user &= known;
    }
    let supervisor = match guest.entry(0xD, 1) {
        Some(entry) if has(guest, "xsaves") && !known_only => u64::from(entry.edx) << 32 | u64::from(entry.ecx),
        _ => 0,
    };
    let all = user | supervisor;
    guest
        .0
        .retain(|entry| entry.function != 0xD || entry.index < 2 || all.checked_shr(entry.index).unwrap_or(0) & 1 != 0);
    let parts = guest.0.iter().filter(|entry| entry.function == 0xD && entry.index >= 2 && entry.ecx & 1 == 0);
    let size = parts.map(|entry| entry.ebx.saturating_add(entry.eax)).max().unwrap_or(0).max(LEGACY_SIZE);
    let low = |value: u64| u32::try_from(value & 0xFFFF_FFFF).unwrap_or(0);
    let main = guest.entry_mut(0xD, 0);
    // KVM fits EBX to what the guest has switched on.
    (main.eax, main.edx, main.ebx, main.ecx) = (low(user), low(user >> 32), size, size);
    if guest.entry(0xD, 1).is_some() {
        let extra = guest.entry_mut(0xD, 1);
        (extra.ecx, extra.edx) = (low(supervisor), low(supervisor >> 32));
    }
}
