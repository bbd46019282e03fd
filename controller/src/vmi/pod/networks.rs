//! What Multus is told of a pod's networks, and the ports that its machine says it has.

use k8s_openapi::api::core::v1::ContainerPort;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use vireo_runtimeclass::kubevirt::v1::VirtualMachineInstanceSpec;

use super::{Source, hex, some};

const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
const DEFAULT_NETWORK: &str = "v1.multus-cni.io/default-network";

/// Annotations that Multus reads.
pub(super) fn annotations(source: &Source<'_>) -> Vec<(String, String)> {
    let own = source.vmi.metadata.namespace.as_deref().unwrap_or("default");
    let machine = &source.spec.machine;
    let mut annotations = Vec::new();
    let mut further = Vec::new();
    for network in &machine.networks {
        let Some(multus) = &network.multus else { continue };
        let (namespace, name) = multus.network_name.split_once('/').unwrap_or((own, &multus.network_name));
        if multus.default == Some(true) {
            annotations.push((DEFAULT_NETWORK.to_owned(), format!("{namespace}/{name}")));
            continue;
        }
        let interface = machine.domain.devices.interfaces.iter().find(|interface| interface.name == network.name);
        if interface.is_some_and(|interface| interface.state.as_deref() == Some("absent")) {
            continue;
        }
        let mut wanted = json!({"name": name, "namespace": namespace, "interface": interface_name(&network.name)});
        if let Some(mac) = interface.and_then(|interface| interface.mac_address.as_deref()) {
            wanted["mac"] = mac.into();
        }
        further.push(wanted);
    }
    if !further.is_empty() {
        annotations.push((NETWORKS.to_owned(), Value::Array(further).to_string()));
    }
    annotations
}

/// What the pod's interface of a network is called (KubeVirt's name).
pub(in crate::vmi) fn interface_name(network: &str) -> String {
    format!("pod{}", hex(&Sha256::digest(network), 11))
}

/// The ports that interfaces list, for who looks at the pod.
pub(super) fn ports(machine: &VirtualMachineInstanceSpec) -> Option<Vec<ContainerPort>> {
    let ports = machine.domain.devices.interfaces.iter().flat_map(|interface| &interface.ports);
    some(
        ports
            .filter_map(|port| {
                Some(ContainerPort {
                    container_port: i32::try_from(port.port).ok()?,
                    name: port.name.clone().filter(|name| !name.is_empty()),
                    protocol: port.protocol.clone().or_else(|| Some("TCP".to_owned())),
                    ..ContainerPort::default()
                })
            })
            .collect(),
    )
}
