//! Every run strategy with every command, in every state of the instance: what the aggregated API answers, what it writes, and what the
//! controller makes of it. `table.md` is the table.

mod history;
mod state;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use vireo_runtimeclass::cluster::{StateChange, VirtualMachine, VirtualMachineInstance};

use super::{
    Scope, Test,
    guests::{guest, instance, status},
    scope::LIMIT,
    subresources::{ask, permit},
    tests,
};
use crate::kubernetes::until;
use history::History;
use state::State;

pub(super) const TESTS: &[Test] = tests![Together:
    each_command_to_each_strategy_is_answered_and_carried_out,
    a_guest_that_would_wait_as_a_receiver_is_refused,
];

const TABLE: &str = include_str!("table.md");
/// Who asks: may do no more.
const USER: &str = "operator-of-guests";
/// Cells at once: what they wait for is the controller, which others need as well.
const AT_ONCE: usize = 24;

/// A row.
#[derive(Debug, Clone, Copy)]
struct Cell {
    strategy: &'static str,
    state: State,
    command: &'static str,
    code: u16,
    why: &'static str,
    after: &'static str,
    asked: &'static str,
    instance: &'static str,
}

impl Cell {
    fn read(row: &'static str) -> Result<Self> {
        let columns: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [strategy, state, command, answer, after, asked, instance] = columns[..] else { bail!("columns: {row}") };
        let (code, why) = answer.split_once(' ').unwrap_or((answer, ""));
        let (code, state) = (code.parse().context("a code")?, state.parse()?);
        Ok(Self { strategy, state, command, code, why, after, asked, instance })
    }

