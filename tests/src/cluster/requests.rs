//! What the controller asks of the API server: few writes for a start, and nothing while nothing happens.

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use vireo_runtimeclass::cluster::{PrintableStatus, RunStrategy};

use super::{
    Scope, Test,
    guests::{guest, is},
    suite::CONTROLLER,
    tests,
};
use crate::kubernetes::{AuditLog, Noted, eventually};

pub(super) const ALONE: &[Test] =
    tests![Alone: a_start_takes_few_writes_and_a_controller_that_has_nothing_to_do_asks_for_nothing];

/// Guests that start at once.
const GUESTS: usize = 50;
/// Writes of a guest's start, and its events.
const WRITES: usize = 12;
const EVENTS: usize = 4;
/// The lease's renewals, every three seconds, are the clock by which nothing happens.
const RENEWALS: usize = 4;

/// What the controller asks for until its lease was renewed so often.
async fn until_renewed(log: &mut AuditLog, renewals: usize) -> Result<Vec<Noted>> {
    let mut asked = Vec::new();
    eventually("the lease is renewed", super::scope::LIMIT, async || {
        asked.extend(log.read()?.into_iter().filter(|noted| noted.user() == CONTROLLER));
        let renewed = asked.iter().filter(|noted| noted.resource() == "leases" && noted.is_write()).count();
        Ok((renewed >= renewals).then(|| std::mem::take(&mut asked)))
    })
    .await
}

fn told(noted: &[&Noted]) -> Vec<String> {
    noted.iter().map(|noted| format!("{} {} {}", noted.verb, noted.resource(), noted.name())).collect()
}

async fn a_start_takes_few_writes_and_a_controller_that_has_nothing_to_do_asks_for_nothing(scope: Scope) -> Result<()> {
    let mut log = scope.suite().plane().lock().await.audit()?;
    let names: Vec<String> = (0..GUESTS).map(|number| format!("guest-{number}")).collect();
    try_join_all(names.iter().map(|name| scope.create(guest(name, RunStrategy::Always)))).await?;
    let ready = |name| {
        scope.vm(name, "it is ready", |vm| {
            is(vm, PrintableStatus::Running) && vm.status.as_ref().is_some_and(|status| status.ready == Some(true))
        })
    };
    try_join_all(names.iter().map(|name| ready(name))).await?;
    // Events come a little later.
    let asked = until_renewed(&mut log, 2).await?;
    let writes: Vec<_> =
        asked.iter().filter(|noted| noted.is_write() && noted.namespace() == scope.namespace()).collect();
    let (events, objects): (Vec<_>, Vec<_>) = writes.into_iter().partition(|noted| noted.resource() == "events");
    let of_one: Vec<_> = objects.iter().filter(|noted| noted.name().contains("guest-7")).copied().collect();
    ensure!(objects.len() <= GUESTS * WRITES, "{} writes; of one: {:#?}", objects.len(), told(&of_one));
    ensure!(events.len() <= GUESTS * EVENTS, "{} events", events.len());

    let asked = until_renewed(&mut log, RENEWALS).await?;
    // Watches end by themselves and are made anew. The machines are asked for what no watch tells: their guests' agents.
    let idle = |noted: &&Noted| !["leases", "pods/exec"].contains(&noted.resource().as_str()) && noted.verb != "watch";
    let more: Vec<_> = asked.iter().filter(idle).collect();
    ensure!(more.is_empty(), "{:#?}", told(&more));
    Ok(())
}
