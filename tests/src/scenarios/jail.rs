//! What the VMM is, as the kernel sees it: a guest that takes it over has gained nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail, ensure};

use super::{Bench, Scenario, pod::PodSpec};
use crate::jail::{launched, observe};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::each("vmm_is_confined", confined),
    Scenario::each("vmm_holds_only_what_it_was_given", descriptors),
    Scenario::each("vmm_runs_as_the_pod_s_user", user),
    Scenario::once("vmm_taken_over_is_killed", taken_over),
    Scenario::once("vmm_threads_can_do_their_work", |_| launched::work_is_allowed(Path::new(PROBE))),
    Scenario::once("vmm_with_every_device_runs_jailed", |_| launched::a_machine_runs_jailed(Path::new(VMM))),
    Scenario::once("vmm_is_born_in_its_cgroup", |_| launched::born_in_cgroup(Path::new(PROBE))),
    Scenario::once("vmm_dropped_is_dead_and_reaped", |_| launched::drop_kills_and_reaps(Path::new(PROBE))),
    Scenario::once("vmm_killed_is_told_so", |_| launched::kill_is_seen(Path::new(PROBE))),
];

/// Behaves like a VMM that its guest has taken over (`vmm/examples/jail_probe.rs`).
pub(super) const PROBE: &str = "/vireo/bin/jail_probe";
/// The real one.
const VMM: &str = "/vireo/bin/vireo-vmm";

fn confined(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    let vmm = pod.vmm()?;
    kept(vmm, 107)?;
    let cgroup = fs::read_to_string(proc(vmm).join("cgroup"))?;
    ensure!(cgroup.contains("/kubepods/") && cgroup.contains(&pod.container), "it is in cgroup {cgroup}");
    pod.remove(bench)
}

/// Every promise that `/proc` shows is kept.
fn kept(vmm: u32, user: u32) -> Result<()> {
    let findings = observe(i32::try_from(vmm)?, user, user)?;
    let broken: Vec<_> = findings.iter().filter(|finding| !finding.kept).map(ToString::to_string).collect();
    ensure!(broken.is_empty(), "{}", broken.join("\n"));
    Ok(())
}

fn taken_over(_: &mut Bench) -> Result<()> {
    launched::forbidden_acts_kill(Path::new(PROBE))
}

fn proc(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

fn descriptors(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    let vmm = pod.vmm()?;
    for target in crate::jail::descriptors(i32::try_from(vmm)?)?.into_values() {
        let anonymous = ["anon_inode:", "socket:", "pipe:", "/memfd:"].iter().any(|kind| target.starts_with(kind));
        let devices = ["/dev/kvm", "/dev/net/tun", "/dev/vhost-net", "/dev/null"];
        let files = ["/disk/disk.img", "/boot/vmlinuz", "/boot/initrd.img"];
        // What the guest writes goes to an overlay without a name.
        let overlay = target.contains("/rootfs/.vireo-overlay-") && target.ends_with(" (deleted)");
        if !anonymous && !overlay && !devices.iter().chain(&files).any(|given| target.ends_with(given)) {
            bail!("it holds {target}");
        }
    }
    pod.remove(bench)
}

fn user(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec { user: Some(1234), ..PodSpec::guest() })?;
    kept(pod.vmm()?, 1234)?;
    pod.remove(bench)
}
