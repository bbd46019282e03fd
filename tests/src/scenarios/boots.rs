//! A guest boots, and is the one that was asked for.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{
    Bench, Scenario,
    eventually::LIMIT,
    measure,
    pod::{PROMPT, PodSpec, UP, vmi},
};
use crate::cri::v1;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::each("container_disk_boots_to_its_prompt", container_disk_boots),
    Scenario::each("without_a_terminal_the_console_is_the_log", console_without_terminal),
    Scenario::each("annotation_describes_the_machine", annotation),
    Scenario::once("processors_are_as_described", processors),
    Scenario::each("stats_count_the_guest", stats),
    Scenario::each("a_rotated_log_goes_on", rotated_log),
    Scenario::each("ordinary_pods_run_beside", ordinary),
    Scenario::each("vmm_and_shim_stay_within_16_mib", overhead),
];

/// `key=value` of the guest's line of findings.
fn finding(line: &str, key: &str) -> String {
    let words = line.split(' ').filter_map(|word| word.split_once('='));
    words.filter(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).next().unwrap_or_default()
}

fn container_disk_boots(bench: &mut Bench) -> Result<()> {
    let mut pod = bench.pod(PodSpec { cpu_limit: 2000, ..PodSpec::container_disk() })?;
    pod.create(bench)?;
    pod.start(bench)?;
    let mut console = pod.attach(bench)?;
    console.wait_for(PROMPT, LIMIT)?;
    // What is typed gets there, and the answer comes back.
    console.send("echo $((6 * 7)) typed\n")?;
    console.wait_for("42 typed", LIMIT)?;
    let line = pod.wait_console(bench, "GUEST kernel=")?;
    ensure!(finding(&line, "kernel").starts_with("6.1."), "{line}");
    ensure!(finding(&line, "cpus") == "2", "the limit of 2 CPUs gives 2 vCPUs: {line}");
    let memory: u64 = finding(&line, "mem_kib").parse()?;
    ensure!((150 << 10..256 << 10).contains(&memory), "the limit of 256 MiB sizes the guest: {line}");
    ensure!(finding(&line, "disks").starts_with("vda:33554432"), "the containerDisk's image is vda: {line}");
    ensure!(finding(&line, "nics").starts_with("eth0:"), "{line}");
    ensure!(finding(&line, "rng").starts_with("virtio_rng"), "{line}");
    pod.remove(bench)
}

fn console_without_terminal(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec { tty: false, ..PodSpec::guest() })?;
    let console = pod.console()?;
    ensure!(console.contains("GUEST-INIT") && console.contains(UP), "{console}");
    pod.remove(bench)
}

fn annotation(bench: &mut Bench) -> Result<()> {
    let mut spec = vmi("vireo.mark=annotated");
    spec["domain"]["cpu"]["cores"] = 2.into();
    spec["domain"]["memory"]["guest"] = "192Mi".into();
    let pod = bench.boot(PodSpec::described(&spec))?;
    let line = pod.wait_console(bench, "GUEST kernel=")?;
    ensure!(finding(&line, "cpus") == "2", "{line}");
    let memory: u64 = finding(&line, "mem_kib").parse()?;
    ensure!((100 << 10..192 << 10).contains(&memory), "{line}");
    ensure!(line.contains("vireo.mark=annotated"), "{line}");
    pod.remove(bench)
}

fn processors(bench: &mut Bench) -> Result<()> {
    let mut spec = vmi("");
    spec["domain"]["cpu"] = json!({
        "sockets": 2, "threads": 2, "model": "qemu64",
        "features": [{"name": "aes", "policy": "optional"}, {"name": "cx16", "policy": "disable"}],
    });
    let mut pod = bench.pod(PodSpec { cpu_limit: 4000, ..PodSpec::described(&spec) })?;
    pod.create(bench)?;
    pod.start(bench)?;
    let mut console = pod.attach(bench)?;
    console.wait_for(PROMPT, LIMIT)?;
    console
        .send("cd /sys/devices/system/cpu/cpu3/topology; echo $(cat physical_package_id core_cpus_list) is last\n")?;
    console.wait_for("\n1 2-3 is last", LIMIT)?;
    console.send("echo $(grep -c 'model name.*: qemu64' /proc/cpuinfo) named\n")?;
    console.wait_for("\n4 named", LIMIT)?;
    for (flag, count) in [("lahf_lm", 4), ("cx16", 0), ("avx", 0)] {
        console.send(&format!("echo $(grep -cw {flag} /proc/cpuinfo) have {flag}\n"))?;
        console.wait_for(&format!("\n{count} have {flag}"), LIMIT)?;
    }
    pod.remove(bench)
}

fn stats(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    let request = v1::ContainerStatsRequest { container_id: pod.container.clone() };
    let stats = bench.cri().container_stats(request)?.stats.unwrap_or_default();
    let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).unwrap_or_default().value;
    let memory = stats.memory.and_then(|memory| memory.working_set_bytes).unwrap_or_default().value;
    ensure!(cpu > 10_000_000, "a boot takes more than {cpu} ns of CPU");
    ensure!((30 << 20..320 << 20).contains(&memory), "a guest of 256 MiB uses {memory} bytes");
    pod.remove(bench)
}

fn rotated_log(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    std::fs::rename(pod.log(), pod.log().with_extension("1"))?;
    bench.cri().reopen_container_log(v1::ReopenContainerLogRequest { container_id: pod.container.clone() })?;
    let mut console = pod.attach(bench)?;
    console.send("echo after $((1 + 1)) rotations\n")?;
    pod.wait_console(bench, "after 2 rotations")?;
    pod.remove(bench)
}

fn ordinary(bench: &mut Bench) -> Result<()> {
    let mut pod = bench.pod(PodSpec::ordinary())?;
    pod.create(bench)?;
    pod.start(bench)?;
    let mut console = pod.attach(bench)?;
    console.send("echo $((6 * 7)) typed\n")?;
    console.wait_for("42 typed", LIMIT)?;
    pod.remove(bench)
}

fn overhead(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    let memory = measure::memory(pod.vmm()?, pod.shim()?)?;
    ensure!(memory.vmm > 0 && memory.shim > 0, "{memory:?}");
    ensure!(memory.overhead() <= 16 << 10, "{memory:?}");
    pod.stop(bench, i64::try_from(Duration::from_secs(30).as_secs())?)?;
    pod.remove(bench)
}
