//! Start, stop and restart: what [`crate::vm::command`] says is written.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{RunStrategy, VirtualMachine, VirtualMachineInstance};

use super::objects::{ATTEMPTS, is_conflict};
use super::refusal::MACHINE;
use super::{Refusal, Server, options};
use crate::vm::{self, Command, Guest, Want, command};

type Name = Path<(String, String)>;

pub(super) async fn start(
    State(server): State<Server>,
    Path((namespace, name)): Name,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    let options: options::Start = options::read(&body)?;
    server.command(&namespace, &name, Command::Start { paused: options.paused }, options.dry_run.is_dry()?).await
}

pub(super) async fn stop(
    State(server): State<Server>,
    Path((namespace, name)): Name,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    let options: options::Stop = options::read(&body)?;
    if options.grace_period.is_some_and(|seconds| seconds < 0) {
        return Err(Refusal::bad_request("gracePeriod has to be greater or equal to 0".to_owned()));
    }
    let asked = Command::Stop { grace_period: options.grace_period };
    server.command(&namespace, &name, asked, options.dry_run.is_dry()?).await
}

pub(super) async fn restart(
    State(server): State<Server>,
    Path((namespace, name)): Name,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    let options: options::Restart = options::read(&body)?;
    let asked = Command::Restart { grace_period: options.grace_period_seconds };
    server.command(&namespace, &name, asked, options.dry_run.is_dry()?).await
}

impl Server {
    /// Decides and writes, anew where somebody else wrote in between.
    async fn command(&self, namespace: &str, name: &str, asked: Command, dry: bool) -> Result<StatusCode, Refusal> {
        let params = PatchParams { dry_run: dry, ..PatchParams::default() };
        let mut machine = self.machine(namespace, name).await?;
        let found = self.instances(namespace).get_opt(name).await.map_err(|error| Refusal::internal(&error))?;
        let (machines, instance) = (self.machines(namespace), found);
        let mut shortened = false;
        for _ in 0..ATTEMPTS {
            let guest = Guest::new(&machine, strategy(&machine)?, instance.as_ref());
            let effect = command(&guest, asked).map_err(|refusal| refused(name, &refusal))?;
            if let (Some(seconds), false) = (effect.grace_period, shortened) {
                // Whoever asks last is obeyed: no version is needed.
                let patch = json!({"spec": {"terminationGracePeriodSeconds": seconds}});
                let written = self.instances(namespace).patch(name, &params, &Patch::Merge(&patch)).await;
                written.map_err(|error| Refusal::internal(&error))?;
                shortened = true;
            }
            let patch = patch(&machine, &effect.want);
            let written = match effect.want {
                Want::Strategy(_) => machines.patch(name, &params, &Patch::Merge(&patch)).await,
                Want::Requests(_) => machines.patch_status(name, &params, &Patch::Merge(&patch)).await,
            };
            match written {
                Ok(_) => {
                    if let (Some(instance), true) = (&instance, effect.deletes_pod) {
                        self.delete_pods(instance, dry).await?;
                    }
                    return Ok(StatusCode::ACCEPTED);
                }
                Err(error) if is_conflict(&error) => machine = self.machine(namespace, name).await?,
                Err(error) => return Err(Refusal::internal(&error)),
            }
        }
        Err(Refusal::conflict(MACHINE, name, "it changes too fast"))
    }

    /// At once, nearly: a second is the least that lets anything be flushed.
    async fn delete_pods(&self, instance: &VirtualMachineInstance, dry: bool) -> Result<(), Refusal> {
        let namespace = instance.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), namespace);
        let now = DeleteParams { dry_run: dry, grace_period_seconds: Some(1), ..DeleteParams::default() };
        for pod in self.pods_of(instance).await? {
            match api.delete(pod.metadata.name.as_deref().unwrap_or_default(), &now).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                deleted => drop(deleted.map_err(|error| Refusal::internal(&error))?),
            }
        }
        Ok(())
    }
}

fn refused(name: &str, refusal: &vm::Refusal) -> Refusal {
    match refusal {
        vm::Refusal::Conflict(why) => Refusal::conflict(MACHINE, name, why),
        vm::Refusal::BadRequest(why) => Refusal::bad_request(why.clone()),
    }
}

/// When a machine should run, though the rest of its spec may be unreadable: it can be stopped all the same.
fn strategy(machine: &VirtualMachine) -> Result<RunStrategy, Refusal> {
    match machine.unread.value().get("runStrategy") {
        None | Some(Value::Null) if machine.unread.value().get("running") == Some(&Value::Bool(true)) => {
            Ok(RunStrategy::Always)
        }
        None | Some(Value::Null) => Ok(RunStrategy::Halted),
        Some(strategy) => serde_json::from_value(strategy.clone())
            .map_err(|error| Refusal::internal(&format!("spec.runStrategy: {error}"))),
    }
}

/// What is wanted, as a merge patch on a machine that is still as it was seen.
fn patch(machine: &VirtualMachine, want: &Want) -> Value {
    let metadata = json!({"resourceVersion": machine.metadata.resource_version});
    match want {
        Want::Strategy(strategy)
            if machine.unread.value().get("runStrategy").is_some_and(|strategy| !strategy.is_null()) =>
        {
            json!({"metadata": metadata, "spec": {"runStrategy": strategy}})
        }
        Want::Strategy(strategy) => {
            json!({"metadata": metadata, "spec": {"running": *strategy == RunStrategy::Always}})
        }
        Want::Requests(requests) => json!({
            "metadata": metadata,
            "status": {"stateChangeRequests": requests, "startFailure": null},
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(spec: &Value) -> VirtualMachine {
        serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachine",
            "metadata": {"name": "a", "resourceVersion": "7"},
            "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn the_field_that_says_when_it_runs_is_the_one_that_is_written() {
        let want = Want::Strategy(RunStrategy::Halted);
        let version = json!({"resourceVersion": "7"});
        assert_eq!(
            patch(&machine(&json!({"runStrategy": "Always"})), &want),
            json!({"metadata": version, "spec": {"runStrategy": "Halted"}})
        );
        assert_eq!(
            patch(&machine(&json!({"running": true})), &want),
            json!({"metadata": version, "spec": {"running": false}})
        );
        let requests = patch(&machine(&json!({"runStrategy": "Manual"})), &Want::Requests(vec![]));
        assert_eq!(requests["status"], json!({"stateChangeRequests": [], "startFailure": null}));
    }

    #[test]
    fn a_machine_that_cannot_be_read_can_be_stopped() {
        let of = |spec: &Value| strategy(&machine(spec));
        assert_eq!(of(&json!({"running": true, "nonsense": 1})), Ok(RunStrategy::Always));
        assert_eq!(of(&json!({"running": false})), Ok(RunStrategy::Halted));
        assert_eq!(of(&json!({"runStrategy": "Manual", "template": 3})), Ok(RunStrategy::Manual));
        assert_eq!(of(&json!({"runStrategy": "Sometimes"})).unwrap_err().code(), 500);
    }
}
