//! Probes: requests and connections go to the pod's address, which is the guest's; commands run in the guest.

use k8s_openapi::api::core::v1::{ExecAction, Probe};
use vireo_runtimeclass::cluster::Probe as Wanted;
use vireo_runtimeclass::machine_service::PING;

pub(super) fn probe(wanted: &Wanted) -> Probe {
    let ping = wanted.guest_agent_ping.as_ref().map(|_| ExecAction { command: Some(vec![PING.to_owned()]) });
    let seconds = |seconds: Option<u32>| seconds.and_then(|seconds| i32::try_from(seconds).ok());
    Probe {
        exec: wanted.exec.clone().or(ping),
        http_get: wanted.http_get.clone(),
        tcp_socket: wanted.tcp_socket.clone(),
        initial_delay_seconds: seconds(wanted.initial_delay_seconds),
        period_seconds: seconds(wanted.period_seconds),
        timeout_seconds: seconds(wanted.timeout_seconds),
        success_threshold: seconds(wanted.success_threshold),
        failure_threshold: seconds(wanted.failure_threshold),
        ..Probe::default()
    }
}
