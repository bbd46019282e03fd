//! What decisions are made from.

use vireo_runtimeclass::cluster::{
    Condition, ConditionStatus, InstancePhase, InstanceStatus, RunStrategy, StateChange, StateChangeRequest,
    VirtualMachine, VirtualMachineInstance, VirtualMachineSpec, VirtualMachineStatus,
};

/// A `VirtualMachine` and its instance, as they are stored.
#[derive(Debug, Clone, Copy)]
pub struct Guest<'a> {
    /// When it should run.
    pub strategy: RunStrategy,
    /// It is being deleted.
    pub is_deleted: bool,
    /// What was last seen of it and asked of it.
    pub status: &'a VirtualMachineStatus,
    /// Its instance.
    pub instance: Option<Instance<'a>>,
}

/// One run of a guest.
#[derive(Debug, Clone, Copy)]
pub struct Instance<'a> {
    /// Which.
    pub uid: &'a str,
    /// It is being deleted.
    pub is_deleted: bool,
    /// Seconds that it has to end, where it says so.
    pub grace_period: Option<i64>,
    /// What was seen of it.
    pub status: &'a InstanceStatus,
}

/// A status that nobody has written yet.
static NO_STATUS: std::sync::LazyLock<VirtualMachineStatus> = std::sync::LazyLock::new(VirtualMachineStatus::default);
static NO_INSTANCE_STATUS: std::sync::LazyLock<InstanceStatus> = std::sync::LazyLock::new(InstanceStatus::default);

/// When a guest should run: `Halted` where its spec names neither, which admission refuses.
pub fn strategy(spec: &VirtualMachineSpec) -> RunStrategy {
    let running = if spec.running == Some(true) { RunStrategy::Always } else { RunStrategy::Halted };
    spec.run_strategy.unwrap_or(running)
}

impl<'a> Guest<'a> {
    /// A guest whose spec has been read and says `strategy`.
    pub fn new(vm: &'a VirtualMachine, strategy: RunStrategy, instance: Option<&'a VirtualMachineInstance>) -> Self {
        Self {
            strategy,
            is_deleted: vm.metadata.deletion_timestamp.is_some(),
            status: vm.status.as_ref().unwrap_or(&NO_STATUS),
            instance: instance.map(Instance::new),
        }
    }

    /// What is to be done next.
    pub(super) fn first_request(&self) -> Option<&'a StateChangeRequest> {
        self.status.state_change_requests.first()
    }

    /// A start is asked for.
    pub(super) fn start_request(&self) -> Option<&'a StateChangeRequest> {
        self.first_request().filter(|request| request.action == StateChange::Start)
    }

    /// A stop of this very instance is asked for.
    pub(super) fn must_stop(&self, instance: Instance<'_>) -> bool {
        self.first_request()
            .is_some_and(|request| request.action == StateChange::Stop && request.uid.as_deref() == Some(instance.uid))
    }
}

impl<'a> Instance<'a> {
    /// An instance, whether or not its spec can be read.
    pub fn new(vmi: &'a VirtualMachineInstance) -> Self {
        Self {
            uid: vmi.metadata.uid.as_deref().unwrap_or_default(),
            is_deleted: vmi.metadata.deletion_timestamp.is_some(),
            grace_period: vmi.unread.value().get("terminationGracePeriodSeconds").and_then(serde_json::Value::as_i64),
            status: vmi.status.as_ref().unwrap_or(&NO_INSTANCE_STATUS),
        }
    }

    /// Nobody has said anything of it yet, and soon somebody will.
    pub(super) fn is_new(&self) -> bool {
        self.status.phase.is_none() && !self.is_deleted
    }

    /// It has ended, well or not.
    pub fn is_final(&self) -> bool {
        matches!(self.status.phase, Some(InstancePhase::Succeeded | InstancePhase::Failed))
    }

    /// Its guest has run.
    pub(super) fn has_run(&self) -> bool {
        let transitions = &self.status.phase_transition_timestamps;
        transitions.iter().any(|transition| transition.phase == Some(InstancePhase::Running))
    }

    pub(super) fn condition(&self, kind: &str) -> Option<&'a Condition> {
        self.status.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// A condition doesn't hold, for this reason.
    pub(super) fn lacks(&self, kind: &str, reason: &str) -> bool {
        self.condition(kind).is_some_and(|condition| {
            condition.status == ConditionStatus::False && condition.reason.as_deref() == Some(reason)
        })
    }
}
