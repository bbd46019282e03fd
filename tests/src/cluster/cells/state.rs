//! States that a guest's instance is in before something is asked, and how a guest gets there.

use std::str::FromStr;

use anyhow::{Result, bail};
use kube::ResourceExt as _;
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{
    InstancePhase, PrintableStatus, RunStrategy, VirtualMachine, VirtualMachineInstance,
};

use super::super::{
    Scope,
    guests::{guest, holds, instance, is, status},
    subresources::ask,
};
use crate::kubernetes::State as PodState;

/// Keeps an instance while a test looks at it.
const HELD: &str = "example.com/held";

/// What an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// There is none.
    None,
    Running,
    /// Its guest has ended well.
    Succeeded,
    /// Its guest has ended badly.
    Failed,
}

impl FromStr for State {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "none" => Self::None,
            "running" => Self::Running,
            "succeeded" => Self::Succeeded,
            "failed" => Self::Failed,
            other => bail!("{other} is no state"),
        })
    }
}

/// A strategy's field, as the table writes it.
fn field(strategy: &str) -> Value {
    match strategy {
        "true" | "false" => json!({"running": strategy == "true"}),
        strategy => json!({"runStrategy": strategy}),
    }
}

fn with(name: &str, strategy: &str) -> Value {
    let mut guest = guest(name, RunStrategy::Always);
    // More than what a stop is asked to take.
    guest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(6);
    if let Some(spec) = guest["spec"].as_object_mut() {
        spec.remove("runStrategy");
        spec.extend(field(strategy).as_object().cloned().unwrap_or_default());
    }
    guest
}

/// Those that let no instance stay.
fn is_halted(strategy: &str) -> bool {
    matches!(strategy, "Halted" | "false")
}

/// Those that leave an instance as it ended.
fn leaves_it(strategy: &str) -> bool {
    matches!(strategy, "Manual" | "Once")
}

/// Makes a guest of a strategy whose instance is in a state; the instance's uid.
pub(super) async fn make(scope: &Scope, name: &str, strategy: &str, state: State) -> Result<Option<String>> {
    if state == State::None && !matches!(strategy, "Manual" | "RerunOnFailure") && !is_halted(strategy) {
        let mut lacks = with(name, strategy);
        lacks["spec"]["instancetype"] = json!({"name": "none", "kind": "VirtualMachineInstancetype"});
        scope.create(lacks).await?;
        scope.vm(name, "it has no size", |guest| holds(guest, "Failure").is_some()).await?;
        return Ok(None);
    }
    // What lets no instance stay has had one under another.
    let first = match strategy {
        "Halted" if state != State::None => "Always",
        "false" if state != State::None => "true",
        other => other,
    };
    scope.create(with(name, first)).await?;
    match (strategy, state) {
        ("Manual", State::None) => return stopped(scope, name).await,
        (_, State::None) if is_halted(strategy) => return stopped(scope, name).await,
        ("Manual", _) => {
            scope.vm(name, "it was seen", |guest| status(guest).printable_status.is_some()).await?;
            command(scope, name, "start").await?;
        }
        _ => {}
    }
    let settled = |guest: &VirtualMachine| {
        is(guest, PrintableStatus::Running)
            && status(guest).ready == Some(true)
            && status(guest).state_change_requests.is_empty()
    };
    scope.vm(name, "it runs", settled).await?;
    let made = instance(scope, name).await?;
    let uid = made.uid();
    if state == State::None {
        command(scope, name, "stop").await?;
        scope.wait_gone::<VirtualMachineInstance>(name).await?;
        return stopped(scope, name).await;
    }
    let pod = scope.pod(&made).await?;
    if state == State::Running {
        scope.kubelet().hold_pod(&pod);
    } else {
        if !leaves_it(strategy) {
            let held = [made.finalizers(), &[HELD.to_owned()]].concat();
            scope.patch::<VirtualMachineInstance>(name, json!({"metadata": {"finalizers": held}})).await?;
        }
        let (code, phase) =
            if state == State::Failed { (1, InstancePhase::Failed) } else { (0, InstancePhase::Succeeded) };
        scope.kubelet().say(&pod, &PodState::ended(code)).await?;
        scope.vmi(name, phase).await?;
    }
    if is_halted(strategy) {
        scope.patch::<VirtualMachine>(name, json!({ "spec": field(strategy) })).await?;
    }
    let goes = is_halted(strategy) || (state != State::Running && !leaves_it(strategy));
    if goes {
        let going = |seen: &VirtualMachineInstance| seen.metadata.deletion_timestamp.is_some();
        scope.wait(name, "it is to go", going).await?;
    }
    Ok(uid)
}

async fn stopped(scope: &Scope, name: &str) -> Result<Option<String>> {
    let stopped =
        |guest: &VirtualMachine| is(guest, PrintableStatus::Stopped) && status(guest).state_change_requests.is_empty();
    scope.vm(name, "it is stopped", stopped).await?;
    Ok(None)
}

/// Gives a command as the administrator.
async fn command(scope: &Scope, name: &str, command: &str) -> Result<()> {
    let namespace = scope.namespace();
    let path = format!("/apis/subresources.kubevirt.io/v1/namespaces/{namespace}/virtualmachines/{name}/{command}");
    match ask(scope.client(), "PUT", &path, "").await? {
        Ok(_) => Ok(()),
        Err((code, why)) => bail!("{command}: {code} {why}"),
    }
}

/// Lets an instance go on from where it was kept.
pub(super) async fn release(scope: &Scope, name: &str, strategy: &str, state: State) -> Result<()> {
    let Some(seen) = scope.api::<VirtualMachineInstance>().get_opt(name).await? else { return Ok(()) };
    match state {
        State::None => {}
        State::Running => scope.kubelet().release_pod(&scope.pod(&seen).await?).await?,
        State::Succeeded | State::Failed if leaves_it(strategy) => {}
        State::Succeeded | State::Failed => {
            // The version says that nobody else's is taken off.
            let others: Vec<_> = seen.finalizers().iter().filter(|finalizer| *finalizer != HELD).collect();
            let patch = json!({"metadata": {"finalizers": others, "resourceVersion": seen.resource_version()}});
            match scope.patch::<VirtualMachineInstance>(name, patch).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    return Box::pin(release(scope, name, strategy, state)).await;
                }
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                patched => drop(patched?),
            }
        }
    }
    Ok(())
}
