//! Rules on processors. Which models and features there are only the node knows.

use super::{MAX_VCPUS, Rules};
use crate::kubevirt::v1::{Cpu, DomainSpec};

/// What may be done about a feature (libvirt's policies); `require` where nothing is said.
const POLICIES: [&str; 5] = ["force", "require", "optional", "disable", "forbid"];

pub(super) fn check(domain: &DomainSpec, rules: &mut Rules<'_>) {
    if let Some(vcpus) = domain.vcpus().filter(|n| *n > MAX_VCPUS) {
        let counted = domain.cpu.as_ref().is_some_and(|cpu| cpu.layout().is_some());
        let field = if counted { "domain.cpu" } else { "domain.resources" };
        rules.refuse(field, format!("{vcpus} vCPUs; a machine has at most {MAX_VCPUS}"));
    }
    if let Some(cpu) = &domain.cpu {
        check_cpu(cpu, rules);
    }
}

fn check_cpu(cpu: &Cpu, rules: &mut Rules<'_>) {
    for (field, value) in [("cores", cpu.cores), ("sockets", cpu.sockets), ("threads", cpu.threads)] {
        if value == Some(0) {
            rules.refuse(format_args!("domain.cpu.{field}"), "0; at least 1 is needed");
        }
    }
    if cpu.isolate_emulator_thread == Some(true) && cpu.dedicated_cpu_placement != Some(true) {
        rules.refuse("domain.cpu.isolateEmulatorThread", "only together with dedicatedCpuPlacement");
    }
    for (index, feature) in cpu.features.iter().enumerate() {
        let at = format!("domain.cpu.features[{index}]");
        if let Some(policy) = feature.policy.as_deref().filter(|policy| !POLICIES.contains(policy)) {
            let what = format!("{policy:?} is not supported by vireo; {} are", POLICIES.join(", "));
            rules.refuse(format_args!("{at}.policy"), what);
        }
        if let Some(other) = cpu.features[..index].iter().position(|other| other.name == feature.name) {
            rules.refuse(format_args!("{at}.name"), format!("{:?} is features[{other}] already", feature.name));
        }
    }
}
