//! Calls on a running machine: each is one call over the channel of its pod, with a token, once it is known to make sense.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tracing::warn;
use vireo_runtimeclass::cluster::{Condition, ConditionStatus, InstancePhase, VirtualMachineInstance};
use vireo_runtimeclass::machine_service::v1;

use super::objects::{holds, name_of};
use super::refusal::INSTANCE;
use super::{Refusal, Server, options};
use crate::shim_client::Machine;

type Name = Path<(String, String)>;
type Answer = Result<StatusCode, Refusal>;

/// How long a call may take, with the opening of its channel: longer than an agent is given to freeze its guest.
const LIMIT: Duration = Duration::from_secs(40);
/// How often a machine is asked whether it has thawed its guest, and how long apart.
const THAW_LOOKS: u32 = 12;
const THAW_LOOK: Duration = Duration::from_secs(5);

pub(super) async fn pause(State(server): State<Server>, Path((namespace, name)): Name, body: Bytes) -> Answer {
    let dry = options::read::<options::DryRun>(&body)?.is_dry()?;
    let instance = server.instance(&namespace, &name).await?;
    may_pause(&instance)?;
    if !dry {
        call(&server, &instance, async |machine| {
            let request = machine.signed("Pause", v1::PauseRequest {})?;
            Ok(machine.client.pause(request).await.map(drop))
        })
        .await?;
        server.set_paused(&instance, true).await?;
        server.events.normal(&instance, "Paused", "VirtualMachineInstance paused").await;
    }
    Ok(StatusCode::OK)
}

pub(super) async fn unpause(State(server): State<Server>, Path((namespace, name)): Name, body: Bytes) -> Answer {
    let dry = options::read::<options::DryRun>(&body)?.is_dry()?;
    let instance = server.instance(&namespace, &name).await?;
    must_run(&instance, "VMI is not running")?;
    if !holds(&instance, "Paused") {
        return Err(Refusal::conflict(INSTANCE, &name, "VMI is not paused"));
    }
    if !dry {
        call(&server, &instance, async |machine| {
            let request = machine.signed("Resume", v1::ResumeRequest {})?;
            Ok(machine.client.resume(request).await.map(drop))
        })
        .await?;
        server.set_paused(&instance, false).await?;
        server.events.normal(&instance, "Unpaused", "VirtualMachineInstance unpaused").await;
    }
    Ok(StatusCode::OK)
}

pub(super) async fn reset(State(server): State<Server>, Path((namespace, name)): Name) -> Answer {
    let instance = server.instance(&namespace, &name).await?;
    let phase = instance.status.as_ref().and_then(|status| status.phase);
    if phase != Some(InstancePhase::Running) {
        let phase = phase.map_or_else(String::new, |phase| format!(" with phase {phase:?}"));
        return Err(Refusal::conflict(INSTANCE, &name, &format!("Failed to reset non-running VMI{phase}")));
    }
    call(&server, &instance, async |machine| {
        let request = machine.signed("Reset", v1::ResetRequest {})?;
        Ok(machine.client.reset(request).await.map(drop))
    })
    .await?;
    server.events.normal(&instance, "Reset", "VirtualMachineInstance reset").await;
    Ok(StatusCode::OK)
}

pub(super) async fn soft_reboot(State(server): State<Server>, Path((namespace, name)): Name) -> Answer {
    let instance = server.instance(&namespace, &name).await?;
    may_reboot(&instance)?;
    call(&server, &instance, async |machine| {
        let request = machine.signed("SoftReboot", v1::SoftRebootRequest {})?;
        Ok(machine.client.soft_reboot(request).await.map(drop))
    })
    .await?;
    server.events.normal(&instance, "SoftRebooted", "VirtualMachineInstance soft rebooted").await;
    Ok(StatusCode::OK)
}

