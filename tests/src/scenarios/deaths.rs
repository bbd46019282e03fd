//! Whichever part is killed, the rest cleans up, or goes on.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    Bench, Scenario,
    eventually::{LIMIT, until},
    leftovers::Leftovers,
    pod::{PROMPT, PodSpec, UP},
};
use crate::cri::v1;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::each("killed_vmm_is_an_exit", killed_vmm),
    Scenario::each("killed_shim_takes_everything_along", killed_shim),
    Scenario::each("an_upgrade_leaves_the_guest_running_and_the_next_one_starts", upgrade),
    Scenario::each("containerd_kill_leaves_the_guest_running", containerd_killed),
];

fn kill_9(pid: u32) -> Result<()> {
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL).with_context(|| format!("kill -9 {pid}"))
}

fn gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

fn killed_vmm(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    kill_9(pod.vmm()?)?;
    // containerd learns of it by the exit event alone.
    let status = pod.wait_exit(bench)?;
    ensure!(status.exit_code != 0, "a killed VMM is no power-off");
    bench.cri().remove_container(v1::RemoveContainerRequest { container_id: pod.container.clone() })?;
    pod.remove(bench)
}

fn killed_shim(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    let (vmm, shim, cgroup) = (pod.vmm()?, pod.shim()?, pod.cgroup());
    kill_9(shim)?;
    // The VMM dies with its shim, at once and by itself.
    until("the VMM's end", || Ok(gone(vmm)))?;
    let status = pod.wait_exit(bench)?;
    ensure!(status.exit_code != 0, "a killed shim is no power-off");
    pod.remove(bench)?;
    until("the cgroup's end", || Ok(!cgroup.exists()))?;
    Ok(())
}

/// Other binaries are put in place of those of a running pod, containerd is restarted, and the pod's container ends and is made again.
fn upgrade(bench: &mut Bench) -> Result<()> {
    let before = Leftovers::look()?;
    let mut pod = bench.boot(PodSpec::guest())?;
    let (vmm, shim) = (pod.vmm()?, pod.shim()?);
    for name in ["containerd-shim-vireo-v2", "vireo-vmm"] {
        replace(&Path::new("/usr/local/bin").join(name))?;
    }
    bench.restart_containerd()?;
    ensure!(!gone(vmm), "the VMM ended with containerd");
    let status = pod.status(bench)?;
    ensure!(status.state() == v1::ContainerState::ContainerRunning, "after the restart: {:?}", status.state());
    pod.http("/")?;
    let mut console = pod.attach(bench)?;
    console.send("\n")?;
    console.wait_for(PROMPT, LIMIT)?;
    pod.stop(bench, 60)?;
    let status = pod.wait_exit(bench)?;
    ensure!(status.exit_code == 0, "exit code {} after the restart", status.exit_code);
    // The old container is still there, as it is with the kubelet.
    let old = pod.container.clone();
    pod.create_again(bench, |_| {})?;
    pod.start(bench)?;
    pod.wait_console(bench, UP)?;
    ensure!(pod.shim()? == shim && pod.vmm()? != vmm, "the same shim, another VMM");
    bench.cri().remove_container(v1::RemoveContainerRequest { container_id: old })?;
    pod.http("/")?;
    pod.remove(bench)?;
    let left = before.compare(LIMIT)?;
    ensure!(left.is_empty(), "{}", left.join("\n"));
    Ok(())
}

/// Puts another file with the same program in a binary's place, as install.sh does.
fn replace(binary: &Path) -> Result<()> {
    let new = binary.with_extension("new");
    fs::copy(binary, &new)
        .and_then(|_| fs::rename(&new, binary))
        .with_context(|| format!("replace {}", binary.display()))
}

fn containerd_killed(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    let vmm = pod.vmm()?;
    let daemon: u32 = fs::read_to_string("/run/node-containerd.pid")?.trim().parse()?;
    kill_9(daemon)?;
    until("containerd's end", || Ok(gone(daemon)))?;
    // The guest's exit comes while nobody listens for events.
    pod.http("/cgi-bin/act?poweroff")?;
    until("the VMM's end", || Ok(gone(vmm)))?;
    bench.restart_containerd()?;
    let status = pod.wait_exit(bench)?;
    ensure!(status.exit_code == 0, "exit code {}: it was lost", status.exit_code);
    pod.remove(bench)
}
