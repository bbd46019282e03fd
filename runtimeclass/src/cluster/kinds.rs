//! The kinds themselves.

use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};

use super::object::SpecFields;
use super::{
    InstanceSpec, InstanceStatus, InstancetypeSpec, Kind, KubeVirtSpec, KubeVirtStatus, MigrationPolicySpec,
    MigrationPolicyStatus, MigrationSpec, MigrationStatus, NoStatus, Object, PreferenceSpec, ReplicaSetSpec,
    ReplicaSetStatus, VirtualMachineSpec, VirtualMachineStatus, fields,
};
use crate::validate::{Problem, instance_spec, one_strategy};

/// KubeVirt's own group, in which clients of old still ask for `v1alpha3`.
const KUBEVIRT: (&str, &[&str]) = ("kubevirt.io", &["v1", "v1alpha3"]);
const INSTANCETYPE: (&str, &[&str]) = ("instancetype.kubevirt.io", &["v1beta1"]);
const MIGRATIONS: (&str, &[&str]) = ("migrations.kubevirt.io", &["v1alpha1"]);

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident: $group:ident, $plural:literal, $scope:ident, $spec:ident, $status:ident, $fields:ident, $rules:expr;)*) => {
        /// What tells the kinds apart.
        pub mod kind {
            $($(#[$doc])* #[derive(Debug, Clone, Copy, PartialEq, Eq)] pub enum $name {})*
        }
        $(
            $(#[$doc])*
            pub type $name = Object<kind::$name>;

            impl Kind for kind::$name {
                type Spec = $spec;
                type Status = $status;
                type Scope = $scope;
                const GROUP: &'static str = $group.0;
                const VERSIONS: &'static [&'static str] = $group.1;
                const KIND: &'static str = stringify!($name);
                const PLURAL: &'static str = $plural;

                fn rules(spec: &$spec) -> Vec<Problem> {
                    let rules: fn(&$spec) -> Vec<Problem> = $rules;
                    rules(spec)
                }

                fn fields() -> &'static SpecFields {
                    static FIELDS: SpecFields = SpecFields(&fields::$fields);
                    &FIELDS
                }
            }
        )*
    };
}

kinds! {
    /// A guest that outlives its pods.
    VirtualMachine: KUBEVIRT, "virtualmachines", NamespaceResourceScope,
        VirtualMachineSpec, VirtualMachineStatus, VIRTUAL_MACHINE_SPEC, virtual_machine;
    /// One run of a guest.
    VirtualMachineInstance: KUBEVIRT, "virtualmachineinstances", NamespaceResourceScope,
        InstanceSpec, InstanceStatus, VIRTUAL_MACHINE_INSTANCE_SPEC, |spec| instance_spec(&spec.machine, "spec");
    /// One move of an instance to another node.
    VirtualMachineInstanceMigration: KUBEVIRT, "virtualmachineinstancemigrations", NamespaceResourceScope,
        MigrationSpec, MigrationStatus, VIRTUAL_MACHINE_INSTANCE_MIGRATION_SPEC, |_| Vec::new();
    /// So many instances that are all alike.
    VirtualMachineInstanceReplicaSet: KUBEVIRT, "virtualmachineinstancereplicasets", NamespaceResourceScope,
        ReplicaSetSpec, ReplicaSetStatus, VIRTUAL_MACHINE_INSTANCE_REPLICA_SET_SPEC,
        |spec| instance_spec(&spec.template.spec.machine, "spec.template.spec");
    /// That Vireo is there, and how the cluster's guests are by default.
    KubeVirt: KUBEVIRT, "kubevirts", NamespaceResourceScope,
        KubeVirtSpec, KubeVirtStatus, KUBE_VIRT_SPEC, |_| Vec::new();
    /// A size that machines of a namespace share.
    VirtualMachineInstancetype: INSTANCETYPE, "virtualmachineinstancetypes", NamespaceResourceScope,
        InstancetypeSpec, NoStatus, VIRTUAL_MACHINE_INSTANCETYPE_SPEC, |_| Vec::new();
    /// A size that machines of the whole cluster share.
    VirtualMachineClusterInstancetype: INSTANCETYPE, "virtualmachineclusterinstancetypes", ClusterResourceScope,
        InstancetypeSpec, NoStatus, VIRTUAL_MACHINE_INSTANCETYPE_SPEC, |_| Vec::new();
    /// What a kind of guest gets in a namespace where its machine says nothing.
    VirtualMachinePreference: INSTANCETYPE, "virtualmachinepreferences", NamespaceResourceScope,
        PreferenceSpec, NoStatus, VIRTUAL_MACHINE_PREFERENCE_SPEC, |_| Vec::new();
    /// What a kind of guest gets in the whole cluster where its machine says nothing.
    VirtualMachineClusterPreference: INSTANCETYPE, "virtualmachineclusterpreferences", ClusterResourceScope,
        PreferenceSpec, NoStatus, VIRTUAL_MACHINE_PREFERENCE_SPEC, |_| Vec::new();
    /// How some guests move.
    MigrationPolicy: MIGRATIONS, "migrationpolicies", ClusterResourceScope,
        MigrationPolicySpec, MigrationPolicyStatus, MIGRATION_POLICY_SPEC, |_| Vec::new();
}

fn virtual_machine(spec: &VirtualMachineSpec) -> Vec<Problem> {
    one_strategy(spec.run_strategy.is_some(), spec.running.is_some())
        .into_iter()
        .chain(instance_spec(&spec.template.spec.machine, "spec.template.spec"))
        .collect()
}
