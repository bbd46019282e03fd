//! containerd dies within each of CRI's calls, and the kubelet goes on with the next one.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use tonic::Status;

use super::{
    super::{
        Bench, Scenario,
        crash::{gone, kill_9, quick, removed},
        eventually::{LIMIT, until},
        leftovers::Leftovers,
        pod::{BUNDLES, Pod},
    },
    KILLED, another,
    processes::{Processes, daemon},
};
use crate::cri::v1;

pub(in super::super) const SCENARIOS: &[Scenario] =
    &[Scenario::under(&["1.6", "1.7"], "containerd_killed_within_each_call", each_call)];

/// Between two looks at what a call has done: calls are short.
const LOOK: Duration = Duration::from_millis(2);
/// Seconds for which a guest is asked to end.
const GRACE: i64 = 1;

/// Makes a call, kills containerd as soon as `begun` holds, and starts it again. The call's answer, if it was not cut short.
fn cut<T: Send>(
    bench: &mut Bench,
    what: &str,
    call: impl FnOnce(&mut Bench) -> T + Send,
    begun: impl Fn() -> Result<bool>,
) -> Result<T> {
    let daemon = daemon()?;
    let mut beside = bench.beside(1)?;
    let answer = thread::scope(|scope| {
        let calling = scope.spawn(move || call(&mut beside));
        let end = Instant::now() + LIMIT;
        while !begun()? && !calling.is_finished() {
            ensure!(Instant::now() < end, "{what}: has not come so far");
            thread::sleep(LOOK);
        }
        kill_9(daemon)?;
        until("containerd's end", || Ok(gone(daemon)))?;
        calling.join().map_err(|_| anyhow::anyhow!("{what}: panicked"))
    })?;
    bench.restart_containerd()?;
    Ok(answer)
}

fn each_call(bench: &mut Bench) -> Result<()> {
    let before = Leftovers::look()?;
    let shim = || Ok(!Processes::look()?.shims.is_empty());
    let cut_short = cut(bench, "RunPodSandbox", |bench| bench.pod(quick()).map(drop), shim)?;
    ensure!(cut_short.is_err(), "RunPodSandbox was over before containerd was killed");
    let name = bench.last_name();
    removed(bench, &name)?;

    let mut pod = bench.pod(quick())?;
    let folders = State::of(bench, "containers");
    let made = folders.count();
    let cut_short = cut(bench, "CreateContainer", |bench| pod.create(bench), || Ok(folders.count() > made))?;
    if cut_short.is_ok() {
        println!("    CreateContainer was over before containerd was killed");
    }
    pod.create_again(bench, |_| {})?;
    let bundle = Path::new(BUNDLES).join(&pod.container);
    start(bench, &mut pod, |_| bundle.exists())?;
    pod.stop(bench, 0)?;
    pod.create_again(bench, |_| {})?;
    start(bench, &mut pod, |pod| pod.pids().is_ok_and(|pids| !pids.is_empty()))?;
    let process = pod.vmm()?;
    let cut_short: Result<(), Status> =
        cut(bench, "StopContainer", |bench| pod.stop(bench, GRACE), || Ok(gone(process)))?;
    println!("    StopContainer: {:?}", cut_short.err().map(|error| error.message().to_owned()));
    let status = pod.wait_exit(bench)?;
    ensure!(status.exit_code == KILLED, "StopContainer: {status:?}");

    let id = pod.container.clone();
    let folder = folders.place.join(&id);
    let remove = |bench: &mut Bench| bench.cri().remove_container(v1::RemoveContainerRequest { container_id: id });
    drop(cut(bench, "RemoveContainer", remove, || Ok(!folder.exists()))?);

    running(bench, &mut pod)?;
    let (process, id) = (pod.vmm()?, pod.sandbox.clone());
    let request = v1::StopPodSandboxRequest { pod_sandbox_id: id };
    let cut_short = cut(bench, "StopPodSandbox", |bench| bench.cri().stop_pod_sandbox(request), || Ok(gone(process)))?;
    println!("    StopPodSandbox: {:?}", cut_short.err().map(|error| error.message().to_owned()));
    let status = pod.wait_exit(bench)?;
    ensure!(status.exit_code == KILLED, "StopPodSandbox: {status:?}");
    let request = v1::StopPodSandboxRequest { pod_sandbox_id: pod.sandbox.clone() };
    bench.cri().stop_pod_sandbox(request)?;

    let folder = State::of(bench, "sandboxes").place.join(&pod.sandbox);
    let request = v1::RemovePodSandboxRequest { pod_sandbox_id: pod.sandbox.clone() };
    drop(cut(bench, "RemovePodSandbox", |bench| bench.cri().remove_pod_sandbox(request), || Ok(!folder.exists()))?);
    removed(bench, &pod.name)?;
    another(bench)?;
    let left = before.compare(Duration::from_mins(1))?;
    ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    Ok(())
}

/// Cuts the start of a pod's container short at `point`; what has become of it then is not known, and none of it may run twice.
fn start(bench: &mut Bench, pod: &mut Pod, point: impl Fn(&Pod) -> bool) -> Result<()> {
    let cut_short = {
        let pod = &*pod;
        cut(bench, "StartContainer", |bench| pod.start(bench), || Ok(point(pod)))?
    };
    ensure!(cut_short.is_err(), "StartContainer was over before containerd was killed");
    println!("    after a cut start: {:?}", pod.status(bench)?.state());
    running(bench, pod)
}

/// As the kubelet makes a pod go on: with another container, unless the one that there is runs. There is one guest then.
fn running(bench: &mut Bench, pod: &mut Pod) -> Result<()> {
    let state = pod.status(bench).map(|status| status.state());
    if !matches!(state, Ok(v1::ContainerState::ContainerRunning)) {
        if state.is_ok() {
            pod.stop(bench, 0)?;
        }
        pod.create_again(bench, |_| {})?;
        pod.start(bench)?;
    }
    let vmms = Processes::look()?.vmms.remove(&pod.name).unwrap_or_default();
    match vmms[..] {
        [vmm] => ensure!(pod.vmm()? == vmm, "the guest that runs is another container's"),
        _ => bail!("{} guests run in the pod", vmms.len()),
    }
    Ok(())
}

/// A folder of CRI's state on disk.
struct State {
    place: PathBuf,
}

impl State {
    fn of(bench: &Bench, kind: &str) -> Self {
        let root = format!("/var/lib/containerd-{}", bench.containerd);
        Self { place: Path::new(&root).join("io.containerd.grpc.v1.cri").join(kind) }
    }

    fn count(&self) -> usize {
        fs::read_dir(&self.place).map_or(0, Iterator::count)
    }
}
