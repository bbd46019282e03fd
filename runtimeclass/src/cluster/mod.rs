//! The objects of a cluster, as its API server stores them: KubeVirt's kinds, for who watches and writes them.
//!
//! An [`Object`] is what is stored. Its spec is unread text of the user's: admission refuses what is wrong with it, but a
//! webhook can be missing, and one bad object must not end a watch of all. [`Object::spec`] is the only way from there to
//! a kind's own types, and it reports everything that is unknown, unsupported, missing or wrong, each by its path.
//! A status is the controller's own, and the CRD's schema, which is made from the same types, keeps it well-formed.
//!
//! An instance's spec has two halves. Its machine is [`crate::kubevirt::v1`]'s, which the pod's annotation hands to the
//! shim as it is; what concerns its pod ([`PodSettings`]) the controller turns into fields of the pod. Neither the shim nor
//! `vireo run` knows the second half: both refuse it by name.

mod condition;
mod configuration;
#[rustfmt::skip]
mod fields;
mod instance;
mod instance_status;
mod instancetype;
mod kinds;
mod kubevirt;
mod migration;
mod migration_policy;
mod object;
mod preference;
mod replica_set;
#[cfg(test)]
mod tests;
mod unread;
mod virtual_machine;

pub use condition::{Condition, ConditionStatus};
pub use configuration::{
    DefaultInterface, DeveloperConfiguration, InstancetypeConfiguration, KsmConfiguration, KubeVirtConfiguration,
    MediatedHostDevice, NetworkConfiguration, PciHostDevice, PermittedHostDevices, ReferencePolicy,
    RoleAggregationStrategy, RolloutStrategy, TlsConfiguration, TlsVersion,
};
pub use instance::{DnsPolicy, EvictionStrategy, GuestAgentPing, InstanceSpec, InstanceTemplate, PodSettings, Probe};
pub use instance_status::{
    ClaimInfo, CpuTopology, GuestOsInfo, InstancePhase, InstancePhaseTransition, InstanceStatus, InterfaceStatus,
    MachineStatus, MemoryStatus, MigrationMethod, VolumeStatus,
};
pub use instancetype::{CpuInstancetype, InstancetypeSpec, MemoryInstancetype};
pub use kinds::{
    KubeVirt, MigrationPolicy, VirtualMachine, VirtualMachineClusterInstancetype, VirtualMachineClusterPreference,
    VirtualMachineInstance, VirtualMachineInstanceMigration, VirtualMachineInstanceReplicaSet,
    VirtualMachineInstancetype, VirtualMachinePreference, kind,
};
pub use kubevirt::{
    CertConfig, CertificateRotateStrategy, ComponentConfig, Generation, KubeVirtPhase, KubeVirtSpec, KubeVirtStatus,
    NodePlacement, SelfSigned, UninstallStrategy, WorkloadUpdateMethod, WorkloadUpdateStrategy,
};
pub use migration::{
    AbortStatus, MigrationMode, MigrationPhase, MigrationPhaseTransition, MigrationPriority, MigrationSpec,
    MigrationState, MigrationStatus,
};
pub use migration_policy::{MigrationConfiguration, MigrationPolicySpec, MigrationPolicyStatus, Selectors};
pub use object::{Kind, NoStatus, Object};
pub use preference::{
    CpuPreferences, CpuRequirement, CpuTopologyPreference, DevicePreferences, FeaturePreferences, FirmwarePreferences,
    MemoryRequirement, PreferenceSpec, Requirements, SpreadAcross, SpreadOptions, VolumePreferences,
};
pub use replica_set::{ReplicaSetSpec, ReplicaSetStatus};
pub use unread::Unread;
pub use virtual_machine::{
    DataVolumeTemplate, InferFailurePolicy, InstancetypeRef, Matcher, PrintableStatus, RevisionRef, RunStrategy,
    StartFailure, StateChange, StateChangeRequest, VirtualMachineSpec, VirtualMachineStatus,
};
