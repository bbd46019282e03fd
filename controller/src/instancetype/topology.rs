//! How an instancetype's vCPUs become sockets, cores and threads.

use vireo_runtimeclass::cluster::{CpuTopologyPreference, InstancetypeSpec, PreferenceSpec, SpreadAcross};
use vireo_runtimeclass::validate::Problem;

/// Cores in a socket, where a preference doesn't say.
const RATIO: u32 = 2;
/// Threads in a core, where vCPUs are spread over all three.
const THREADS: u32 = 2;

/// What vCPUs become where a preference doesn't say: sockets.
pub(super) fn preferred(preference: Option<&PreferenceSpec>) -> CpuTopologyPreference {
    let cpu = preference.and_then(|preference| preference.cpu.as_ref());
    cpu.and_then(|cpu| cpu.preferred_cpu_topology).unwrap_or(CpuTopologyPreference::Sockets)
}

/// Over what vCPUs are spread, and in which ratio, at least 1.
pub(super) fn options(preference: Option<&PreferenceSpec>) -> (SpreadAcross, u32) {
    let options = preference.and_then(|preference| preference.cpu.as_ref()?.spread_options.as_ref());
    let older = preference.and_then(|preference| preference.prefer_spread_socket_to_core_ratio);
    let ratio = options.and_then(|options| options.ratio).or(older).filter(|ratio| *ratio > 0).unwrap_or(RATIO);
    (options.and_then(|options| options.across).unwrap_or(SpreadAcross::SocketsCores), ratio)
}

/// Sockets, cores and threads of so many vCPUs.
pub(super) fn spread(vcpus: u32, preference: Option<&PreferenceSpec>) -> [u32; 3] {
    use CpuTopologyPreference as P;
    if vcpus <= 1 {
        return [1, 1, 1];
    }
    match preferred(preference) {
        P::Sockets | P::PreferSockets | P::Any | P::PreferAny => [vcpus, 1, 1],
        P::Cores | P::PreferCores => [1, vcpus, 1],
        P::Threads | P::PreferThreads => [1, 1, vcpus],
        P::Spread | P::PreferSpread => match options(preference) {
            (SpreadAcross::SocketsCores, ratio) => [vcpus / ratio, ratio, 1],
            (SpreadAcross::CoresThreads, ratio) => [1, vcpus / ratio, ratio],
            (SpreadAcross::SocketsCoresThreads, ratio) => [vcpus / THREADS / ratio, ratio, THREADS],
        },
    }
}

/// vCPUs that can't be spread as the preference wants: there would be fewer, or none.
pub(super) fn check(instancetype: Option<&InstancetypeSpec>, preference: Option<&PreferenceSpec>) -> Option<Problem> {
    use CpuTopologyPreference as P;
    let vcpus = instancetype?.cpu.guest;
    let made = spread(vcpus, preference).into_iter().fold(1, u32::saturating_mul);
    if !matches!(preferred(preference), P::Spread | P::PreferSpread) || vcpus <= 1 || made == vcpus {
        return None;
    }
    let (across, ratio) = options(preference);
    let by = match across {
        SpreadAcross::SocketsCores => {
            format!(
                "the Spec.PreferSpreadSocketToCoreRatio or Spec.CPU.PreferSpreadOptions.Ratio of {ratio} provided by the preference"
            )
        }
        SpreadAcross::CoresThreads => format!("the number of threads per core {ratio}"),
        SpreadAcross::SocketsCoresThreads => format!(
            "the number of threads per core {THREADS} and Spec.PreferSpreadSocketToCoreRatio or Spec.CPU.PreferSpreadOptions.Ratio of {ratio}"
        ),
    };
    Some(Problem {
        path: "instancetype.spec.cpu.guest".to_owned(),
        what: format!("{vcpus} vCPUs provided by the instance type are not divisible by {by}"),
    })
}
