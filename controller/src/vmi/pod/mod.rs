//! The pod that an instance is: KubeVirt's names, places and labels, and what the shim wants to find (`docs/pods.md`).
//!
//! Pure. The same instance gives the same pod, its name included: an instance has one pod in its life, so that whoever makes
//! it twice is told that it is there.

mod image;
mod metadata;
mod networks;
mod probes;
mod resources;
#[cfg(test)]
mod restricted;
mod scheduling;
mod security;
#[cfg(test)]
mod tests;
mod volumes;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, LocalObjectReference, PersistentVolumeClaim, Pod, PodReadinessGate, PodSpec,
};
use vireo_runtimeclass::cluster::{DnsPolicy, InstanceSpec, KubeVirtConfiguration, VirtualMachineInstance};
use vireo_runtimeclass::kubevirt::v1::PullPolicy;
use vireo_runtimeclass::machine_service::CHANNEL;
use vireo_runtimeclass::pod::{DESCRIBED, MACHINE_CONTAINER, RUNTIME_CLASS};

pub(in crate::vmi) use networks::interface_name;
pub(in crate::vmi) use volumes::claim;

pub use metadata::{APP_LABEL, CREATED_BY_LABEL, LAUNCHER, NODE_NAME_LABEL, host_name, pod_name};

/// The condition without which a pod isn't ready: its guest goes on.
pub const UNPAUSED: &str = "kubevirt.io/virtual-machine-unpaused";
/// Seconds that a guest has to end where its spec says nothing (KubeVirt's).
pub const GRACE_PERIOD: i64 = 30;
/// Seconds that its pod has beyond that (KubeVirt's).
pub(super) const GRACE_PADDING: i64 = 15;

/// What a pod is made from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The instance.
    pub vmi: &'a VirtualMachineInstance,
    /// Its spec, read.
    pub spec: &'a InstanceSpec,
    /// The cluster's configuration.
    pub configuration: &'a KubeVirtConfiguration,
    /// Claims of its namespace, by name: those that its volumes are, as far as they are there.
    pub claims: &'a BTreeMap<String, PersistentVolumeClaim>,
    /// The controller's public key, as the shim reads it.
    pub controller_key: &'a str,
    /// The image of pods whose instance names none.
    pub launcher_image: &'a str,
}

/// Why there is no pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PodError {
    /// A claim isn't there (yet).
    #[error("didn't find PVC {0}")]
    NoClaim(String),
    /// What the instance asks for no pod can be.
    #[error("{path}: {what}")]
    Unsupported {
        /// The field.
        path: String,
        /// Why, and what would be possible.
        what: String,
    },
}

impl PodError {
    fn unsupported(path: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.into(), what: what.into() }
    }
}

/// The pod that an instance is.
pub fn pod(source: &Source<'_>) -> Result<Pod, PodError> {
    let Source { spec, configuration, launcher_image, .. } = *source;
    let image = image::image(&spec.machine)?;
    let volumes = volumes::volumes(source)?;
    let settings = &spec.pod;
    let service_account = volumes::service_account(&spec.machine);
    // Istio's proxy speaks to its own control plane as the pod.
    let automount = service_account.is_some() || metadata::has_istio(source.vmi);
    let pull_policy = image.pull_policy.or(configuration.image_pull_policy).map(pull_policy);
    let container = Container {
        name: MACHINE_CONTAINER.to_owned(),
        image: Some(image.name.unwrap_or(launcher_image).to_owned()),
        image_pull_policy: pull_policy.map(str::to_owned),
        // Images of disks name no program, and Kubernetes wants one; the guest is what runs.
        command: Some(vec![CHANNEL.to_owned()]),
        env: Some(vec![EnvVar {
            name: DESCRIBED.0.to_owned(),
            value: Some(DESCRIBED.1.to_owned()),
            ..EnvVar::default()
        }]),
        resources: Some(resources::resources(&spec.machine.domain, configuration)),
        security_context: Some(security::container()),
        ports: networks::ports(&spec.machine),
        volume_mounts: some(volumes.mounts),
        volume_devices: some(volumes.devices),
        liveness_probe: settings.liveness_probe.as_ref().map(probes::probe),
        readiness_probe: settings.readiness_probe.as_ref().map(probes::probe),
        ..Container::default()
    };
    let grace_period = spec.machine.termination_grace_period_seconds.map_or(GRACE_PERIOD, i64::from);
    let spec = PodSpec {
        runtime_class_name: Some(RUNTIME_CLASS.to_owned()),
        containers: vec![container],
        volumes: some(volumes.all),
        image_pull_secrets: some(image.pull_secrets.into_iter().map(secret).collect()),
        restart_policy: Some("Never".to_owned()),
        security_context: Some(security::pod()),
        readiness_gates: Some(vec![PodReadinessGate { condition_type: UNPAUSED.to_owned() }]),
        termination_grace_period_seconds: Some(grace_period + GRACE_PADDING),
        automount_service_account_token: Some(automount),
        service_account_name: settings.service_account_name.clone().or(service_account.map(str::to_owned)),
        enable_service_links: Some(false),
        hostname: Some(host_name(source.vmi, settings)),
        subdomain: settings.subdomain.clone(),
        dns_policy: settings.dns_policy.map(|policy| dns_policy(policy).to_owned()),
        dns_config: settings.dns_config.clone(),
        node_selector: Some(scheduling::node_selector(spec, configuration)),
        affinity: settings.affinity.clone(),
        tolerations: some(settings.tolerations.clone()),
        topology_spread_constraints: some(settings.topology_spread_constraints.clone()),
        scheduler_name: settings.scheduler_name.clone(),
        priority_class_name: settings.priority_class_name.clone(),
        ..PodSpec::default()
    };
    Ok(Pod { metadata: metadata::metadata(source)?, spec: Some(spec), status: None })
}

/// The first `digits` hexadecimal digits of a hash.
fn hex(hash: &[u8], digits: usize) -> String {
    let mut text = String::new();
    for byte in hash {
        let _ = write!(text, "{byte:02x}");
    }
    text.truncate(digits);
    text
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn secret(name: &str) -> LocalObjectReference {
    LocalObjectReference { name: name.to_owned() }
}

fn pull_policy(policy: PullPolicy) -> &'static str {
    match policy {
        PullPolicy::Always => "Always",
        PullPolicy::IfNotPresent => "IfNotPresent",
        PullPolicy::Never => "Never",
    }
}

fn dns_policy(policy: DnsPolicy) -> &'static str {
    match policy {
        DnsPolicy::ClusterFirst => "ClusterFirst",
        DnsPolicy::ClusterFirstWithHostNet => "ClusterFirstWithHostNet",
        DnsPolicy::Default => "Default",
        DnsPolicy::None => "None",
    }
}
