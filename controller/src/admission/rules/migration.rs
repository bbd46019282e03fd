//! Rules on moves and on the policies for them.

use vireo_runtimeclass::cluster::{
    ConditionStatus, InstancePhase, InstanceStatus, MigrationPhase, MigrationPolicySpec, MigrationSpec,
    VirtualMachineInstance, VirtualMachineInstanceMigration,
};

use super::kubevirt::downtime;
use super::names::labels;
use crate::admission::verdict::Found;

pub(crate) fn migration(spec: &MigrationSpec, is_own: bool, found: &mut Found) {
    if spec.vmi_name.as_deref().is_none_or(str::is_empty) {
        found.refuse("spec.vmiName", "missing");
    }
    if spec.priority.is_some() && !is_own {
        found.refuse("spec.priority", "is the controller's own to write; leave it out");
    }
    labels(&spec.added_node_selector, "spec.addedNodeSelector", found);
}

/// Why an instance can't begin to move, if it can't. `others` are the moves of its namespace.
pub(crate) fn cant_move(
    name: &str,
    instance: Option<&VirtualMachineInstance>,
    others: &[VirtualMachineInstanceMigration],
) -> Option<String> {
    let Some(instance) = instance else {
        return Some(format!("there is no VirtualMachineInstance {name:?} in this namespace"));
    };
    let unknown = InstanceStatus::default();
    let status = instance.status.as_ref().unwrap_or(&unknown);
    if matches!(status.phase, Some(InstancePhase::Succeeded | InstancePhase::Failed)) {
        return Some("Cannot migrate VMI in finalized state.".to_owned());
    }
    if let Some(why) = not_migratable(status) {
        return Some(format!("Cannot migrate VMI, {why}"));
    }
    let under_way = others.iter().find(|other| {
        let phase = other.status.as_ref().and_then(|status| status.phase);
        let is_over = matches!(phase, Some(MigrationPhase::Succeeded | MigrationPhase::Failed));
        !is_over && other.spec().is_ok_and(|spec| spec.vmi_name.as_deref() == Some(name))
    });
    under_way.map(|other| {
        let uid = other.metadata.uid.as_deref().unwrap_or_default();
        format!("in-flight migration detected. Active migration job ({uid}) is currently already in progress for VMI {name}.")
    })
}

/// Why an instance can't move: it says that it can't, or nobody has said yet that it can.
pub(crate) fn not_migratable(status: &InstanceStatus) -> Option<String> {
    let Some(condition) = status.conditions.iter().find(|condition| condition.kind == "LiveMigratable") else {
        return Some("Reason: Unknown, Message: it has no LiveMigratable condition yet".to_owned());
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    (condition.status != ConditionStatus::True)
        .then(|| format!("Reason: {}, Message: {}", text(&condition.reason), text(&condition.message)))
}

pub(crate) fn policy(spec: &MigrationPolicySpec, found: &mut Found) {
    downtime(spec.max_downtime_ms, "spec", found);
    let selectors = &spec.selectors;
    labels(&selectors.namespace_selector, "spec.selectors.namespaceSelector", found);
    labels(&selectors.virtual_machine_instance_selector, "spec.selectors.virtualMachineInstanceSelector", found);
}
