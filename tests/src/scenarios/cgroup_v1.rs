//! A node with cgroup v1. They run in a node of their own.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{
    Bench, Scenario, deaths,
    pod::{PodSpec, cgroup_v2},
    resources, usage,
};
use crate::jail::launched;

/// What their names begin with.
pub(super) const PREFIX: &str = "cgroup_v1_";

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::once("cgroup_v1_vmm_is_in_each_hierarchy", born),
    Scenario::once("cgroup_v1_limits_hold_and_change_while_the_guest_runs", resources::resources),
    Scenario::once("cgroup_v1_what_a_guest_uses_is_counted", usage::counted),
    Scenario::once("cgroup_v1_an_oom_kill_is_told", oom),
    Scenario::once("cgroup_v1_killed_shim_leaves_nothing", deaths::killed_shim),
];

fn born(_: &mut Bench) -> Result<()> {
    ensure!(!cgroup_v2(), "the node has cgroup v2");
    launched::born_in_cgroup(Path::new(super::jail::PROBE))
}

/// The guest fills its memory after the limit of its container has become less. v1 doesn't take a limit below what is used.
fn oom(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    pod.limit_memory(bench, 192 << 20)?;
    pod.http("/cgi-bin/act?fill-memory")?;
    let status = pod.wait_exit(bench)?;
    ensure!(status.reason == "OOMKilled", "{}: {} {}", status.reason, status.exit_code, status.message);
    ensure!(status.exit_code == 137, "exit code {}", status.exit_code);
    pod.remove(bench)
}
