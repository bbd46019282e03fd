//! The controller under many machines: what it adds to a start, and what it takes of the machine and of the API server.
//!
//! ```text
//!   objects    what is made many times
//!   rig        a control plane that notes requests, a fake kubelet, the controller
//!   timeline   when each machine came how far
//!   process    CPU and memory
//!   asked      the controller's requests, counted
//! ```
//!
//! Everything shares this machine, the API server and the bench included: that the controller adds little where there is room is
//! told by machines that come one after the other, and what it does under a load that is too much by as many `ReplicaSet`s of
//! one pod, which Kubernetes' own controller makes, under the same load.

mod asked;
mod objects;
mod process;
mod rig;
mod timeline;

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, anyhow};
use k8s_openapi::jiff::Timestamp;

use self::{
    asked::Asked,
    objects::{guest, name, replica_set},
    process::{forget_peak, resident},
    rig::{Rig, is_work},
    timeline::{Guests, Kind, ReplicaSets, Timeline, percentile},
};
use super::figure::Figure;
use crate::{
    kubernetes::{Programs, enter},
    progress,
};

/// Machines that come one after the other, and how long after each other.
const PACED: usize = 200;
const PERIOD: Duration = Duration::from_millis(200);
/// How long nothing happens.
const IDLE: Duration = Duration::from_mins(1);
/// Aims: ms that the controller adds, its memory in KiB, and a start's writes.
const ADDED_BOUND: f64 = 1000.0;
const RESIDENT_BOUND: f64 = 64.0 * 1024.0;
const WRITES_BOUND: f64 = 12.0;

/// Measures a controller with so many machines. Logs are in a folder, which is replaced.
pub fn run(program: &Path, folder: &Path, machines: usize) -> Result<Vec<Figure>> {
    let programs = Programs::prepare()?;
    let (program, folder) = (program.to_owned(), folder.to_owned());
    // Its network is a thread's, and children die with the thread that started them.
    let thread = std::thread::spawn(move || {
        enter()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let rig = runtime.block_on(Rig::start(&programs, &folder, &program));
        runtime.block_on(measure(rig.context("start a control plane and the controller")?, machines))
    });
    thread.join().map_err(|_| anyhow!("the cluster's thread panicked"))?
}

async fn measure(mut rig: Rig, machines: usize) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    rig.until_quiet().await?;
    let (started, _) = resident(rig.pid())?;
    figures.extend(alone("memory/controller_started_rss", "KiB", started));
    figures.extend(paced(&mut rig, machines.min(PACED)).await.context("machines one after the other")?);
    let sets = replica_sets(&mut rig, machines).await.context("ReplicaSets at once")?;
    figures.extend(burst(&mut rig, machines, &sets).await.context("machines at once")?);
    figures.extend(idle(&mut rig).await.context("idle machines")?);
    figures.extend(restart(&mut rig).await.context("another controller")?);
    figures.extend(removal(&mut rig, machines).await.context("the machines' end")?);
    Ok(figures)
}

fn alone(name: &str, unit: &str, value: f64) -> Option<Figure> {
    Figure::alone(name, unit, &[value], None)
}

