//! What an instancetype says of a machine: hard, so that a template that says the same is in conflict with it.

use vireo_runtimeclass::cluster::{InstanceTemplate, InstancetypeSpec, PreferenceSpec};
use vireo_runtimeclass::kubevirt::v1::{Cpu, Memory, VirtualMachineInstanceSpec};
use vireo_runtimeclass::validate::Problem;

use super::topology;

/// Sizes `template`, and says what it says itself.
pub(super) fn apply(
    template: &mut InstanceTemplate,
    size: &InstancetypeSpec,
    preference: Option<&PreferenceSpec>,
    path: &str,
) -> Vec<Problem> {
    let mut problems = conflicts(template, size, path);
    for (key, value) in &size.annotations {
        let said = template.metadata.annotations.entry(key.clone()).or_insert_with(|| value.clone());
        if said != value {
            let path = path.strip_suffix("spec").unwrap_or(path);
            problems.push(conflict(&format!("{path}metadata.annotations[{key}]")));
        }
    }
    let pod = &mut template.spec.pod;
    if !size.node_selector.is_empty() {
        pod.node_selector.clone_from(&size.node_selector);
    }
    if size.scheduler_name.is_some() {
        pod.scheduler_name.clone_from(&size.scheduler_name);
    }
    processors(&mut template.spec.machine, size, preference);
    memory(&mut template.spec.machine, size);
    problems
}

fn processors(machine: &mut VirtualMachineInstanceSpec, size: &InstancetypeSpec, preference: Option<&PreferenceSpec>) {
    let cpu = machine.domain.cpu.get_or_insert_with(Cpu::default);
    if size.cpu.model.is_some() {
        cpu.model.clone_from(&size.cpu.model);
    }
    cpu.dedicated_cpu_placement = size.cpu.dedicated_cpu_placement.or(cpu.dedicated_cpu_placement);
    cpu.isolate_emulator_thread = size.cpu.isolate_emulator_thread.or(cpu.isolate_emulator_thread);
    [cpu.sockets, cpu.cores, cpu.threads] = topology::spread(size.cpu.guest, preference).map(Some);
}

fn memory(machine: &mut VirtualMachineInstanceSpec, size: &InstancetypeSpec) {
    let memory = machine.domain.memory.get_or_insert_with(Memory::default);
    memory.guest = Some(size.memory.guest.clone());
    if size.memory.hugepages.is_some() {
        memory.hugepages.clone_from(&size.memory.hugepages);
    }
    // What is committed over isn't asked of the node.
    if let Some(percent) = size.memory.overcommit_percent.filter(|percent| *percent > 0) {
        let asked = u128::from(size.memory.guest.value()) * u128::from(100u32.saturating_sub(percent)) / 100;
        if let Ok(asked) = asked.to_string().parse() {
            machine.domain.resources.requests.insert("memory".to_owned(), asked);
        }
    }
}

fn conflicts(template: &InstanceTemplate, size: &InstancetypeSpec, path: &str) -> Vec<Problem> {
    let (domain, pod) = (&template.spec.machine.domain, &template.spec.pod);
    let cpu = domain.cpu.clone().unwrap_or_default();
    let memory = domain.memory.clone().unwrap_or_default();
    let (requests, limits) = (&domain.resources.requests, &domain.resources.limits);
    let counts = |count: Option<u32>| count.is_some_and(|count| count > 0);
    let holds = |flag: Option<bool>| flag == Some(true);
    let said = [
        ("nodeSelector", !size.node_selector.is_empty() && !pod.node_selector.is_empty()),
        ("schedulerName", size.scheduler_name.is_some() && pod.scheduler_name.is_some()),
        ("domain.resources.requests.cpu", requests.contains_key("cpu")),
        ("domain.resources.limits.cpu", limits.contains_key("cpu")),
        ("domain.cpu.sockets", counts(cpu.sockets)),
        ("domain.cpu.cores", counts(cpu.cores)),
        ("domain.cpu.threads", counts(cpu.threads)),
        ("domain.cpu.model", size.cpu.model.is_some() && cpu.model.is_some()),
        (
            "domain.cpu.dedicatedCPUPlacement",
            size.cpu.dedicated_cpu_placement.is_some() && holds(cpu.dedicated_cpu_placement),
        ),
        (
            "domain.cpu.isolateEmulatorThread",
            size.cpu.isolate_emulator_thread.is_some() && holds(cpu.isolate_emulator_thread),
        ),
        ("domain.memory.guest", memory.guest.is_some()),
        ("domain.memory.hugepages", size.memory.hugepages.is_some() && memory.hugepages.is_some()),
        ("domain.resources.requests.memory", requests.contains_key("memory")),
        ("domain.resources.limits.memory", limits.contains_key("memory")),
    ];
    said.into_iter().filter(|(_, said)| *said).map(|(field, _)| conflict(&format!("{path}.{field}"))).collect()
}

fn conflict(path: &str) -> Problem {
    let what = format!("VM field(s) {path} conflicts with selected instance type; leave it out of the template");
    Problem { path: path.to_owned(), what }
}