pub(super) async fn freeze(State(server): State<Server>, Path((namespace, name)): Name, body: Bytes) -> Answer {
    let timeout = options::read::<options::Freeze>(&body)?.timeout()?;
    let instance = server.instance(&namespace, &name).await?;
    must_run(&instance, "VM is not running")?;
    let limit = timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1));
    let frozen = call(&server, &instance, async |machine| {
        let request = machine.signed("Freeze", v1::FreezeRequest { timeout_milliseconds: limit })?;
        Ok(machine.client.freeze(request).await.map(drop))
    });
    if let Err(refusal) = frozen.await {
        let note = "Failed to freeze VMI: its guest agent has to be connected, and to know how";
        server.events.warning(&instance, "FreezeError", note).await;
        return Err(refusal);
    }
    server.set_frozen(&instance, true).await?;
    if let Some(timeout) = timeout {
        tokio::spawn(async move {
            tokio::time::sleep(timeout).await;
            if let Err(refusal) = server.note_thaw(&instance).await {
                warn!("{namespace}/{name}: whether it is unfrozen, though its time is over: {refusal:?}");
            }
        });
    }
    Ok(StatusCode::OK)
}

pub(super) async fn unfreeze(State(server): State<Server>, Path((namespace, name)): Name) -> Answer {
    let instance = server.instance(&namespace, &name).await?;
    must_run(&instance, "VMI is not running")?;
    server.thaw(&instance).await?;
    Ok(StatusCode::OK)
}

/// KubeVirt's refusals: a probe would end a guest that stands still.
fn may_pause(instance: &VirtualMachineInstance) -> Result<(), Refusal> {
    let name = name_of(instance);
    must_run(instance, "VM is not running")?;
    let spec = instance.unread.value();
    let probe = spec.get("livenessProbe").filter(|probe| !probe.is_null());
    if probe.is_some_and(|probe| probe.get("guestAgentPing").is_none_or(Value::is_null)) {
        let why = "Pausing VMIs with a non-GuestAgentPing LivenessProbe is not supported";
        return Err(Refusal::forbidden(INSTANCE, name, why));
    }
    if holds(instance, "Paused") {
        return Err(Refusal::conflict(INSTANCE, name, "VMI is already paused"));
    }
    Ok(())
}

/// KubeVirt's refusals but for one: every machine here has ACPI, so that there is a way without an agent.
fn may_reboot(instance: &VirtualMachineInstance) -> Result<(), Refusal> {
    must_run(instance, "VM is not running")?;
    if holds(instance, "Paused") {
        return Err(Refusal::conflict(INSTANCE, name_of(instance), "VMI is paused"));
    }
    Ok(())
}

pub(super) fn must_run(instance: &VirtualMachineInstance, why: &str) -> Result<(), Refusal> {
    if instance.status.as_ref().and_then(|status| status.phase) == Some(InstancePhase::Running) {
        Ok(())
    } else {
        Err(Refusal::conflict(INSTANCE, name_of(instance), why))
    }
}

/// Asks the machine of `instance`.
pub(super) async fn call<T>(
    server: &Server,
    instance: &VirtualMachineInstance,
    ask: impl AsyncFnOnce(&mut Machine) -> Result<Result<T, tonic::Status>, Refusal>,
) -> Result<T, Refusal> {
    let pod = server.pod(instance).await?;
    let asked = async {
        let mut machine = Machine::connect(&server.context, &pod).await?;
        ask(&mut machine).await?.map_err(|status| Refusal::machine(name_of(instance), &status))
    };
    match tokio::time::timeout(LIMIT, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(Refusal::internal(&format!("the machine didn't answer within {} s", LIMIT.as_secs()))),
    }
}

impl Server {
    async fn thaw(&self, instance: &VirtualMachineInstance) -> Result<(), Refusal> {
        call(self, instance, async |machine| {
            let request = machine.signed("Thaw", v1::ThawRequest {})?;
            Ok(machine.client.thaw(request).await.map(drop))
        })
        .await?;
        self.set_frozen(instance, false).await
    }

