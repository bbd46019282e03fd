//! The Restricted Pod Security Standard, with the Baseline that it includes: what of a pod it forbids.
//!
//! As <https://kubernetes.io/docs/concepts/security/pod-security-standards/> lists it, for pods without init containers and
//! of Linux; where the cluster is older than the admission plugin this is what tells.

use k8s_openapi::api::core::v1::{Pod, Probe, Volume};

/// What the standard forbids of `pod`.
pub(super) fn forbidden(pod: &Pod) -> Vec<String> {
    let mut found = Vec::new();
    let mut forbid = |holds: bool, what: &str| {
        if holds {
            found.push(what.to_owned());
        }
    };
    let spec = pod.spec.as_ref().unwrap();
    let of_pod = spec.security_context.clone().unwrap_or_default();
    let on = |flag: Option<bool>| flag == Some(true);
    forbid(on(spec.host_network) || on(spec.host_pid) || on(spec.host_ipc), "host namespaces");
    forbid(of_pod.sysctls.is_some(), "sysctls");
    forbid(of_pod.se_linux_options.is_some(), "seLinuxOptions");
    forbid(of_pod.windows_options.is_some(), "windowsOptions");
    forbid(of_pod.run_as_user == Some(0), "runAsUser");
    for volume in spec.volumes.iter().flatten() {
        forbid(!is_allowed(volume), &format!("volume {}", volume.name));
    }
    forbid(
        spec.init_containers.is_some() || spec.ephemeral_containers.is_some(),
        "init containers (none are expected)",
    );
    let annotations = pod.metadata.annotations.iter().flatten();
    let unconfined = |value: &str| value != "runtime/default" && !value.starts_with("localhost/");
    for (name, value) in annotations {
        forbid(name.starts_with("container.apparmor.security.beta.kubernetes.io/") && unconfined(value), name);
    }
    for container in &spec.containers {
        let own = container.security_context.clone().unwrap_or_default();
        forbid(on(own.privileged), "privileged");
        forbid(own.allow_privilege_escalation != Some(false), "allowPrivilegeEscalation");
        let non_root = own.run_as_non_root.or(of_pod.run_as_non_root);
        forbid(non_root != Some(true), "runAsNonRoot");
        forbid(own.run_as_user == Some(0), "runAsUser of the container");
        forbid(own.proc_mount.is_some_and(|mount| mount != "Default"), "procMount");
        forbid(own.se_linux_options.is_some(), "seLinuxOptions of the container");
        let seccomp = own.seccomp_profile.or(of_pod.seccomp_profile.clone());
        let seccomp = seccomp.map(|profile| profile.type_);
        forbid(!matches!(seccomp.as_deref(), Some("RuntimeDefault" | "Localhost")), "seccompProfile");
        let capabilities = own.capabilities.unwrap_or_default();
        forbid(!capabilities.drop.iter().flatten().any(|name| name == "ALL"), "capabilities.drop");
        forbid(capabilities.add.iter().flatten().any(|name| name != "NET_BIND_SERVICE"), "capabilities.add");
        // Since 1.34.
        let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
        let has_host = |probe: &Probe| {
            probe.http_get.as_ref().is_some_and(|get| get.host.is_some())
                || probe.tcp_socket.as_ref().is_some_and(|socket| socket.host.is_some())
        };
        forbid(probes.into_iter().flatten().any(has_host), "a probe's host");
        forbid(container.lifecycle.is_some(), "lifecycle (none is expected)");
        forbid(container.ports.iter().flatten().any(|port| port.host_port.is_some_and(|port| port != 0)), "hostPort");
    }
    found
}

fn is_allowed(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.csi.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
        || volume.ephemeral.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.projected.is_some()
        || volume.secret.is_some()
}
