//! Two controllers, one of which leads: it is frozen, told to end and killed in the middle of its work, and the other goes on.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use nix::sys::signal::Signal;
use tokio::time::Instant;
use vireo_runtimeclass::cluster::{PrintableStatus, RunStrategy, VirtualMachine};

use super::{
    Scope, Test,
    between::{Between, Cut},
    seen::Seen,
};
use crate::{
    cluster::{
        guests::{guest, is, status},
        scope::LIMIT,
    },
    kubernetes::{Daemon, until},
};

pub(super) const ALONE: &[Test] = super::tests![Alone: a_leader_that_is_frozen_or_ends_is_followed_and_writes_no_more];

/// A start takes no more writes than this.
const WRITES: usize = 20;
/// Within this a lease that nobody renews is another's: the controller's own fifteen seconds, and what two cores may take.
const EXPIRY: Duration = Duration::from_secs(18);
/// A lease that was given back is another's at once.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A controller, and what stands before it.
struct Replica {
    between: Between,
    daemon: Daemon,
    identity: String,
}

impl Replica {
    async fn start(scope: &Scope) -> Result<Self> {
        let between = Between::start(scope).await?;
        let (daemon, identity) = scope.suite().another_controller(&between.server()).await?;
        Ok(Self { between, daemon, identity })
    }

    /// What it wrote, its lease left out.
    fn writes(&self) -> Vec<String> {
        self.between.writes().into_iter().filter(|write| !write.contains("/leases")).collect()
    }

    /// Waits for it to say something.
    async fn says(&self, what: &str) -> Result<()> {
        let words = format!("{} {what}", self.identity);
        until(&words, LIMIT, async || Ok(std::fs::read_to_string(self.daemon.log())?.contains(&words))).await
    }

    /// Has guests started, each of which it can't get beyond a write of its own; their names.
    async fn is_in_the_middle(&self, scope: &Scope, why: &str) -> Result<Vec<String>> {
        let names: Vec<_> = (0..WRITES).map(|writes| format!("{why}-{writes:02}")).collect();
        for (writes, name) in names.iter().enumerate() {
            self.between.count(&[name], Some(Cut::Before(writes)));
        }
        try_join_all(names.iter().map(|name| scope.create(guest(name, RunStrategy::Always)))).await?;
        for name in &names {
            until(&format!("{name} is held"), LIMIT, async || {
                Ok(self.between.counted(name).1 || runs(&scope.api::<VirtualMachine>().get(name).await?))
            })
            .await?;
        }
        Ok(names)
    }
}

fn runs(vm: &VirtualMachine) -> bool {
    is(vm, PrintableStatus::Running) && status(vm).ready == Some(true)
}

async fn a_leader_that_is_frozen_or_ends_is_followed_and_writes_no_more(scope: Scope) -> Result<()> {
    scope.suite().stop_controller().await?;
    let done = walk(&scope).await;
    // Whoever leads is gone by now.
    scope.suite().free_lease().await?;
    scope.suite().start_controller().await?;
    done
}

async fn walk(scope: &Scope) -> Result<()> {
    let (suite, seen) = (scope.suite(), Seen::of(scope));
    let mut first = Replica::start(scope).await?;
    suite.wait_for_leader(&first.identity).await?;
    let mut second = Replica::start(scope).await?;
    second.says("follows").await?;

    let frozen = first.is_in_the_middle(scope, "frozen").await?;
    first.daemon.signal(Signal::SIGSTOP)?;
    follows(scope, &second, EXPIRY, &frozen).await.context("the leader is frozen")?;
    let written = first.writes().len();
    // What was under way arrives now, and does no harm; and then it wakes.
    first.between.release();
    first.daemon.signal(Signal::SIGCONT)?;
    first.says("leads no more").await?;
    first.says("follows").await?;
    let more = first.writes().split_off(written);
    ensure!(more.is_empty(), "it wrote though another leads: {more:?}");

    let told = second.is_in_the_middle(scope, "told").await?;
    second.daemon.signal(Signal::SIGTERM)?;
    follows(scope, &first, AT_ONCE, &told).await.context("the leader is told to end")?;
    second.daemon.wait(LIMIT).await?;
    let more = first.writes().split_off(written);
    ensure!(!more.is_empty(), "what it would have written is seen");

    let mut third = Replica::start(scope).await?;
    third.says("follows").await?;
    first.between.hold_again();
    let killed = first.is_in_the_middle(scope, "killed").await?;
    first.daemon.kill();
    follows(scope, &third, EXPIRY, &killed).await.context("the leader is killed")?;
    for name in frozen.iter().chain(&told).chain(&killed) {
        seen.check(name, 1).await?;
    }
    third.daemon.kill();
    Ok(())
}

/// Waits for another leader, and for guests to run under it.
async fn follows(scope: &Scope, next: &Replica, within: Duration, guests: &[String]) -> Result<()> {
    let since = Instant::now();
    scope.suite().wait_for_leader(&next.identity).await?;
    let took = since.elapsed();
    ensure!(took <= within, "another leads after {took:?}");
    for name in guests {
        scope.vm(name, "it runs under another", runs).await?;
    }
    Ok(())
}
