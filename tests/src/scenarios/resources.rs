//! What a container may use is what its machine uses.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{
    Bench, Scenario,
    eventually::until,
    pod::{OOM_SCORE_ADJ, Pod, PodSpec, UP, cgroup_v2, vmi},
};
use crate::cri::v1;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::each("limits_hold_and_change_while_the_guest_runs", resources)];

/// How many huge pages of 2 MiB the node has.
const NODE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
/// The guest's memory, bytes.
const GUEST: u64 = 128 << 20;

pub(super) fn resources(bench: &mut Bench) -> Result<()> {
    let pages = GUEST >> 21;
    fs::write(NODE_PAGES, pages.to_string())?;
    let got = fs::read_to_string(NODE_PAGES)?;
    ensure!(got.trim() == pages.to_string(), "the node has {} huge pages of {pages}", got.trim());
    let result = limited(bench);
    fs::write(NODE_PAGES, "0")?;
    result
}

fn limited(bench: &mut Bench) -> Result<()> {
    let mut spec = vmi("");
    spec["domain"]["memory"] = json!({"guest": "128Mi", "hugepages": {"pageSize": "2Mi"}});
    spec["domain"]["cpu"]["dedicatedCpuPlacement"] = true.into();
    let spec = PodSpec { cpus: "0".to_owned(), ..PodSpec::described(&spec) };
    // A sidecar, then a machine whose pod may use no huge pages, then one that may.
    let mut pod = bench.pod(PodSpec { container: "istio-proxy".to_owned(), ..spec })?;
    let refused = start(bench, &mut pod)?.err().context("a sidecar runs")?;
    ensure!(refused.contains("container \"istio-proxy\": init containers and sidecars are not supported"), "{refused}");
    let pods_limit = if cgroup_v2() { "hugetlb.2MB.max" } else { "hugetlb.2MB.limit_in_bytes" };
    let pods_limit = pod.pod_cgroup_of("hugetlb").join(pods_limit);
    fs::write(&pods_limit, "0")?;
    pod.create_again(bench, |spec| "compute".clone_into(&mut spec.container))?;
    let refused = pod.start(bench).err().context("more huge pages than the container may use")?;
    ensure!(refused.message().contains("the container's limit of 0 MiB for hugepages-2Mi"), "{refused}");
    fs::write(&pods_limit, GUEST.to_string())?;
    pod.create_again(bench, |_| {})?;
    pod.start(bench)?;
    pod.wait_console(bench, UP)?;

    let vmm = pod.vmm()?;
    let score = fs::read_to_string(format!("/proc/{vmm}/oom_score_adj"))?;
    ensure!(score.trim() == OOM_SCORE_ADJ.to_string(), "oom_score_adj {score}");
    let used = if cgroup_v2() { "hugetlb.2MB.current" } else { "hugetlb.2MB.usage_in_bytes" };
    let huge: u64 = read(&pod.cgroup_of("hugetlb").join(used))?.parse()?;
    ensure!((1 << 20..=GUEST).contains(&huge), "the guest uses {huge} bytes of huge pages");

    ensure!(cpus(vmm)? == "0", "the vCPU runs on {}", cpus(vmm)?);
    let change = v1::LinuxContainerResources {
        cpuset_cpus: "1".to_owned(),
        cpu_period: 100_000,
        cpu_quota: 20_000,
        cpu_shares: 512,
        ..v1::LinuxContainerResources::default()
    };
    pod.limit(bench, change)?;
    ensure!(cpus(vmm)? == "1", "the vCPU stays on {}", cpus(vmm)?);
    let (quota, expected) = if cgroup_v2() { ("cpu.max", "20000 100000") } else { ("cpu.cfs_quota_us", "20000") };
    ensure!(read(&pod.cgroup_of("cpu").join(quota))? == expected, "the quota is not the new one");
    until("the guest to be throttled", || {
        pod.http("/")?;
        let stat = read(&pod.cgroup_of("cpu").join("cpu.stat"))?;
        Ok(stat.lines().any(|line| line.strip_prefix("nr_throttled ").is_some_and(|count| count != "0")))
    })?;
    let request = v1::ContainerStatsRequest { container_id: pod.container.clone() };
    let stats = bench.cri().container_stats(request)?.stats.unwrap_or_default();
    let memory = stats.memory.and_then(|memory| memory.working_set_bytes).unwrap_or_default().value;
    ensure!(memory < GUEST, "huge pages are counted as {memory} bytes of memory");
    pod.remove(bench)
}

fn start(bench: &mut Bench, pod: &mut Pod) -> Result<Result<(), String>> {
    pod.create(bench)?;
    Ok(pod.start(bench).map_err(|status| status.message().to_owned()))
}

fn read(file: &Path) -> Result<String> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    Ok(text.trim().to_owned())
}

/// The CPUs that the guest's only vCPU may use.
fn cpus(vmm: u32) -> Result<String> {
    for thread in fs::read_dir(format!("/proc/{vmm}/task"))? {
        let thread = thread?.path();
        if read(&thread.join("comm"))? == "vcpu0" {
            let status = read(&thread.join("status"))?;
            let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            return Ok(list.context("a thread has CPUs")?.trim().to_owned());
        }
    }
    anyhow::bail!("the VMM has no vCPU")
}
