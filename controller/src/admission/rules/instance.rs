//! Rules on an instance, by itself or as a template: what its types and `vireo_runtimeclass::validate` can't know, since it
//! takes the cluster's configuration or Kubernetes' own rules.

use vireo_runtimeclass::cluster::{InstanceSpec, KubeVirtConfiguration};
use vireo_runtimeclass::kubevirt::v1::{Interface, Volume, VolumeSource};

use super::names::{dns_label, dns_name, port};
use super::pod::pod;
use super::scheduling::scheduling;
use super::sizes::sizes;
use crate::admission::verdict::Found;

/// The instance at `path`, with its defaults: paths name fields that its writer may have left out.
pub(crate) fn instance(spec: &InstanceSpec, configuration: &KubeVirtConfiguration, path: &str, found: &mut Found) {
    sizes(&spec.machine.domain, path, found);
    pod(spec, path, found);
    scheduling(&spec.pod, path, found);
    let kernel = spec.machine.domain.firmware.as_ref().and_then(|firmware| firmware.kernel_boot.as_ref());
    if let Some(container) = kernel.and_then(|boot| boot.container.as_ref()) {
        let path = format!("{path}.domain.firmware.kernelBoot.container");
        pull_secret(container.image_pull_secret.as_ref(), &path, found);
    }
    for (index, volume) in spec.machine.volumes.iter().enumerate() {
        self::volume(volume, configuration, &format!("{path}.volumes[{index}]"), found);
    }
    for (index, interface) in spec.machine.interfaces().iter().enumerate() {
        self::interface(interface, &format!("{path}.domain.devices.interfaces[{index}]"), found);
    }
    bridges(spec, configuration, path, found);
    if spec.machine.domain.devices.autoattach_vsock == Some(true) && !gate(configuration, "VSOCK") {
        let what = "true needs VSOCK in the feature gates of the KubeVirt object";
        found.refuse(format_args!("{path}.domain.devices.autoattachVSOCK"), what);
    }
}

/// Whether a feature gate is open: one that is closed where nobody names it.
pub(crate) fn gate(configuration: &KubeVirtConfiguration, name: &str) -> bool {
    configuration.developer_configuration.as_ref().is_some_and(|developer| {
        let named = |gates: &[String]| gates.iter().any(|gate| gate == name);
        named(&developer.feature_gates) && !named(&developer.disabled_feature_gates)
    })
}

/// A volume is one of the pod's, and what it shows is an object.
fn volume(volume: &Volume, configuration: &KubeVirtConfiguration, path: &str, found: &mut Found) {
    found.refuse_if(format_args!("{path}.name"), dns_label(&volume.name));
    for source in volume.sources() {
        let path = format!("{path}.{}", source.field());
        let named = match source {
            VolumeSource::PersistentVolumeClaim(claim) => Some(("claimName", &claim.claim_name)),
            VolumeSource::Ephemeral(ephemeral) => {
                let claim = ephemeral.persistent_volume_claim.as_ref();
                claim.map(|claim| ("persistentVolumeClaim.claimName", &claim.claim_name))
            }
            VolumeSource::DataVolume(data_volume) => Some(("name", &data_volume.name)),
            VolumeSource::ConfigMap(config_map) => Some(("name", &config_map.name)),
            VolumeSource::Secret(secret) => Some(("secretName", &secret.secret_name)),
            VolumeSource::ServiceAccount(account) => Some(("serviceAccountName", &account.service_account_name)),
            VolumeSource::HostDisk(_) if !gate(configuration, "HostDisk") => {
                found.refuse(&path, "needs HostDisk in the feature gates of the KubeVirt object");
                None
            }
            VolumeSource::ContainerDisk(disk) => {
                if disk.image.trim().is_empty() {
                    found.refuse(format_args!("{path}.image"), "missing");
                }
                pull_secret(disk.image_pull_secret.as_ref(), &path, found);
                None
            }
            _ => None,
        };
        if let Some((field, name)) = named {
            found.refuse_if(format_args!("{path}.{field}"), dns_name(name));
        }
    }
}

/// An empty one is none.
fn pull_secret(secret: Option<&String>, path: &str, found: &mut Found) {
    let secret = secret.filter(|name| !name.is_empty());
    found.refuse_if(format_args!("{path}.imagePullSecret"), secret.and_then(|name| dns_name(name)));
}

fn interface(interface: &Interface, path: &str, found: &mut Found) {
    let is_right = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if interface.name.is_empty() || !interface.name.bytes().all(is_right) {
        let what = format!("{:?} is no name of an interface: letters, digits, '-' and '_'", interface.name);
        found.refuse(format_args!("{path}.name"), what);
    }
    let mut names = Vec::new();
    for (index, one) in interface.ports.iter().enumerate() {
        let Some(name) = one.name.as_deref().filter(|name| !name.is_empty()) else { continue };
        let path = format!("{path}.ports[{index}].name");
        found.refuse_if(&path, port(name));
        if names.contains(&name) {
            found.refuse(path, format!("{name:?} is already taken"));
        }
        names.push(name);
    }
    if interface.state.as_deref() == Some("absent") && interface.bridge.is_none() {
        found.refuse(format_args!("{path}.state"), "absent is for an interface that is bound by bridge");
    }
}

/// Whether a guest may stand where its pod's interface is.
fn bridges(spec: &InstanceSpec, configuration: &KubeVirtConfiguration, path: &str, found: &mut Found) {
    let network = configuration.network.as_ref();
    if network.and_then(|network| network.permit_bridge_interface_on_pod_network) != Some(false) {
        return;
    }
    let networks = spec.machine.networks();
    let on_pod = |interface: &Interface| networks.iter().any(|one| one.name == interface.name && one.pod.is_some());
    for (index, interface) in spec.machine.interfaces().iter().enumerate() {
        if interface.bridge.is_some() && on_pod(interface) {
            let what =
                "isn't permitted on the pod network: the KubeVirt object's permitBridgeInterfaceOnPodNetwork is false";
            found.refuse(format_args!("{path}.domain.devices.interfaces[{index}].bridge"), what);
        }
    }
}
