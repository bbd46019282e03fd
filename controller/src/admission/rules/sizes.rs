//! Rules on what a machine's size and its pod's requests have to do with each other.

use vireo_runtimeclass::Quantity;
use vireo_runtimeclass::kubevirt::v1::{Cpu, DomainSpec, ResourceRequirements};
use vireo_runtimeclass::validate::MAX_VCPUS;

use crate::admission::verdict::Found;

pub(crate) fn sizes(domain: &DomainSpec, path: &str, found: &mut Found) {
    let ResourceRequirements { requests, limits } = &domain.resources;
    for (name, request) in requests {
        if let Some(limit) = limits.get(name).filter(|limit| !limit.is_zero() && request.milli() > limit.milli()) {
            let what = format!("{request} is more than domain.resources.limits.{name}, {limit}");
            found.refuse(format_args!("{path}.domain.resources.requests.{name}"), what);
        }
    }
    // The types' own rule looks at what was written, where a request may hide what the limit makes.
    if let Some(vcpus) = domain.vcpus().filter(|vcpus| *vcpus > MAX_VCPUS) {
        found.refuse(format_args!("{path}.domain.cpu"), format!("{vcpus} vCPUs; a machine has at most {MAX_VCPUS}"));
    }
    if domain.cpu.as_ref().is_some_and(|cpu| cpu.dedicated_cpu_placement == Some(true)) {
        dedicated(domain, path, found);
    }
}

/// Memory is named somewhere: an instance has no other way to get any.
pub(crate) fn has_memory(domain: &DomainSpec, path: &str, found: &mut Found) {
    let hugepages = domain.memory.as_ref().is_some_and(|memory| memory.hugepages.is_some());
    if domain.guest_memory().is_none() && !hugepages {
        found.refuse(format_args!("{path}.domain.memory.guest"), "missing; 1Gi, for one");
    }
}

/// CPUs of one's own are whole ones, and as many as there are vCPUs.
fn dedicated(domain: &DomainSpec, path: &str, found: &mut Found) {
    let ResourceRequirements { requests, limits } = &domain.resources;
    let amounts = [("requests", requests.get("cpu")), ("limits", limits.get("cpu"))];
    let amounts = amounts.into_iter().filter_map(|(field, amount)| Some((field, amount?)));
    let amounts: Vec<(&str, &Quantity)> = amounts.filter(|(_, amount)| !amount.is_zero()).collect();
    for (field, amount) in &amounts {
        if amount.milli() % 1000 != 0 {
            let what = format!("{amount} is no whole number, which dedicatedCpuPlacement needs");
            found.refuse(format_args!("{path}.domain.resources.{field}.cpu"), what);
        }
    }
    let at = format!("{path}.domain.cpu.dedicatedCpuPlacement");
    let layout = domain.cpu.as_ref().and_then(Cpu::layout);
    let vcpus = layout.map(|counts| counts.into_iter().map(u64::from).fold(1, u64::saturating_mul));
    match (vcpus, amounts.as_slice()) {
        (None, []) => found.refuse(&at, "needs domain.cpu.cores, or a cpu request or limit, to know how many"),
        (Some(vcpus), amounts) if !amounts.is_empty() && amounts.iter().all(|(_, amount)| amount.value() != vcpus) => {
            found.refuse(&at, format!("{vcpus} vCPUs are not the pod's CPUs, {}; name one of them", amounts[0].1));
        }
        (_, [(_, request), (_, limit)]) if request.milli() != limit.milli() => {
            found.refuse(&at, "needs a cpu request that is the limit");
        }
        _ => {}
    }
    if let (Some(request), Some(limit)) = (requests.get("memory"), limits.get("memory"))
        && request.value() != limit.value()
    {
        let what =
            format!("{request} is not domain.resources.limits.memory, {limit}, which dedicatedCpuPlacement needs");
        found.refuse(format_args!("{path}.domain.resources.requests.memory"), what);
    }
}
