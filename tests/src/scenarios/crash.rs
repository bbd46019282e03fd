//! Everything of a node dies at once, but for its kernel: what a crash of containerd's service with all that is in its cgroup looks like.
//! A node that loses its power leaves less, for everything of Vireo's is in `/run`.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use super::{
    Bench, Scenario,
    eventually::{LIMIT, eventually, until},
    leftovers::Leftovers,
    pod::{self, BUNDLES, Pod, PodSpec},
    shell,
};
use crate::{
    cri::v1,
    guest::images::{CONTAINER_DISK, PAYLOAD},
};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::each("everything_killed_at_once", everything)];

/// Seconds for which a guest is asked to end.
const GRACE: i64 = 1;

/// What the kubelet calls, in this order; a machine may be paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Run,
    Create,
    Start,
    Pause,
    Stop,
}

fn everything(bench: &mut Bench) -> Result<()> {
    everything_of(bench, &PodSpec::guest().handler, BUNDLES)
}

/// Pods of the runtime `handler`, whose sandboxes' bundles are in `bundles`.
pub(super) fn everything_of(bench: &mut Bench, handler: &str, bundles: &str) -> Result<()> {
    let quick = || PodSpec { handler: handler.to_owned(), ..quick() };
    let before = Leftovers::look()?;
    let mut pods = Vec::new();
    for last in [Call::Run, Call::Start, Call::Pause, Call::Stop] {
        let mut pod = None;
        for call in [Call::Run, Call::Create, Call::Start, Call::Pause, Call::Stop] {
            make(call, bench, &mut pod, quick)?;
            if call == last {
                break;
            }
        }
        pods.push(pod.context("a pod")?);
    }
    let shims: Vec<_> = pods.iter().map(Pod::shim).collect::<Result<_>>()?;
    let vmms: Vec<_> = pods.iter().filter_map(|pod| pod.vmm().ok()).collect();
    let daemon: u32 = fs::read_to_string("/run/node-containerd.pid")?.trim().parse()?;
    kill_9(daemon)?;
    until("containerd's end", || Ok(gone(daemon)))?;
    for pid in vmms.iter().chain(&shims) {
        kill_9(*pid)?;
    }
    for pid in vmms.into_iter().chain(shims) {
        until("the end of all", || Ok(gone(pid)))?;
    }
    // Whatever it is that must be swept is there.
    let mounted = |pod: &Pod| fs::read_to_string("/proc/self/mountinfo").map(|text| text.contains(&pod.container));
    ensure!(mounted(&pods[1])?, "there is no mount to sweep");
    ensure!(pods[1].cgroup().exists(), "there is no cgroup to sweep");
    ensure!(fs::read_dir("/run/vireo")?.count() > 0, "there is no socket to sweep");

    // containerd asks the shim's `delete` to sweep each bundle that nobody answers for.
    bench.restart_containerd()?;
    for pod in &pods {
        let (mount, bundle) = (|| mounted(pod), Path::new(bundles).join(&pod.sandbox));
        until("the bundle's end", || Ok(!bundle.exists()))?;
        if !pod.container.is_empty() {
            until("the mount's end", || Ok(!mount()?))?;
            ensure!(pod.status(bench)?.state() == v1::ContainerState::ContainerExited, "{:?}", pod.status(bench)?);
        }
        let left = fs::read_dir(pod.pod_cgroup_of("memory"))?.flatten().find(|entry| entry.path().is_dir());
        ensure!(left.is_none(), "{left:?} is left");
    }
    // The node goes on.
    let mut pod = bench.pod(quick())?;
    pod.create(bench)?;
    pod.start(bench)?;
    pods.push(pod);
    for pod in pods {
        removed(bench, &pod.name)?;
    }
    let left = before.compare(LIMIT)?;
    ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    Ok(())
}

/// Makes a call as the kubelet does.
fn make(call: Call, bench: &mut Bench, pod: &mut Option<Pod>, spec: impl Fn() -> PodSpec) -> Result<()> {
    if call == Call::Run {
        *pod = Some(bench.pod(spec())?);
        return Ok(());
    }
    let pod = pod.as_mut().context("there is no pod")?;
    match call {
        Call::Run => {}
        Call::Create => pod.create(bench)?,
        Call::Start => pod.start(bench)?,
        Call::Pause => drop(shell::output(["ctr", "-n", "k8s.io", "task", "pause", &pod.container])?),
        Call::Stop => pod.stop(bench, GRACE)?,
    }
    Ok(())
}

/// Removes the pods of a name, as long as it takes.
pub(super) fn removed(bench: &mut Bench, name: &str) -> Result<()> {
    let mut last = String::new();
    let done = eventually("its removal", LIMIT, || match try_remove(bench, name) {
        Ok(()) => Ok(Some(())),
        Err(error) => {
            last = format!("{error:#}");
            Ok(None)
        }
    });
    done.context(last)?;
    pod::forget(name)
}

fn try_remove(bench: &mut Bench, name: &str) -> Result<()> {
    for sandbox in bench.cri().list_pod_sandbox(v1::ListPodSandboxRequest {})?.items {
        if sandbox.metadata.is_some_and(|metadata| metadata.name == name) {
            let pod_sandbox_id = sandbox.id;
            let request = v1::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
            bench.cri().stop_pod_sandbox(request).context("StopPodSandbox")?;
            let request = v1::RemovePodSandboxRequest { pod_sandbox_id };
            bench.cri().remove_pod_sandbox(request).context("RemovePodSandbox")?;
        }
    }
    Ok(())
}

/// Kills a process; one that has just ended is fine.
pub(super) fn kill_9(pid: u32) -> Result<()> {
    match kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL) {
        Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("kill -9 {pid}")),
    }
}

/// Whether a process is gone, or waits for nothing but its parent.
pub(super) fn gone(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// A pod whose guest halts at once.
pub(super) fn quick() -> PodSpec {
    let vmi = json!({
        "domain": {
            "cpu": {"cores": 1},
            "memory": {"guest": "64Mi"},
            "firmware": {"kernelBoot": {"container": {"image": CONTAINER_DISK, "kernelPath": PAYLOAD}}},
            "devices": {
                "disks": [{"name": "root", "disk": {"bus": "virtio"}}],
                "interfaces": [{"name": "default", "masquerade": {}}],
            },
        },
        "networks": [{"name": "default", "pod": {}}],
        "volumes": [{"name": "root", "containerDisk": {"image": CONTAINER_DISK}}],
    });
    PodSpec { memory_limit: 128 << 20, ..PodSpec::described(&vmi) }
}
