//! What the VMM is, as the kernel sees it: a guest that takes it over has gained nothing.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
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
];

/// Behaves like a VMM that its guest has taken over (`vmm/examples/jail_probe.rs`).
const PROBE: &str = "/vireo/bin/jail_probe";

fn confined(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    let vmm = pod.vmm()?;
    kept(vmm, 107)?;
    // Not dumpable: its files belong to root, not to the user that it runs as, so that no other VMM can trace it.
    ensure!(fs::metadata(proc(vmm).join("fd"))?.uid() == 0, "the VMM is dumpable");
    let cgroup = fs::read_to_string(proc(vmm).join("cgroup"))?;
    ensure!(cgroup.contains("/kubepods/") && cgroup.contains(&pod.container), "it is in cgroup {cgroup}");
    // The pod's network is another one: its own has nothing but a loopback.
    let links = fs::read_to_string(proc(vmm).join("net/dev"))?;
    let links: Vec<&str> = links.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim).collect();
    ensure!(links == ["lo"], "its network has {links:?}");
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
        let given = ["/dev/kvm", "/dev/net/tun", "/dev/null", "/disk/disk.img", "/boot/vmlinuz", "/boot/initrd.img"];
        if !anonymous && !given.iter().any(|given| target.ends_with(given)) {
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
