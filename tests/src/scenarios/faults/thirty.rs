//! Thirty pods at once live as pods do, while VMMs, shims and containerd are killed at points that a seed spreads.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tonic::Status;

use super::{
    super::{
        Bench, Scenario,
        crash::{gone, kill_9, quick, removed},
        eventually::{LIMIT, eventually, until},
        leftovers::Leftovers,
        pod::Pod,
    },
    KILLED, UNKNOWN, another,
    processes::{Processes, daemon},
};
use crate::cri::v1;

pub(in super::super) const SCENARIOS: &[Scenario] = &[Scenario::each("thirty_pods_under_kills_leave_nothing", thirty)];

const PODS: u32 = 30;
/// Seconds for which a guest is asked to end.
const GRACE: i64 = 1;
/// Between two looks at what runs.
const LOOK: Duration = Duration::from_millis(20);
/// containerd is killed when so many guests have been started.
const STARTED: usize = 15;

/// What a pod goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Run,
    Create,
    Start,
    Stop,
    Remove,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Nobody,
    Vmm,
    Shim,
}

/// Who of a pod is killed, and when.
#[derive(Debug, Clone, Copy)]
struct Plan {
    victim: Victim,
    step: Step,
    /// At one look in so many at which it is there then: early or late, however long the step takes.
    one_in: u64,
}

impl Plan {
    /// Each victim at each step that it can be there in, twice or more.
    fn of(pod: u32, random: &mut Random) -> Self {
        let (victim, step) = match pod % 10 {
            0 | 1 => (Victim::Shim, Step::Run),
            2 => (Victim::Shim, Step::Create),
            3 => (Victim::Shim, Step::Start),
            4 => (Victim::Shim, Step::Stop),
            5 => (Victim::Shim, Step::Remove),
            6 => (Victim::Vmm, Step::Start),
            7 | 8 => (Victim::Vmm, Step::Stop),
            _ => (Victim::Nobody, Step::Over),
        };
        // Creating takes a look or two, the others many.
        let one_in = if step == Step::Create { 1 } else { 1 << random.below(4) };
        Self { victim, step, one_in }
    }
}

/// xorshift64 (Marsaglia, 2003): the same chances each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// One pod, as its own thread and the killer see it.
struct Progress {
    name: String,
    plan: Plan,
    killed: bool,
    /// containerd may not see how its guest ends: its shim is killed, or containerd itself is meanwhile.
    unseen: bool,
    step: Step,
}

fn thirty(bench: &mut Bench) -> Result<()> {
    let before = Leftovers::look()?;
    let mut random = Random(if bench.containerd == "1.6" { 16 } else { 17 });
    let mut benches = Vec::new();
    let mut progress = Vec::new();
    for number in 0..PODS {
        benches.push(bench.beside(1)?);
        let (name, plan) = (bench.last_name(), Plan::of(number, &mut random));
        let unseen = plan.victim == Victim::Shim;
        progress.push(Mutex::new(Progress { name, plan, killed: false, unseen, step: Step::Run }));
    }
    let over = AtomicBool::new(false);
    let begin = Instant::now();
    thread::scope(|scope| {
        let (progress, over) = (&progress, &over);
        let threads: Vec<_> = benches
            .into_iter()
            .zip(progress)
            .map(|(mut bench, progress)| scope.spawn(move || live(&mut bench, progress)))
            .collect();
        let killing = scope.spawn(move || kill_as_planned(progress, over, random));
        let restarted = restart(bench, progress);
        let lived: Vec<Result<()>> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a pod's thread panicked"))))
            .collect();
        over.store(true, Ordering::Relaxed);
        let killed = killing.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the killer panicked")));
        restarted?;
        killed?;
        lived.into_iter().collect::<Result<()>>()
    })?;
    let planned = progress.iter().filter(|pod| lock(pod).plan.victim != Victim::Nobody).count();
    let killed = progress.iter().filter(|pod| lock(pod).killed).count();
    println!("    {killed} of {planned} killed as planned, in {} s", begin.elapsed().as_secs());
    // containerd's own death cuts short what many are to be killed in.
    ensure!(killed * 8 >= planned, "{killed} of {planned} were there to be killed");
    another(bench)?;
    let left = before.compare(Duration::from_mins(1))?;
    ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    Ok(())
}

