//! API servers and etcds that end and start anew while guests start, and watches that are too old.

use anyhow::Result;
use futures_util::future::try_join_all;
use kube::{ResourceExt as _, api::ListParams};
use serde_json::json;
use vireo_runtimeclass::cluster::{PrintableStatus, RunStrategy, VirtualMachine, VirtualMachineInstance};

use super::{Scope, Test, between::Between, seen::Seen};
use crate::{
    cluster::{
        guests::{guest, instance, is, status},
        scope::LIMIT,
    },
    kubernetes::until,
};

pub(super) const ALONE: &[Test] = super::tests![Alone:
    an_api_server_and_an_etcd_that_start_anew_leave_one_pod_to_each_guest,
    a_watch_that_is_too_old_is_made_good_by_looking,
];

fn runs(vm: &VirtualMachine) -> bool {
    is(vm, PrintableStatus::Running) && status(vm).ready == Some(true)
}

/// Has guests started, and comes back when the first of them has an instance.
async fn begins(scope: &Scope, why: &str) -> Result<Vec<String>> {
    const GUESTS: usize = 10;
    let names: Vec<_> = (0..GUESTS).map(|index| format!("{why}-{index}")).collect();
    try_join_all(names.iter().map(|name| scope.create(guest(name, RunStrategy::Always)))).await?;
    until("a guest has an instance", LIMIT, async || {
        let all = scope.api::<VirtualMachineInstance>().list(&ListParams::default()).await?;
        Ok(all.items.iter().any(|instance| instance.name_any().starts_with(why)))
    })
    .await?;
    Ok(names)
}

async fn an_api_server_and_an_etcd_that_start_anew_leave_one_pod_to_each_guest(scope: Scope) -> Result<()> {
    let (suite, seen) = (scope.suite(), Seen::of(&scope));
    let mut names = begins(&scope, "without-server").await?;
    suite.plane().lock().await.restart_api_server().await?;
    names.extend(begins(&scope, "without-store").await?);
    suite.plane().lock().await.restart_etcd().await?;
    for name in &names {
        scope.vm(name, "it runs", runs).await?;
        seen.check(name, 1).await?;
    }
    suite.check().await
}

/// Nothing that happens is heard of: guests halted, instances gone, guests made; then the watches are too old.
async fn a_watch_that_is_too_old_is_made_good_by_looking(scope: Scope) -> Result<()> {
    scope.suite().stop_controller().await?;
    let done = deaf(&scope).await;
    scope.suite().free_lease().await?;
    scope.suite().start_controller().await?;
    done
}

async fn deaf(scope: &Scope) -> Result<()> {
    let seen = Seen::of(scope);
    let between = Between::start(scope).await?;
    let (mut controller, identity) = scope.suite().another_controller(&between.server()).await?;
    scope.suite().wait_for_leader(&identity).await?;
    for name in ["halted", "remade", "deleted"] {
        scope.create(guest(name, RunStrategy::Always)).await?;
        scope.vm(name, "it runs", runs).await?;
    }
    let before = instance(scope, "remade").await?.uid();
    between.deafen();
    scope.patch::<VirtualMachine>("halted", json!({"spec": {"runStrategy": "Halted"}})).await?;
    scope.delete::<VirtualMachineInstance>("remade").await?;
    scope.delete::<VirtualMachine>("deleted").await?;
    scope.create(guest("new", RunStrategy::Always)).await?;
    between.expire();
    scope.wait_gone::<VirtualMachineInstance>("halted").await?;
    scope.vm("halted", "it is stopped", |vm| is(vm, PrintableStatus::Stopped)).await?;
    let another = |seen: &VirtualMachineInstance| seen.uid() != before && seen.metadata.deletion_timestamp.is_none();
    scope.wait("remade", "another instance", another).await?;
    scope.wait_gone::<VirtualMachine>("deleted").await?;
    for name in ["remade", "new"] {
        scope.vm(name, "it runs", runs).await?;
    }
    for (name, instances) in [("halted", 1), ("remade", 2), ("deleted", 1), ("new", 1)] {
        seen.check(name, instances).await?;
    }
    controller.kill();
    Ok(())
}
