//! `VirtualMachine`: a guest that outlives its pods, and whether it should run.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Condition, InstanceTemplate};
use crate::kubevirt::v1::ObjectMeta;

/// What is wanted of a guest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VirtualMachineSpec {
    /// When it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_strategy: Option<RunStrategy>,
    /// The older form of `runStrategy`: true is `Always`, false is `Halted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<bool>,
    /// What sizes it, instead of `template`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instancetype: Option<Matcher>,
    /// What fills in for `template` where that says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preference: Option<Matcher>,
    /// DataVolumes that live as long as it does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data_volume_templates: Vec<DataVolumeTemplate>,
    /// The instance that it runs.
    pub template: InstanceTemplate,
}

/// When a `VirtualMachine` runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum RunStrategy {
    /// Always: what ended is started again.
    Always,
    /// Never.
    Halted,
    /// From the call that starts it to the call that stops it, whatever it does itself.
    Manual,
    /// Until it ends well: what failed is started again.
    RerunOnFailure,
    /// Once.
    Once,
}

/// Names an instancetype or a preference.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Matcher {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its kind, where that isn't the cluster-wide one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The ControllerRevision that holds it as it was when it was first used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision_name: Option<String>,
    /// A volume of the template whose claim's labels name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infer_from_volume: Option<String>,
    /// What happens where they don't (default `Reject`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infer_from_volume_failure_policy: Option<InferFailurePolicy>,
}

/// What happens where a volume names no instancetype.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum InferFailurePolicy {
    /// The guest isn't started.
    Reject,
    /// It is, without one.
    Ignore,
}

/// A DataVolume (of the Containerized Data Importer) that is made with the guest and goes with it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataVolumeTemplate {
    /// `cdi.kubevirt.io/v1beta1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// `DataVolume`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its name, labels and annotations.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What the importer is asked for, in its own language: it checks it.
    pub spec: Value,
    /// Nothing; clients write it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

/// What was seen of a guest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineStatus {
    /// Its instance exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<bool>,
    /// Its instance is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// All of it in one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub printable_status: Option<PrintableStatus>,
    /// The strategy that was last acted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_strategy: Option<RunStrategy>,
    /// Its own conditions and its instance's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// What was asked for and isn't done yet, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state_change_requests: Vec<StateChangeRequest>,
    /// How its starts fail, while they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_failure: Option<StartFailure>,
    /// The generation that its instance was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The newest generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_generation: Option<i64>,
    /// The instancetype as it was first used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instancetype_ref: Option<InstancetypeRef>,
    /// The preference likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preference_ref: Option<InstancetypeRef>,
}

/// A guest's state in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum PrintableStatus {
    /// It has no instance, and none is wanted.
    Stopped,
    /// Its DataVolumes are being filled.
    Provisioning,
    /// A claim isn't bound.
    WaitingForVolumeBinding,
    /// Its instance is on its way.
    Starting,
    /// Its instance runs.
    Running,
    /// Its instance stands still.
    Paused,
    /// Its instance changes its node.
    Migrating,
    /// Its instance is being ended.
    Stopping,
    /// It is itself being deleted.
    Terminating,
    /// Its instances fail; the next one waits.
    CrashLoopBackOff,
    /// No node takes its pod.
    ErrorUnschedulable,
    /// An image can't be pulled.
    ErrImagePull,
    /// An image couldn't be pulled; the next try waits.
    ImagePullBackOff,
    /// A claim doesn't exist.
    ErrorPvcNotFound,
    /// A DataVolume failed.
    DataVolumeError,
    /// The node doesn't answer.
    Unknown,
}

/// Something asked of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct StateChangeRequest {
    /// What.
    pub action: StateChange,
    /// How: `paused`, `true` for one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
    /// The instance that is to be stopped; another one isn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// What can be asked of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum StateChange {
    /// To be started.
    Start,
    /// To be stopped.
    Stop,
}

/// How a guest's starts fail.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct StartFailure {
    /// Instances that failed since the last that didn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_fail_count: Option<u32>,
    /// The last of them.
    #[serde(rename = "lastFailedVMIUID", skip_serializing_if = "Option::is_none")]
    pub last_failed_vmiuid: Option<String>,
    /// No new one before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_timestamp: Option<Time>,
}

/// The instancetype or preference that a guest uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct InstancetypeRef {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The volume that named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infer_from_volume: Option<String>,
    /// What would have happened otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infer_from_volume_failure_policy: Option<InferFailurePolicy>,
    /// The object that holds it as it was when it was first used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller_revision_ref: Option<RevisionRef>,
}

/// A ControllerRevision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RevisionRef {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}
