//! What a preference requires at least.

use vireo_runtimeclass::cluster::{CpuTopologyPreference, InstancetypeSpec, PreferenceSpec, SpreadAcross};
use vireo_runtimeclass::kubevirt::v1::VirtualMachineInstanceSpec;
use vireo_runtimeclass::validate::Problem;

use super::topology;

/// What Vireo's machines are where they don't say.
const ARCHITECTURE: &str = "amd64";

/// What a machine, or its instancetype, lacks of what its preference requires.
pub(super) fn check(
    machine: &VirtualMachineInstanceSpec,
    instancetype: Option<&InstancetypeSpec>,
    preference: Option<&PreferenceSpec>,
    path: &str,
) -> Vec<Problem> {
    let Some(required) = preference.and_then(|preference| preference.requirements.as_ref()) else { return Vec::new() };
    let cpu = required.cpu.as_ref().and_then(|cpu| vcpus(machine, instancetype, preference, cpu.guest, path));
    let memory = required.memory.as_ref().and_then(|memory| {
        let own = machine.domain.memory.as_ref().and_then(|memory| memory.guest.as_ref());
        let (path, who, has) = instancetype.map_or((format!("{path}.domain.memory"), "VirtualMachine", own), |size| {
            ("spec.instancetype".to_owned(), "instance type", Some(&size.memory.guest))
        });
        let amount = has.map_or_else(|| "0".to_owned(), ToString::to_string);
        (has.is_none_or(|has| has.value() < memory.guest.value())).then(|| Problem {
            path,
            what: format!(
                "insufficient Memory resources of {amount} provided by {who}, preference requires {}",
                memory.guest
            ),
        })
    });
    let architecture = required.architecture.as_deref().and_then(|wanted| {
        let has = machine.architecture.as_deref().unwrap_or(ARCHITECTURE);
        (has != wanted).then(|| Problem {
            path: format!("{path}.architecture"),
            what: format!("preference requires architecture {wanted} but {has} is being requested"),
        })
    });
    cpu.into_iter().chain(memory).chain(architecture).collect()
}

fn vcpus(
    machine: &VirtualMachineInstanceSpec,
    instancetype: Option<&InstancetypeSpec>,
    preference: Option<&PreferenceSpec>,
    required: u32,
    path: &str,
) -> Option<Problem> {
    use CpuTopologyPreference as P;
    if let Some(size) = instancetype {
        return (size.cpu.guest < required).then(|| Problem {
            path: "spec.instancetype".to_owned(),
            what: format!(
                "insufficient CPU resources of {} vCPU provided by instance type, preference requires {required} vCPU",
                size.cpu.guest
            ),
        });
    }
    let Some(cpu) = &machine.domain.cpu else {
        return Some(Problem {
            path: format!("{path}.domain.cpu"),
            what: format!("no CPU resources provided by VirtualMachine, preference requires {required} vCPU"),
        });
    };
    let [sockets, cores, threads] = [cpu.sockets, cpu.cores, cpu.threads].map(|count| count.unwrap_or(0));
    // Those that don't count are one, those that do are nothing where they aren't given.
    let (fields, has) = match topology::preferred(preference) {
        P::Sockets | P::PreferSockets => ("sockets", sockets),
        P::Cores | P::PreferCores => ("cores", cores),
        P::Threads | P::PreferThreads => ("threads", threads),
        P::Any | P::PreferAny => (
            "cores, sockets and threads",
            cpu.layout().map_or(0, |counts| counts.into_iter().fold(1, u32::saturating_mul)),
        ),
        P::Spread | P::PreferSpread => match topology::options(preference).0 {
            SpreadAcross::SocketsCores => ("SocketsCores", sockets.saturating_mul(cores)),
            SpreadAcross::CoresThreads => ("CoresThreads", cores.saturating_mul(threads)),
            SpreadAcross::SocketsCoresThreads => {
                ("SocketsCoresThreads", sockets.saturating_mul(cores).saturating_mul(threads))
            }
        },
    };
    (has < required).then(|| Problem {
        path: format!("{path}.domain.cpu"),
        what: format!(
            "insufficient CPU resources of {has} vCPU provided by VirtualMachine, preference requires {required} vCPU provided as {fields}"
        ),
    })
}
