//! A controller that is killed right before, and right after, each of the writes that a start, a stop, a restart and a deletion take.
//!
//! An undisturbed run says how many they are. Then each guest is to be cut off at a write of its own: what stands between holds it there,
//! until all are where they should be. The controller is killed once, for all of them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use futures_util::future::try_join_all;
use kube::ResourceExt as _;
use vireo_runtimeclass::cluster::{VirtualMachine, VirtualMachineInstance};

use super::{
    Scope, Test,
    between::{Between, Cut},
    guests::{Deed, state},
    seen::Seen,
};
use crate::{
    cluster::scope::LIMIT,
    kubernetes::{eventually, until},
};

pub(super) const ALONE: &[Test] =
    super::tests![Alone: a_controller_that_is_killed_at_any_write_leaves_what_the_next_one_ends];

/// Guests at a time: fewer than a controller works on at a time, for those that are held take up its hands.
const AT_A_TIME: usize = 28;

/// A guest to be cut off.
#[derive(Debug, Clone)]
struct Point {
    deed: Deed,
    cut: Cut,
    name: String,
}

/// Without the suite's controller, which would lead.
async fn a_controller_that_is_killed_at_any_write_leaves_what_the_next_one_ends(scope: Scope) -> Result<()> {
    scope.suite().stop_controller().await?;
    let done = sweep(&scope).await;
    // It does what is left to do where something went wrong.
    if scope.suite().check().await.is_err() {
        scope.suite().start_controller().await?;
    }
    done
}

async fn sweep(scope: &Scope) -> Result<()> {
    let seen = Seen::of(scope);
    let samples = samples(scope).await.context("an undisturbed run")?;
    let mut points = Vec::new();
    for (deed, (_, _, writes)) in Deed::ALL.into_iter().zip(&samples) {
        // Writes may be merged or not: there may be one more than in an undisturbed run.
        let before = (0..=*writes).map(Cut::Before);
        let after = (1..=writes + 1).map(Cut::After);
        points.extend(before.chain(after).enumerate().map(|(index, cut)| {
            let name = format!("{}-{index:02}", deed.word());
            Point { deed, cut, name }
        }));
    }
    for points in points.chunks(AT_A_TIME) {
        kill_at(scope, &seen, points, &samples).await?;
    }
    for (deed, (name, ..)) in Deed::ALL.into_iter().zip(&samples) {
        seen.check(name, deed.instances()).await?;
    }
    Ok(())
}

/// An undisturbed guest for each deed: its name, its uid, and the writes that it took.
async fn samples(scope: &Scope) -> Result<Vec<(String, String, usize)>> {
    let between = Between::start(scope).await?;
    let (mut controller, identity) = scope.suite().another_controller(&between.server()).await?;
    scope.suite().wait_for_leader(&identity).await?;
    let samples = Deed::ALL.map(|deed| {
        let between = &between;
        async move {
            let name = format!("{}-as-it-should-be", deed.word());
            let uid = deed.prepare(scope, &name).await?;
            let before = instance_of(scope, &name).await?;
            between.count(&[&name, &uid], None);
            deed.act(scope, &name).await?;
            until(&format!("{name} is done"), LIMIT, async || deed.is_done(scope, &name, before.as_deref()).await)
                .await?;
            anyhow::Ok((name.clone(), uid, between.counted(&name).0))
        }
    });
    let samples = try_join_all(samples).await?;
    controller.kill();
    scope.suite().free_lease().await?;
    Ok(samples)
}

async fn instance_of(scope: &Scope, name: &str) -> Result<Option<String>> {
    Ok(scope.api::<VirtualMachineInstance>().get_opt(name).await?.and_then(|instance| instance.uid()))
}

/// Kills a controller where these guests say; another one ends what it began, as it does for the samples.
async fn kill_at(scope: &Scope, seen: &Seen, points: &[Point], samples: &[(String, String, usize)]) -> Result<()> {
    let suite = scope.suite();
    let mut uids = BTreeMap::new();
    {
        let between = Between::start(scope).await?;
        let (mut controller, identity) = suite.another_controller(&between.server()).await?;
        suite.wait_for_leader(&identity).await?;
        let prepared = points.iter().map(|point| async {
            let uid = point.deed.prepare(scope, &point.name).await?;
            anyhow::Ok((point.name.clone(), (uid, instance_of(scope, &point.name).await?)))
        });
        uids.extend(try_join_all(prepared).await?);
        for Point { cut, name, .. } in points {
            between.count(&[name, &uids[name].0], Some(*cut));
        }
        try_join_all(points.iter().map(|point| point.deed.act(scope, &point.name))).await?;
        let there = points.iter().map(|point| async {
            let Point { deed, cut, name } = point;
            until(&format!("{name} is cut off {cut:?}"), LIMIT, async || {
                Ok(between.counted(name).1 || deed.is_done(scope, name, uids[name].1.as_deref()).await?)
            })
            .await
        });
        try_join_all(there).await?;
        controller.kill();
    }
    suite.free_lease().await?;
    suite.start_controller().await?;
    for Point { deed, cut, name } in points {
        let (uid, before) = &uids[name];
        let ended = async || deed.is_done(scope, name, before.as_deref()).await;
        until(&format!("{name} ({cut:?}) is done"), LIMIT, ended).await?;
        let (sample, sample_uid, _) = &samples[Deed::ALL.iter().position(|other| other == deed).unwrap_or_default()];
        like(scope, (name, uid), (sample, sample_uid)).await.with_context(|| format!("{name}, killed {cut:?}"))?;
        seen.check(name, deed.instances()).await.with_context(|| format!("{name}, killed {cut:?}"))?;
    }
    for Point { deed, name, .. } in points {
        if *deed != Deed::Delete {
            scope.delete::<VirtualMachine>(name).await?;
        }
    }
    for Point { name, .. } in points {
        scope.wait_gone::<VirtualMachine>(name).await?;
    }
    suite.stop_controller().await
}

/// Waits until a guest is as another one.
async fn like(scope: &Scope, one: (&str, &str), other: (&str, &str)) -> Result<()> {
    let mut last = None;
    let same = eventually("it is as an undisturbed one", LIMIT, async || {
        let (one, other) = (state(scope, one.0, one.1).await?, state(scope, other.0, other.1).await?);
        if one == other {
            return Ok(Some(()));
        }
        last = Some((one, other));
        Ok(None)
    });
    match (same.await, last) {
        (Err(error), Some((one, other))) => bail!("{error}: it is\n{one:#}\nwhere the other is\n{other:#}"),
        (same, _) => same,
    }
}
