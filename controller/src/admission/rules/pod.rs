//! Rules on what else an instance says of its pod: its names, its name servers, its probes.

use k8s_openapi::api::core::v1::PodDNSConfig;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use vireo_runtimeclass::cluster::{DnsPolicy, InstanceSpec, PodSettings, Probe};

use super::names::{self, dns_label, dns_name};
use crate::admission::verdict::Found;

/// Kubernetes' bounds on name servers and search paths.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_LENGTH: usize = 2048;

pub(crate) fn pod(spec: &InstanceSpec, path: &str, found: &mut Found) {
    let InstanceSpec { machine, pod } = spec;
    for (field, name) in [("hostname", &pod.hostname), ("subdomain", &pod.subdomain)] {
        let name = name.as_deref().filter(|name| !name.is_empty());
        found.refuse_if(format_args!("{path}.{field}"), name.and_then(dns_label));
    }
    service_account(spec, path, found);
    name_servers(pod, path, found);
    let has_pod_network = machine.networks().iter().any(|network| network.pod.is_some());
    for (field, given) in [("livenessProbe", &pod.liveness_probe), ("readinessProbe", &pod.readiness_probe)] {
        if let Some(given) = given {
            probe(given, has_pod_network, field == "livenessProbe", &format!("{path}.{field}"), found);
        }
    }
    if machine.start_strategy.as_deref() == Some("Paused") && pod.liveness_probe.is_some() {
        let what = "excludes livenessProbe, which would end a machine that stands still";
        found.refuse(format_args!("{path}.startStrategy"), what);
    }
}

fn service_account(spec: &InstanceSpec, path: &str, found: &mut Found) {
    let Some(account) = spec.pod.service_account_name.as_deref().filter(|name| !name.is_empty()) else { return };
    let path = format!("{path}.serviceAccountName");
    found.refuse_if(&path, dns_name(account));
    let other = spec.machine.volumes.iter().filter_map(|volume| volume.service_account.as_ref());
    if let Some(other) = other.map(|volume| &volume.service_account_name).find(|name| *name != account) {
        found.refuse(path, format!("{account:?} is not that of the serviceAccount volume, {other:?}; a pod has one"));
    }
}

fn name_servers(pod: &PodSettings, path: &str, found: &mut Found) {
    let path = format!("{path}.dnsConfig");
    let empty = PodDNSConfig::default();
    let config = pod.dns_config.as_ref().unwrap_or(&empty);
    let servers = config.nameservers.as_deref().unwrap_or_default();
    if pod.dns_policy == Some(DnsPolicy::None) && servers.is_empty() {
        found.refuse(format_args!("{path}.nameservers"), "missing; dnsPolicy None needs one at least");
    }
    if servers.len() > MAX_NAMESERVERS {
        let what = format!("{} servers; a pod has at most {MAX_NAMESERVERS}", servers.len());
        found.refuse(format_args!("{path}.nameservers"), what);
    }
    for (index, server) in servers.iter().enumerate() {
        if server.parse::<std::net::IpAddr>().is_err() {
            found.refuse(format_args!("{path}.nameservers[{index}]"), format!("{server:?} is no IP address"));
        }
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    let length = searches.iter().map(|search| search.len() + 1).sum::<usize>();
    if searches.len() > MAX_SEARCHES || length > MAX_SEARCH_LENGTH + 1 {
        let what = format!("has more than {MAX_SEARCHES} domains or {MAX_SEARCH_LENGTH} characters");
        found.refuse(format_args!("{path}.searches"), what);
    }
    for (index, search) in searches.iter().enumerate() {
        let name = search.strip_suffix('.').unwrap_or(search);
        found.refuse_if(format_args!("{path}.searches[{index}]"), dns_name(name));
    }
    for (index, option) in config.options.iter().flatten().enumerate() {
        if option.name.as_deref().is_none_or(str::is_empty) {
            found.refuse(format_args!("{path}.options[{index}].name"), "missing");
        }
    }
}

fn probe(probe: &Probe, has_pod_network: bool, is_liveness: bool, path: &str, found: &mut Found) {
    let ways = [
        ("exec", probe.exec.is_some()),
        ("guestAgentPing", probe.guest_agent_ping.is_some()),
        ("httpGet", probe.http_get.is_some()),
        ("tcpSocket", probe.tcp_socket.is_some()),
    ];
    match ways.iter().filter(|(_, there)| *there).count() {
        0 => found.refuse(path, "missing: one of exec, guestAgentPing, httpGet and tcpSocket"),
        1 => {}
        _ => found.refuse(path, "asks in several ways; name one of exec, guestAgentPing, httpGet and tcpSocket"),
    }
    for (way, there) in &ways[2..] {
        if *there && !has_pod_network {
            found.refuse(format_args!("{path}.{way}"), "needs an interface on the pod network, and there is none");
        }
    }
    if probe.exec.as_ref().is_some_and(|exec| exec.command.as_ref().is_none_or(Vec::is_empty)) {
        found.refuse(format_args!("{path}.exec.command"), "missing");
    }
    if let Some(get) = &probe.http_get {
        port(&get.port, &format!("{path}.httpGet.port"), found);
        if let Some(scheme) = get.scheme.as_deref().filter(|scheme| !matches!(*scheme, "" | "HTTP" | "HTTPS")) {
            found.refuse(format_args!("{path}.httpGet.scheme"), format!("{scheme:?} is not known; HTTP and HTTPS are"));
        }
    }
    if let Some(socket) = &probe.tcp_socket {
        port(&socket.port, &format!("{path}.tcpSocket.port"), found);
    }
    if is_liveness && probe.success_threshold.is_some_and(|threshold| threshold > 1) {
        found.refuse(format_args!("{path}.successThreshold"), "must be 1 where a probe is livenessProbe");
    }
}

fn port(port: &IntOrString, path: &str, found: &mut Found) {
    match port {
        IntOrString::Int(number) if (1..=65535).contains(number) => {}
        IntOrString::Int(number) => found.refuse(path, format!("{number} is not within 1 to 65535")),
        IntOrString::String(name) => found.refuse_if(path, names::port(name)),
    }
}