    /// What is asked for, and with which body.
    fn request(self) -> Result<(&'static str, &'static str)> {
        Ok(match self.command {
            "start" | "stop" | "restart" => (self.command, ""),
            "start paused" => ("start", r#"{"paused": true}"#),
            "stop within 5" => ("stop", r#"{"gracePeriod": 5}"#),
            "restart at once" => ("restart", r#"{"gracePeriodSeconds": 0}"#),
            other => bail!("{other} is no command"),
        })
    }
}

fn cells() -> Result<Vec<Cell>> {
    let rows = TABLE.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| Cell::read(row).with_context(|| row)).collect()
}

async fn each_command_to_each_strategy_is_answered_and_carried_out(scope: Scope) -> Result<()> {
    scope.suite().aggregate().await?;
    let commands = ["virtualmachines/start", "virtualmachines/stop", "virtualmachines/restart"];
    let may = json!({"apiGroups": ["subresources.kubevirt.io"], "resources": commands, "verbs": ["update"]});
    permit(&scope, USER, may).await?;
    let user = scope.suite().user(USER).await?;
    let history = History::of(&scope);
    let cells = cells()?;
    let all =
        cells.into_iter().enumerate().map(|(index, cell)| {
            let (name, scope, user, history) = (format!("cell-{index}"), &scope, &user, &history);
            async move {
                Box::pin(walk(scope, user, history, &name, cell)).await.with_context(|| format!("{name}: {cell:?}"))
            }
        });
    stream::iter(all).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
}

async fn walk(scope: &Scope, user: &Client, history: &History, name: &str, cell: Cell) -> Result<()> {
    let before = state::make(scope, name, cell.strategy, cell.state).await.context("the state before")?;
    let seen = history.of_guest(name).len();
    let was = scope.api::<VirtualMachine>().get(name).await?;
    let (verb, body) = cell.request()?;
    let namespace = scope.namespace();
    let path = format!("/apis/subresources.kubevirt.io/v1/namespaces/{namespace}/virtualmachines/{name}/{verb}");
    let answer = ask(user, "PUT", &path, body).await?;
    match &answer {
        Ok(_) => ensure!(cell.code == 202, "{answer:?}"),
        Err((code, why)) => {
            ensure!(*code == cell.code && why.ends_with(cell.why) && !cell.why.is_empty(), "{answer:?}");
        }
    }
    let guest = scope.api::<VirtualMachine>().get(name).await?;
    ensure!(
        answer.is_ok() || guest.metadata.generation == was.metadata.generation,
        "refused, and written all the same"
    );
    if cell.command != "start paused" {
        ensure!(strategy_of(&guest) == cell.after, "its strategy: {:?}", guest.unread);
    }
    if cell.asked.is_empty() {
        let others = history.of_guest(name).split_off(seen);
        // What the controller itself asks for, where an instance failed, is in the table's words another's.
        let asked = others.iter().map(|guest| status(guest).state_change_requests).find(|all| !all.is_empty());
        ensure!(
            answer.is_err() || asked.is_none() || asked == Some(status(&was).state_change_requests),
            "it was asked for {asked:?}"
        );
    } else {
        until(&format!("it was asked to {}", cell.asked), LIMIT, async || {
            Ok(history.of_guest(name).iter().skip(seen).any(|guest| asked_of(guest, before.as_deref()) == cell.asked))
        })
        .await?;
    }
    if cell.command == "stop within 5" {
        let shortened = |seen: &VirtualMachineInstance| seen.unread.value()["terminationGracePeriodSeconds"] == 5;
        scope.wait(name, "its time to end is shorter", shortened).await?;
    }
    Box::pin(state::release(scope, name, cell.strategy, cell.state)).await.context("it may go")?;
    becomes(scope, name, cell, before.as_deref()).await?;
    let guest = scope.api::<VirtualMachine>().get(name).await?;
    ensure!(strategy_of(&guest) == cell.after, "its strategy in the end: {:?}", guest.unread);
    // Its namespace's end would have to wait for it.
    scope.delete::<VirtualMachine>(name).await
}

/// Waits for what is to become of the instance, which was `before`.
async fn becomes(scope: &Scope, name: &str, cell: Cell, before: Option<&str>) -> Result<()> {
    let idle = |guest: &VirtualMachine| status(guest).state_change_requests.is_empty();
    match cell.instance {
        "none" => {
            let seen = scope.api::<VirtualMachineInstance>().get_opt(name).await?;
            ensure!(before.is_none() && seen.is_none(), "{seen:?}");
        }
        "same" => {
            let seen = instance(scope, name).await?;
            ensure!(seen.uid().as_deref() == before, "{seen:?}");
        }
        "gone" => {
            scope.wait_gone::<VirtualMachineInstance>(name).await?;
            scope.vm(name, "nothing is asked of it", idle).await?;
        }
        "another" => {
            let another = |seen: &VirtualMachineInstance| {
                seen.metadata.deletion_timestamp.is_none() && seen.uid().as_deref() != before
            };
            let seen = scope.wait(name, "another instance", another).await?;
            let is_paused = seen.unread.value().get("startStrategy") == Some(&json!("Paused"));
            ensure!(is_paused == (cell.command == "start paused"), "{seen:?}");
            scope.vm(name, "nothing is asked of it", idle).await?;
        }
        other => bail!("{other} is nothing that becomes of an instance"),
    }
    Ok(())
}

/// The field that says when a guest runs, as in the table.
fn strategy_of(guest: &VirtualMachine) -> String {
    let field = |name: &str| guest.unread.value().get(name).filter(|value| !value.is_null()).cloned();
    match field("runStrategy").or_else(|| field("running")) {
        Some(serde_json::Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// What is asked of a guest, as in the table; a stop is of the instance that was there.
fn asked_of(guest: &VirtualMachine, before: Option<&str>) -> String {
    let word = |request: &vireo_runtimeclass::cluster::StateChangeRequest| match request.action {
        StateChange::Stop if request.uid.as_deref() == before => "stop",
        StateChange::Stop => "stop another",
        StateChange::Start => "start",
    };
    status(guest).state_change_requests.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// Nothing receives a guest yet.
async fn a_guest_that_would_wait_as_a_receiver_is_refused(scope: Scope) -> Result<()> {
    let mut waits = guest("waits", vireo_runtimeclass::cluster::RunStrategy::Always);
    waits["spec"]["runStrategy"] = json!("WaitAsReceiver");
    let said = scope.refused(waits).await?;
    ensure!(said.contains("spec.runStrategy") && said.contains("WaitAsReceiver"), "{said}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{cells, state::State};

    /// What start, stop and restart do to each strategy in each state is a row, and but one.
    #[test]
    fn the_table_has_every_cell() {
        let cells = cells().unwrap();
        let all: BTreeSet<_> = cells.iter().map(|cell| (cell.strategy, cell.state, cell.command)).collect();
        assert_eq!(all.len(), cells.len());
        for strategy in ["Always", "Halted", "Manual", "RerunOnFailure", "Once", "true", "false"] {
            for state in [State::None, State::Running, State::Succeeded, State::Failed] {
                for command in ["start", "stop", "restart"] {
                    assert!(all.contains(&(strategy, state, command)), "{strategy} {state:?} {command}");
                }
            }
        }
        assert!(cells.iter().all(|cell| cell.request().is_ok()));
    }
}
