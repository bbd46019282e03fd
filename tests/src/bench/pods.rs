//! Pods as the kubelet has them made: what a VM's start takes beside an ordinary container's, and what many of them cost.
//!
//! Both kinds are asked for by the same calls of CRI (sandbox, container, start) on the same node. A start's end is the first
//! instruction of what the pod is for: the guest's, or the container's own program's.

use std::{sync::Barrier, thread, time::Duration};

use anyhow::{Context, Result, anyhow};

use super::{
    entries::{Entries, Entry},
    figure::Figure,
    idle::CONTAINERD,
    rounds::milliseconds,
    samples::{Sample, Samples},
};
use crate::{
    progress,
    scenarios::{
        Bench, measure,
        pod::{Pod, PodSpec, UP, vmi},
    },
};

/// Idle guests touch most of their RAM's huge pages.
pub const NODE_MEMORY_MIB: u32 = 6144;
/// A pod's start on an emulated node at its limit.
const LIMIT: Duration = Duration::from_mins(3);

const SERIAL: &str = "pod/first_instruction";
const PARALLEL: &str = "pod/first_instruction_of_10_at_once";
const MANY: &str = "memory/pod_pss_beyond_ram";
/// Of runc's time.
const START_BOUND: f64 = 1.3;
/// KiB.
const PSS_BOUND: f64 = 16.0 * 1024.0;
/// Pods started at once.
const AT_ONCE: u32 = 10;
/// Idle pods beside each other.
const IDLE: u32 = 30;
/// What the ordinary container runs. The sandbox runs something else.
const PROGRAM: &str = "/bin/cat";

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Vireo,
    Runc,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Vireo, Self::Runc];

    fn name(self) -> &'static str {
        match self {
            Self::Vireo => "Vireo",
            Self::Runc => "runc",
        }
    }

    fn spec(self) -> PodSpec {
        match self {
            Self::Vireo => PodSpec::guest(),
            Self::Runc => PodSpec { command: vec![PROGRAM.to_owned()], ..PodSpec::ordinary() },
        }
    }

    /// Guests at work are entered often: of many of them, only entries at their first instruction are looked at.
    fn entries(self, rip: Option<u64>) -> Result<Entries> {
        match (self, rip) {
            (Self::Vireo, Some(rip)) => Entries::at(rip),
            (Self::Vireo, None) => Entries::trace(),
            (Self::Runc, _) => Entries::of_program(PROGRAM),
        }
    }
}

/// Measures those that have `only` in their name, or one of several with commas between.
pub fn run(runs: usize, only: Option<&str>) -> Result<Vec<Figure>> {
    let named = |name: &str| only.is_none_or(|only| only.split(',').any(|part| name.contains(part)));
    let mut figures = Vec::new();
    if named(SERIAL) || named(PARALLEL) {
        let mut samples = Samples::default();
        for run in 0..=runs {
            let what = if run == 0 { "warming up".to_owned() } else { format!("starts of pods, run {run} of {runs}") };
            progress::step(&what, || starts(run > 0, named(PARALLEL), &mut samples))?;
        }
        figures = samples.figures(|_, _| Some(START_BOUND));
        figures.retain(|figure| named(&figure.name));
    }
    if named(MANY) {
        figures.extend(many()?);
    }
    Ok(figures)
}

/// One round; the first one fills caches and isn't counted.
fn starts(counts: bool, at_once: bool, samples: &mut Samples) -> Result<()> {
    for kind in Kind::ALL {
        let (alone, first) = start(kind, 1, None)?;
        let mut measured = vec![(SERIAL, alone)];
        if at_once {
            measured.push((PARALLEL, start(kind, AT_ONCE, first.rip)?.0));
        }
        for (name, time) in measured {
            let sample = Sample { name: name.to_owned(), unit: "ms", value: milliseconds(time) };
            progress::note(&format!("{}: {name} {:.0} ms", kind.name(), sample.value));
            if counts {
                samples.add(kind.name(), sample);
            }
        }
    }
    Ok(())
}

/// Starts `count` pods at once. From the first call on, until the last of them has executed its first instruction; and that.
fn start(kind: Kind, count: u32, rip: Option<u64>) -> Result<(Duration, Entry)> {
    let mut entries = kind.entries(rip)?;
    let mut benches = (0..count).map(|number| Bench::numbered(CONTAINERD, number)).collect::<Result<Vec<_>>>()?;
    let ready = Barrier::new(benches.len() + 1);
    let (begun, pods) = thread::scope(|scope| {
        let started: Vec<_> = benches
            .iter_mut()
            .map(|bench| {
                let ready = &ready;
                scope.spawn(move || {
                    ready.wait();
                    let mut pod = bench.pod(kind.spec())?;
                    pod.create(bench)?;
                    pod.start(bench)?;
                    anyhow::Ok(pod)
                })
            })
            .collect();
        let begun = measure::now();
        ready.wait();
        let pods = started.into_iter().map(|pod| pod.join().map_err(|_| anyhow!("a start panicked"))?);
        (begun, pods.collect::<Result<Vec<Pod>>>())
    });
    let (begun, pods) = (begun?, pods.with_context(|| kind.name())?);
    let firsts = entries.firsts(benches.len(), LIMIT).with_context(|| kind.name())?;
    drop(entries);
    for (pod, bench) in pods.into_iter().zip(&mut benches) {
        pod.remove(bench)?;
    }
    let last = *firsts.last().context("there is at least one")?;
    Ok((last.at.saturating_sub(begun), last))
}

/// A pod whose guest is up, or nothing.
fn idle(bench: &mut Bench, spec: &PodSpec) -> Result<Pod> {
    let mut pod = bench.pod(spec.clone())?;
    pod.create(bench)?;
    pod.start(bench)?;
    match pod.wait_console(bench, UP) {
        Ok(_) => Ok(pod),
        Err(error) => pod.remove(bench).and(Err(error)),
    }
}

/// What each of many idle pods of 128 MiB takes beside its guest's RAM: its VMM and its shim, what they share shared.
fn many() -> Result<Option<Figure>> {
    let mut bench = Bench::new(CONTAINERD)?;
    let mut spec = vmi("");
    spec["domain"]["memory"]["guest"] = "128Mi".into();
    let spec = PodSpec { memory_limit: 192 << 20, ..PodSpec::described(&spec) };
    let mut pods = Vec::new();
    for number in 1..=IDLE {
        let pod = progress::step(&format!("idle pod {number} of {IDLE}"), || {
            // On an emulated node a guest may end by a fault of the emulator.
            idle(&mut bench, &spec).or_else(|error| {
                progress::note(&format!("once more: {error:#}"));
                idle(&mut bench, &spec)
            })
        })?;
        pods.push(pod);
    }
    let mut samples = Vec::new();
    for pod in &pods {
        let memory = measure::memory(pod.vmm()?, pod.shim()?)?;
        samples.push(f64::from(u32::try_from(memory.overhead())?));
    }
    for pod in pods {
        pod.remove(&mut bench)?;
    }
    Ok(Figure::alone(MANY, "KiB", &samples, Some(PSS_BOUND)))
}
