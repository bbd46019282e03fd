//! Rules on well-formed specs: pure, used by admission, by `vireo run` and by the shim alike.
//!
//! Each rule reports by path and goes on, so that a user sees everything at once. What only the node can know (does the
//! file exist, does the guest fit the limit) is not here.

mod boot;
mod cloud_init;
mod cpu;
mod credentials;
mod identity;
mod networks;
mod storage;
#[cfg(test)]
mod tests;
mod volumes;

use std::fmt;

use serde_json::Value;

use crate::Quantity;
use crate::kubevirt::v1::{DomainSpec, VirtualMachine, VirtualMachineInstanceSpec};

pub use identity::parse_uuid;
pub use networks::{GATEWAY_MAC, parse_mac};
pub(crate) use volumes::DISK_SIZE;

/// More vCPUs than this no machine of Vireo has: APIC ids have 8 bits, and 255 is the broadcast.
pub const MAX_VCPUS: u64 = 254;
/// A kernel's command line is at most this long, bytes (Linux' own bound on x86, less the final NUL).
pub const MAX_CMDLINE: usize = 2047;
/// The one type of machine that there is, as `domain.machine.type` and an instance's status name it.
pub const MACHINE_TYPE: &str = "vireo-1";
/// The least RAM that any guest is given, bytes.
pub const MIN_MEMORY: u64 = 1 << 20;

/// One thing wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field, from the document's root.
    pub path: String,
    /// What is wrong with it, and what would be right.
    pub what: String,
}

impl Problem {
    pub(crate) fn new(path: impl Into<String>, what: impl Into<String>) -> Self {
        Self { path: path.into(), what: what.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.what) } else { write!(f, "{}: {}", self.path, self.what) }
    }
}

/// Checks that a document is a `kind` of one of `versions` (each with its group), the first of which it is best written in.
pub(crate) fn type_meta(document: &Value, versions: &[&str], kind: &str) -> Result<(), Problem> {
    for (field, expected) in [("apiVersion", versions), ("kind", &[kind])] {
        match document.get(field).map(|value| value.as_str().unwrap_or("no string")) {
            Some(value) if expected.contains(&value) => {}
            Some(value) => {
                return Err(Problem::new(field, format!("{value:?} is not supported by vireo; {} is", expected[0])));
            }
            None => return Err(Problem::new(field, format!("missing; {} is needed", expected[0]))),
        }
    }
    Ok(())
}

/// The rules on a `VirtualMachine`.
pub fn virtual_machine(vm: &VirtualMachine) -> Vec<Problem> {
    let spec = &vm.spec;
    let mut problems: Vec<_> = one_strategy(spec.run_strategy.is_some(), spec.running.is_some()).into_iter().collect();
    if let (Some(strategy), None) = (spec.run_strategy.as_deref(), spec.running)
        && !matches!(strategy, "Always" | "Halted" | "Manual" | "RerunOnFailure" | "Once")
    {
        let what =
            format!("{strategy:?} is not supported by vireo; Always, Halted, Manual, RerunOnFailure and Once are");
        problems.push(Problem::new("spec.runStrategy", what));
    }
    problems.extend(instance_spec(&spec.template.spec, "spec.template.spec"));
    problems
}

/// One of `spec.runStrategy` and `spec.running` is named.
pub(crate) fn one_strategy(run_strategy: bool, running: bool) -> Option<Problem> {
    match (run_strategy, running) {
        (true, true) => Some(Problem::new("spec.running", "excludes spec.runStrategy; name one of them")),
        (false, false) => Some(Problem::new("spec.runStrategy", "missing; Always, for one")),
        _ => None,
    }
}

/// The rules on a `VirtualMachineInstanceSpec` that stands at `path`.
pub fn instance_spec(spec: &VirtualMachineInstanceSpec, path: &str) -> Vec<Problem> {
    let mut rules = Rules { path, problems: Vec::new() };
    if let Some(architecture) = spec.architecture.as_deref().filter(|a| *a != "amd64") {
        rules.refuse("architecture", format!("{architecture:?} is not supported by vireo; amd64 is"));
    }
    if let Some(strategy) = spec.start_strategy.as_deref().filter(|strategy| *strategy != "Paused") {
        rules.refuse("startStrategy", format!("{strategy:?} is not supported by vireo; Paused is"));
    }
    domain(&spec.domain, &mut rules);
    boot::check(spec, &mut rules);
    volumes::check(spec, &mut rules);
    credentials::check(spec, &mut rules);
    storage::check(spec, &mut rules);
    networks::check(spec, &mut rules);
    rules.problems
}

