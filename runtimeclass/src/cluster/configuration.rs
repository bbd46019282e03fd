//! How the cluster's guests are by default: what a `KubeVirt` object configures.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::{Deserialize, Serialize};

use super::{EvictionStrategy, MigrationConfiguration};
use crate::Quantity;
use crate::kubevirt::v1::PullPolicy;

/// How guests are by default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeVirtConfiguration {
    /// How they move.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migrations: Option<MigrationConfiguration>,
    /// What happens where a node is drained (default `None`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eviction_strategy: Option<EvictionStrategy>,
    /// Their processors' model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// What each vCPU asks of its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_request: Option<Quantity>,
    /// When their images are pulled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// Their networks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkConfiguration>,
    /// Devices of nodes that they may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permitted_host_devices: Option<PermittedHostDevices>,
    /// So many a node takes (default 110).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_machine_instances_per_node: Option<u32>,
    /// What a change of a running guest's `VirtualMachine` does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_rollout_strategy: Option<RolloutStrategy>,
    /// How they use instancetypes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instancetype: Option<InstancetypeConfiguration>,
    /// How Vireo's servers speak TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_configuration: Option<TlsConfiguration>,
    /// Whether the cluster's own roles include Vireo's (default `AggregateToDefault`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role_aggregation_strategy: Option<RoleAggregationStrategy>,
    /// Where equal pages are shared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ksm_configuration: Option<KsmConfiguration>,
    /// Switches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub developer_configuration: Option<DeveloperConfiguration>,
}

/// Networks of guests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkConfiguration {
    /// How a guest that names no interface is attached (default `bridge` in KubeVirt, `masquerade` here).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_network_interface: Option<DefaultInterface>,
    /// A guest may stand where the pod's interface is (default true).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permit_bridge_interface_on_pod_network: Option<bool>,
}

/// How a guest that names no interface is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum DefaultInterface {
    /// In the place of the pod's interface.
    #[serde(rename = "bridge")]
    Bridge,
    /// Behind the pod's address.
    #[serde(rename = "masquerade")]
    Masquerade,
}

/// Devices of nodes that guests may have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PermittedHostDevices {
    /// PCI functions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pci_host_devices: Vec<PciHostDevice>,
    /// Mediated devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mediated_devices: Vec<MediatedHostDevice>,
}

/// PCI functions that go by one name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PciHostDevice {
    /// The name.
    pub resource_name: String,
    /// Vendor and device: `10DE:1EB8`.
    pub pci_vendor_selector: String,
    /// Somebody else's plugin hands them out (default false).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_resource_provider: Option<bool>,
}

/// Mediated devices that go by one name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MediatedHostDevice {
    /// The name.
    pub resource_name: String,
    /// Their type: `GRID T4-1Q`.
    pub mdev_name_selector: String,
    /// Somebody else's plugin hands them out (default false).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_resource_provider: Option<bool>,
}

/// What a change of a running guest's `VirtualMachine` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum RolloutStrategy {
    /// It waits for the next start.
    Stage,
    /// It is carried out where that is possible.
    LiveUpdate,
}

/// How guests use instancetypes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InstancetypeConfiguration {
    /// What becomes of the reference (default `reference`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_policy: Option<ReferencePolicy>,
}

/// What becomes of a reference to an instancetype.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum ReferencePolicy {
    /// It stays.
    #[serde(rename = "reference")]
    Reference,
    /// The size takes its place.
    #[serde(rename = "expand")]
    Expand,
    /// The size takes its place, in what is already there too.
    #[serde(rename = "expandAll")]
    ExpandAll,
}

/// How servers speak TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsConfiguration {
    /// Nothing older (default `VersionTLS13`).
    #[serde(rename = "minTLSVersion", skip_serializing_if = "Option::is_none")]
    pub min_tls_version: Option<TlsVersion>,
    /// Cipher suites of TLS 1.2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ciphers: Vec<String>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum TlsVersion {
    /// 1.2.
    #[serde(rename = "VersionTLS12")]
    Tls12,
    /// 1.3.
    #[serde(rename = "VersionTLS13")]
    Tls13,
}

/// Whether the cluster's own roles include Vireo's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum RoleAggregationStrategy {
    /// They do.
    AggregateToDefault,
    /// They don't.
    Manual,
}

/// Where equal pages are shared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KsmConfiguration {
    /// On these nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_label_selector: Option<LabelSelector>,
}

/// Switches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeveloperConfiguration {
    /// On.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feature_gates: Vec<String>,
    /// Off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disabled_feature_gates: Vec<String>,
    /// vCPUs for each CPU that a pod asks for (default 10).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_allocation_ratio: Option<u32>,
    /// Guest memory for what a pod asks for, percent (default 100).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_overcommit: Option<u32>,
    /// Labels that every guest's node has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selectors: BTreeMap<String, String>,
}
