//! Whichever part is killed, the rest cleans up, or goes on.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Bench, Scenario, eventually::until, pod::PodSpec};
use crate::cri::v1;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::each("killed_vmm_is_an_exit", killed_vmm),
    Scenario::each("killed_shim_takes_everything_along", killed_shim),
    Scenario::each("containerd_kill_leaves_the_guest_running", containerd_killed),
];

pub(super) fn kill_9(pid: u32) -> Result<()> {
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL).with_context(|| format!("kill -9 {pid}"))
}

pub(super) fn gone(pid: u32) -> bool {
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

pub(super) fn killed_shim(bench: &mut Bench) -> Result<()> {
    killed_shim_of(bench, PodSpec::guest())
}

pub(super) fn killed_shim_of(bench: &mut Bench, spec: PodSpec) -> Result<()> {
    let pod = bench.boot(spec)?;
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
