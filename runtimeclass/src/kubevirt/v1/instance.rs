//! `VirtualMachineInstance`: one run of a guest.

use serde::{Deserialize, Serialize};

use super::{AccessCredential, DomainSpec, Interface, InterfaceMasquerade, Network, PodNetwork, Volume};

/// One machine: its hardware, its volumes, its networks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VirtualMachineInstanceSpec {
    /// `amd64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// The machine.
    pub domain: DomainSpec,
    /// What the interfaces attach to, joined by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
    /// What the disks show, joined by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Ways into the guest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access_credentials: Vec<AccessCredential>,
    /// `Paused`: stand still before the first instruction, until resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_strategy: Option<String>,
    /// Seconds between the power button and the plug.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_grace_period_seconds: Option<u32>,
}

impl VirtualMachineInstanceSpec {
    /// The machine's interfaces. One masqueraded interface on the pod network is attached where none is named, unless
    /// `autoattachPodInterface` is false.
    pub fn interfaces(&self) -> Vec<Interface> {
        let devices = &self.domain.devices;
        if !devices.interfaces.is_empty() || devices.autoattach_pod_interface == Some(false) {
            return devices.interfaces.clone();
        }
        vec![Interface { masquerade: Some(InterfaceMasquerade {}), ..Interface::named("default") }]
    }

    /// The networks of [`Self::interfaces`].
    pub fn networks(&self) -> Vec<Network> {
        if !self.networks.is_empty() || self.interfaces().is_empty() {
            return self.networks.clone();
        }
        vec![Network { name: "default".to_owned(), pod: Some(PodNetwork::default()), multus: None }]
    }
}