fn lock(pod: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    pod.lock().unwrap_or_else(PoisonError::into_inner)
}

/// containerd's death, and its next life.
fn restart(bench: &mut Bench, progress: &[Mutex<Progress>]) -> Result<()> {
    until("guests to be started", || {
        let steps = progress.iter().map(|pod| lock(pod).step);
        Ok(steps.filter(|step| !matches!(step, Step::Run | Step::Create)).count() >= STARTED)
    })?;
    let daemon = daemon()?;
    kill_9(daemon)?;
    until("containerd's end", || Ok(gone(daemon)))?;
    for pod in progress {
        // Between an exit, whose task it deletes, and its own note of that, it forgets how the container ended.
        let mut pod = lock(pod);
        pod.unseen |= matches!(pod.step, Step::Start | Step::Stop);
    }
    bench.restart_containerd()
}

/// Kills whoever's time it is, and sees to it that no pod has two guests.
fn kill_as_planned(progress: &[Mutex<Progress>], over: &AtomicBool, mut random: Random) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        let there = Processes::look()?;
        for (name, vmms) in &there.vmms {
            ensure!(vmms.len() == 1, "{name} has {} guests", vmms.len());
        }
        for pod in progress {
            let mut pod = lock(pod);
            let plan = pod.plan;
            if pod.killed || pod.step != plan.step {
                continue;
            }
            let victims = match plan.victim {
                Victim::Nobody => None,
                Victim::Vmm => there.vmms.get(&pod.name),
                Victim::Shim => there.shims.get(&pod.name),
            };
            let Some(victims) = victims.filter(|_| random.below(plan.one_in) == 0) else { continue };
            for victim in victims {
                kill_9(*victim)?;
                pod.killed = true;
            }
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// A pod's life, as far as it goes; then it is removed, as long as that takes.
fn live(bench: &mut Bench, progress: &Mutex<Progress>) -> Result<()> {
    let step = |step| lock(progress).step = step;
    step(Step::Run);
    if let Ok(mut pod) = bench.pod(quick()) {
        step(Step::Create);
        if again(bench, |bench| pod.create(bench)).is_ok() {
            step(Step::Start);
            let started = again(bench, |bench| pod.start(bench)).is_ok();
            step(Step::Stop);
            if started {
                let status = ended(bench, &pod)?;
                let codes: &[i32] = if lock(progress).unseen { &[KILLED, UNKNOWN] } else { &[KILLED] };
                ensure!(codes.contains(&status.exit_code), "{}: {status:?}", pod.name);
            }
        }
    }
    step(Step::Remove);
    let name = lock(progress).name.clone();
    removed(bench, &name)?;
    step(Step::Over);
    Ok(())
}

/// Makes a call, and once more if containerd died under it.
fn again(bench: &mut Bench, mut call: impl FnMut(&mut Bench) -> Result<(), Status>) -> Result<(), Status> {
    match call(bench) {
        Err(error) if error.code() == tonic::Code::Unavailable => {
            let back = eventually("containerd to be back", LIMIT, || {
                Ok(bench.cri().version(v1::VersionRequest::default()).ok())
            });
            back.map_err(|error| Status::unavailable(format!("{error:#}")))?;
            call(bench)
        }
        answer => answer,
    }
}

/// Stops a container, as long as that takes.
fn ended(bench: &mut Bench, pod: &Pod) -> Result<v1::ContainerStatus> {
    let status = eventually("the container's exit", LIMIT, || {
        let status = pod.stop(bench, GRACE).ok().and_then(|()| pod.status(bench).ok());
        Ok(status.filter(|status| status.state() == v1::ContainerState::ContainerExited))
    });
    status.with_context(|| pod.name.clone())
}
