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

/// Checks that a document is a `kubevirt.io/v1` `VirtualMachine`.
pub(crate) fn type_meta(document: &Value) -> Result<(), Problem> {
    for (field, expected) in [("apiVersion", "kubevirt.io/v1"), ("kind", "VirtualMachine")] {
        match document.get(field).map(|value| value.as_str().unwrap_or("no string")) {
            Some(value) if value == expected => {}
            Some(value) => {
                return Err(Problem::new(field, format!("{value:?} is not supported by vireo; {expected} is")));
            }
            None => return Err(Problem::new(field, format!("missing; {expected} is needed"))),
        }
    }
    Ok(())
}

/// The rules on a `VirtualMachine`.
pub fn virtual_machine(vm: &VirtualMachine) -> Vec<Problem> {
    let mut problems = Vec::new();
    let spec = &vm.spec;
    match (spec.run_strategy.as_deref(), spec.running) {
        (Some(_), Some(_)) => {
            problems.push(Problem::new("spec.running", "excludes spec.runStrategy; name one of them"));
        }
        (None, None) => problems.push(Problem::new("spec.runStrategy", "missing; Always, for one")),
        (Some("Always" | "Halted" | "Manual" | "RerunOnFailure" | "Once") | None, _) => {}
        (Some(other), None) => problems.push(Problem::new(
            "spec.runStrategy",
            format!("{other:?} is not supported by vireo; Always, Halted, Manual, RerunOnFailure and Once are"),
        )),
    }
    problems.extend(instance_spec(&spec.template.spec, "spec.template.spec"));
    problems
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
