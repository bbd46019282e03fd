//! How guests move: the cluster's configuration, and `MigrationPolicy`, which changes it for some of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Quantity;

/// How guests move.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MigrationConfiguration {
    /// So many at once in the cluster (default 5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_migrations_per_cluster: Option<u32>,
    /// So many at once from a node (default 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_outbound_migrations_per_node: Option<u32>,
    /// Bytes a second for each; 0 is no limit (default 0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_per_migration: Option<Quantity>,
    /// Seconds for each GiB that moves (default 150).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_timeout_per_gi_b: Option<u32>,
    /// Seconds without progress (default 150).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress_timeout: Option<u32>,
    /// Milliseconds that a guest may stand still (default 300).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_downtime_ms: Option<u32>,
    /// Slow down a guest that writes faster than it moves (default false).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_auto_converge: Option<bool>,
    /// Move memory after the guest where that goes too slowly (default false).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_post_copy: Option<bool>,
    /// Do so, or pause the guest, when time is up (default: as `allowPostCopy`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_workload_disruption: Option<bool>,
    /// Move what would lose writes (default false).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsafe_migration_override: Option<bool>,
    /// The NetworkAttachmentDefinition that guests move over, the pods' own network where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

/// How some guests move.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MigrationPolicySpec {
    /// Which.
    pub selectors: Selectors,
    /// Bytes a second for each; 0 is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_per_migration: Option<Quantity>,
    /// Seconds for each GiB that moves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_timeout_per_gi_b: Option<u32>,
    /// Milliseconds that a guest may stand still.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_downtime_ms: Option<u32>,
    /// Slow down a guest that writes faster than it moves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_auto_converge: Option<bool>,
    /// Move memory after the guest where that goes too slowly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_post_copy: Option<bool>,
    /// Do so, or pause the guest, when time is up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_workload_disruption: Option<bool>,
}

/// Guests that a policy is for: all of the labels have to be there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(clippy::struct_field_names, reason = "KubeVirt's names")]
pub struct Selectors {
    /// Labels of its namespace.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub namespace_selector: BTreeMap<String, String>,
    /// Labels of its instance.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub virtual_machine_instance_selector: BTreeMap<String, String>,
}

/// Nothing is seen of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct MigrationPolicyStatus {}