/// Collects problems below one path.
struct Rules<'a> {
    path: &'a str,
    problems: Vec<Problem>,
}

impl Rules<'_> {
    fn refuse(&mut self, field: impl fmt::Display, what: impl Into<String>) {
        self.problems.push(Problem::new(format!("{}.{field}", self.path), what));
    }
}

fn domain(domain: &DomainSpec, rules: &mut Rules<'_>) {
    cpu::check(domain, rules);
    for (field, amounts) in [("requests", &domain.resources.requests), ("limits", &domain.resources.limits)] {
        for name in amounts.keys().filter(|name| !matches!(name.as_str(), "cpu" | "memory")) {
            rules.refuse(format_args!("domain.resources.{field}.{name}"), "not supported by vireo; cpu and memory are");
        }
    }
    memory(domain, rules);
    machine(domain, rules);
    identity::check(domain, rules);
    let devices = &domain.devices;
    if devices.autoattach_serial_console == Some(false) {
        let what = "false is not supported by vireo; a machine's serial console is its pod's stdio";
        rules.refuse("domain.devices.autoattachSerialConsole", what);
    }
    if devices.autoattach_graphics_device == Some(true) {
        let what = "true is not supported by vireo; there is no graphics device yet";
        rules.refuse("domain.devices.autoattachGraphicsDevice", what);
    }
    let huge = domain.memory.as_ref().is_some_and(|memory| memory.hugepages.is_some());
    if devices.autoattach_mem_balloon == Some(true) && huge {
        let what = "true is not supported by vireo with memory.hugepages, which no guest gives back one by one";
        rules.refuse("domain.devices.autoattachMemBalloon", what);
    }
}

fn machine(domain: &DomainSpec, rules: &mut Rules<'_>) {
    let kind = domain.machine.as_ref().and_then(|machine| machine.kind.as_deref()).unwrap_or_default();
    if !matches!(kind, "" | "q35" | MACHINE_TYPE) {
        let what = format!("{kind:?} is not supported by vireo; {MACHINE_TYPE} is, and q35 is taken for it");
        rules.refuse("domain.machine.type", what);
    }
    let features = domain.features.unwrap_or_default();
    let absent = [
        ("acpi", features.acpi.is_some_and(|acpi| !acpi.is_enabled())),
        ("apic", features.apic.is_some_and(|apic| apic.enabled == Some(false))),
    ];
    for (name, _) in absent.into_iter().filter(|(_, is_absent)| *is_absent) {
        let what = "false is not supported by vireo; every machine has it";
        rules.refuse(format_args!("domain.features.{name}.enabled"), what);
    }
}

fn memory(domain: &DomainSpec, rules: &mut Rules<'_>) {
    let memory = domain.memory.as_ref();
    let guest = memory.and_then(|memory| memory.guest.as_ref());
    if let Some(guest) = guest.filter(|guest| guest.value() < MIN_MEMORY) {
        rules.refuse("domain.memory.guest", format!("{guest} is less than any guest needs; 128Mi, for one"));
    }
    for (field, amounts) in [("requests", &domain.resources.requests), ("limits", &domain.resources.limits)] {
        if let Some(amount) = amounts.get("memory").filter(|amount| amount.value() < MIN_MEMORY) {
            let what = format!("{amount} is less than any guest needs; 128Mi, for one");
            rules.refuse(format_args!("domain.resources.{field}.memory"), what);
        }
    }
    if let (Some(guest), Some(limit)) = (guest, domain.resources.limits.get("memory"))
        && guest.value() > limit.value()
    {
        let what = format!("{guest} is more than domain.resources.limits.memory, {limit}");
        rules.refuse("domain.memory.guest", what);
    }
    let Some(hugepages) = memory.and_then(|memory| memory.hugepages.as_ref()) else { return };
    let Some(page_size) = huge_page_size(&hugepages.page_size) else {
        let what = format!("{:?} is not supported by vireo; 2Mi and 1Gi are", hugepages.page_size);
        return rules.refuse("domain.memory.hugepages.pageSize", what);
    };
    if let Some(size) = domain.guest_memory().filter(|size| size % page_size != 0) {
        let what = format!("{size} bytes are no multiple of the huge page size, {}", hugepages.page_size);
        rules.refuse("domain.memory.guest", what);
    }
}

/// `2Mi` or `1Gi`, however written, in bytes.
pub fn huge_page_size(text: &str) -> Option<u64> {
    text.parse::<Quantity>().ok().map(|size| size.value()).filter(|size| matches!(*size, 0x20_0000 | 0x4000_0000))
}