    /// Says in the instance's status that the machine has thawed its guest, once it has: if the time of a freeze is over, it does
    /// that by itself, as soon as the guest's agent answers.
    async fn note_thaw(&self, instance: &VirtualMachineInstance) -> Result<(), Refusal> {
        let mut interval = tokio::time::interval(THAW_LOOK);
        for _ in 0..THAW_LOOKS {
            interval.tick().await;
            let frozen = call(self, instance, async |machine| {
                Ok(machine.client.info(v1::InfoRequest {}).await.map(|info| info.into_inner().frozen))
            });
            // Another freeze may hold it by now.
            if !frozen.await? {
                return self.set_frozen(instance, false).await;
            }
        }
        Ok(())
    }

    /// Says in the instance's status what the machine has just been told.
    async fn set_paused(&self, instance: &VirtualMachineInstance, paused: bool) -> Result<(), Refusal> {
        self.change_status(instance, |seen| {
            if holds(seen, "Paused") == paused {
                return None;
            }
            let conditions = seen.status.iter().flat_map(|status| &status.conditions);
            let mut conditions: Vec<_> = conditions.filter(|condition| condition.kind != "Paused").cloned().collect();
            if paused {
                let now = Some(Time(Timestamp::now()));
                conditions.push(Condition {
                    kind: "Paused".to_owned(),
                    status: ConditionStatus::True,
                    reason: Some("PausedByUser".to_owned()),
                    message: Some("VMI was paused by user".to_owned()),
                    last_probe_time: now.clone(),
                    last_transition_time: now,
                });
            }
            Some(json!({"conditions": conditions}))
        })
        .await
    }

    async fn set_frozen(&self, instance: &VirtualMachineInstance, frozen: bool) -> Result<(), Refusal> {
        let status = frozen.then_some("frozen");
        self.change_status(instance, |seen| {
            let is = seen.status.as_ref().and_then(|seen| seen.fs_freeze_status.as_deref());
            (is != status).then(|| json!({"fsFreezeStatus": status}))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(spec: &Value, status: &Value) -> VirtualMachineInstance {
        serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachineInstance",
            "metadata": {"name": "a"},
            "spec": spec,
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_pause_is_refused_as_kubevirt_does() {
        let (none, running) = (json!({}), json!({"phase": "Running"}));
        let refused = |spec: &Value, status: &Value| {
            let refusal = may_pause(&instance(spec, status)).unwrap_err();
            (refusal.code(), refusal.message().to_owned())
        };
        assert_eq!(may_pause(&instance(&none, &running)), Ok(()));
        assert_eq!(may_pause(&instance(&json!({"livenessProbe": {"guestAgentPing": {}}}), &running)), Ok(()));
        let (code, message) = refused(&none, &json!({"phase": "Scheduling"}));
        assert_eq!(
            (code, message.as_str()),
            (409, "Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io \"a\": VM is not running")
        );
        let (code, message) = refused(&json!({"livenessProbe": {"tcpSocket": {"port": 22}}}), &running);
        assert!(code == 403 && message.contains("non-GuestAgentPing"), "{message}");
        let paused = json!({"phase": "Running", "conditions": [{"type": "Paused", "status": "True"}]});
        let (code, message) = refused(&none, &paused);
        assert!(code == 409 && message.ends_with("VMI is already paused"), "{message}");
    }

    #[test]
    fn a_soft_reboot_is_refused_as_kubevirt_does() {
        let answer = |status: &Value| {
            let refused = may_reboot(&instance(&json!({}), status)).err();
            refused
                .map(|refusal| (refusal.code(), refusal.message().rsplit(": ").next().unwrap_or_default().to_owned()))
        };
        let paused = json!({"phase": "Running", "conditions": [{"type": "Paused", "status": "True"}]});
        assert_eq!(answer(&json!({"phase": "Running"})), None);
        assert_eq!(answer(&json!({"phase": "Scheduled"})), Some((409, "VM is not running".to_owned())));
        assert_eq!(answer(&paused), Some((409, "VMI is paused".to_owned())));
    }
}