fn bound(figure: Option<Figure>, bound: f64) -> Option<Figure> {
    figure.map(|figure| Figure { bound: Some(bound), ..figure })
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn ratio(count: usize, of: usize) -> f64 {
    count as f64 / of as f64
}

/// There is room: what the controller adds by itself.
async fn paced(rig: &mut Rig, machines: usize) -> Result<Vec<Figure>> {
    progress::note(&format!("{machines} machines, one each {} ms", PERIOD.as_millis()));
    rig.make_paced((0..machines).map(|number| guest(&name(number))), PERIOD).await?;
    let timeline = told::<Guests>(rig, machines).await?;
    rig.until_quiet().await?;
    rig.remove("kubevirt.io/v1", "VirtualMachine", (0..machines).map(name)).await?;
    rig.until_quiet().await?;
    let added = timeline.added();
    progress::note(&format!(
        "of it before the pod {}, after it runs {}",
        shown(&timeline.before()),
        shown(&timeline.after())
    ));
    let [half, most] = [50, 95]
        .map(|percent| percentile(&added, percent).and_then(|value| alone(&row("paced", percent), "ms", value)));
    Ok(half.into_iter().chain(bound(most, ADDED_BOUND)).collect())
}

fn row(how: &str, percent: usize) -> String {
    format!("cluster/{how}_added_p{percent}")
}

fn shown(sorted: &[f64]) -> String {
    let at = |percent| percentile(sorted, percent).unwrap_or_default();
    format!("p50 {:.0} ms, p95 {:.0} ms", at(50), at(95))
}

/// When all of them run.
async fn told<K: Kind>(rig: &mut Rig, count: usize) -> Result<Timeline> {
    let mut timeline = Timeline::default();
    rig.until(&format!("{count} {} run", K::RESOURCE), |noted| {
        timeline.add::<K>(noted);
        timeline.told() == count
    })
    .await?;
    Ok(timeline)
}

/// Beside them: what Kubernetes itself makes of as many objects with a pod each.
async fn replica_sets(rig: &mut Rig, count: usize) -> Result<Timeline> {
    progress::note(&format!("{count} ReplicaSets at once"));
    let before = rig.cpu()?;
    rig.make((0..count).map(|number| replica_set(&name(number)))).await?;
    let timeline = told::<ReplicaSets>(rig, count).await?;
    note_cpu(rig, &before)?;
    note_times(&timeline);
    rig.remove("apps/v1", "ReplicaSet", (0..count).map(name)).await?;
    rig.until_quiet().await?;
    Ok(timeline)
}

fn note_times(timeline: &Timeline) {
    let (before, pods, after) = (timeline.before(), timeline.of_pods(), timeline.after());
    progress::note(&format!(
        "until the pod is made {}; until it runs {}; until that is told {}",
        shown(&before),
        shown(&pods),
        shown(&after)
    ));
}

/// Where the CPU went.
fn note_cpu(rig: &Rig, before: &[(&'static str, Duration)]) -> Result<()> {
    let spent: Vec<_> = rig
        .cpu()?
        .into_iter()
        .zip(before)
        .map(|((name, now), (_, then))| format!("{name} {:.1}", now.saturating_sub(*then).as_secs_f64()))
        .collect();
    progress::note(&format!("CPU seconds: {}", spent.join(", ")));
    Ok(())
}

/// All at once, which is more than two CPUs can do in a moment.
async fn burst(rig: &mut Rig, machines: usize, sets: &Timeline) -> Result<Vec<Figure>> {
    progress::note(&format!("{machines} machines at once"));
    forget_peak(rig.pid())?;
    let before = rig.cpu()?;
    let (mut noted, mut timeline) = (Vec::new(), Timeline::default());
    rig.make((0..machines).map(|number| guest(&name(number)))).await?;
    rig.until(&format!("{machines} machines run"), |more| {
        timeline.add::<Guests>(more);
        noted.extend_from_slice(more);
        timeline.told() == machines
    })
    .await?;
    note_cpu(rig, &before)?;
    noted.extend(rig.until_quiet().await?);
    note_times(&timeline);
    let asked = Asked::of(&noted);
    progress::note(&format!("requests: {asked}"));
    let spent =
        rig.cpu()?.first().zip(before.first()).map(|(now, then)| now.1.saturating_sub(then.1)).unwrap_or_default();
    let (now, peak) = resident(rig.pid())?;

    let mut figures = Vec::new();
    let beside = |name: &str, unit: &str, ours: Option<f64>, theirs: Option<f64>| {
        Figure::beside(name, unit, &[ours?], ("ReplicaSets", &[theirs?]), None)
    };
    for percent in [50, 95] {
        let [ours, theirs] = [timeline.added(), sets.added()].map(|added| percentile(&added, percent));
        figures.extend(beside(&row("burst", percent), "ms", ours, theirs));
    }
    figures.extend(beside("cluster/burst_whole", "ms", timeline.whole(), sets.whole()));
    figures.extend(bound(alone("cluster/writes_per_vm", "requests", ratio(asked.writes, machines)), WRITES_BOUND));
    figures.extend(alone("cluster/events_per_vm", "requests", ratio(asked.events, machines)));
    figures.extend(alone("cluster/reads_per_vm", "requests", ratio(asked.reads, machines)));
    figures.extend(alone("cluster/controller_cpu_per_vm", "ms", spent.as_secs_f64() * 1000.0 / ratio(machines, 1)));
    figures.extend(bound(alone("memory/controller_peak_rss", "KiB", peak), RESIDENT_BOUND));
    figures.extend(alone("memory/controller_rss_after", "KiB", now));
    Ok(figures)
}

/// Nothing happens.
async fn idle(rig: &mut Rig) -> Result<Vec<Figure>> {
    progress::note(&format!("{} s of nothing", IDLE.as_secs()));
    rig.noted()?;
    let before = rig.cpu()?;
    tokio::time::sleep(IDLE).await;
    note_cpu(rig, &before)?;
    let spent =
        rig.cpu()?.first().zip(before.first()).map(|(now, then)| now.1.saturating_sub(then.1)).unwrap_or_default();
    let asked = Asked::of(&rig.noted()?);
    progress::note(&format!("requests: {asked}"));
    let requests = [
        alone("cluster/idle_requests", "per minute", ratio(asked.writes + asked.events + asked.reads, 1)),
        alone("cluster/idle_lease_and_watches", "per minute", ratio(asked.leases + asked.watches, 1)),
        alone("cluster/idle_machines_asked", "per minute", ratio(asked.machines, 1)),
        alone("cluster/idle_cpu", "ms per minute", spent.as_secs_f64() * 1000.0),
    ];
    Ok(requests.into_iter().flatten().collect())
}

/// Another controller finds everything as it should be.
async fn restart(rig: &mut Rig) -> Result<Vec<Figure>> {
    progress::note("another controller");
    rig.noted()?;
    let begun = Timestamp::now();
    rig.restart_controller().await?;
    let led = Timestamp::now();
    let noted = rig.until_quiet().await?;
    let asked = Asked::of(&noted);
    progress::note(&format!("requests: {asked}"));
    let last = noted.iter().filter(|noted| is_work(noted)).map(crate::kubernetes::Noted::at).max().unwrap_or(led);
    let since = |end: Timestamp| end.duration_since(begun).as_millis_f64();
    let spent = rig.cpu()?.first().map(|(_, spent)| *spent).unwrap_or_default();
    let (_, peak) = resident(rig.pid())?;
    let figures = [
        alone("cluster/restart_leads", "ms", since(led)),
        alone("cluster/restart_last_request", "ms", since(last)),
        alone("cluster/restart_writes", "requests", ratio(asked.writes + asked.events, 1)),
        alone("cluster/restart_reads", "requests", ratio(asked.reads, 1)),
        alone("cluster/restart_cpu", "ms", spent.as_secs_f64() * 1000.0),
        bound(alone("memory/controller_restart_peak_rss", "KiB", peak), RESIDENT_BOUND),
    ];
    Ok(figures.into_iter().flatten().collect())
}

/// All are deleted at once.
async fn removal(rig: &mut Rig, machines: usize) -> Result<Vec<Figure>> {
    progress::note("all machines are deleted");
    rig.noted()?;
    forget_peak(rig.pid())?;
    let before = rig.cpu()?;
    let begun = Timestamp::now();
    rig.remove("kubevirt.io/v1", "VirtualMachine", (0..machines).map(name)).await?;
    let took = Timestamp::now().duration_since(begun).as_millis_f64();
    note_cpu(rig, &before)?;
    let asked = Asked::of(&rig.until_quiet().await?);
    progress::note(&format!("requests: {asked}"));
    let (now, peak) = resident(rig.pid())?;
    let figures = [
        alone("cluster/removal_whole", "ms", took),
        alone("cluster/removal_writes_per_vm", "requests", ratio(asked.writes, machines)),
        alone("cluster/removal_events_per_vm", "requests", ratio(asked.events, machines)),
        bound(alone("memory/controller_removal_peak_rss", "KiB", peak), RESIDENT_BOUND),
        alone("memory/controller_rss_without_machines", "KiB", now),
    ];
    Ok(figures.into_iter().flatten().collect())
}
