//! Who moves a guest's packets: the node's kernel where it can, else the VMM.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::{
    Bench, Scenario,
    pod::{Pod, PodSpec},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::once("the_kernel_moves_a_guest_s_packets", by_the_kernel),
    Scenario::once("without_vhost_net_the_vmm_moves_them", by_the_vmm),
];

const DEVICE: &str = "/dev/vhost-net";
const AWAY: &str = "/dev/vhost-net.away";

fn by_the_kernel(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    ensure!(pod.http("/")?.starts_with("hello from"), "something else answers on {}", pod.ip);
    let threads = packet_threads(&pod)?;
    ensure!(threads.is_empty(), "the VMM has threads for packets: {threads:?}");
    pod.remove(bench)
}

fn by_the_vmm(bench: &mut Bench) -> Result<()> {
    fs::rename(DEVICE, AWAY).with_context(|| format!("the node has a {DEVICE}"))?;
    let shown = answers_by_the_vmm(bench);
    fs::rename(AWAY, DEVICE)?;
    shown
}

fn answers_by_the_vmm(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    ensure!(pod.http("/")?.starts_with("hello from"), "something else answers on {}", pod.ip);
    let threads = packet_threads(&pod)?;
    ensure!(threads == ["net0 default"], "the VMM's threads for packets: {threads:?}");
    let log = fs::read_to_string(format!("/var/log/containerd-{}.log", bench.containerd))?;
    let reason = "no vhost-net: /dev/vhost-net: isn't there; the module vhost_net isn't loaded";
    ensure!(log.contains(reason), "the shim's log doesn't say why");
    pod.remove(bench)
}

/// Names of the VMM's threads that move packets.
pub(super) fn packet_threads(pod: &Pod) -> Result<Vec<String>> {
    let folder = format!("/proc/{}/task", pod.vmm()?);
    let mut names = Vec::new();
    for task in fs::read_dir(&folder).with_context(|| folder.clone())? {
        let name = fs::read_to_string(task?.path().join("comm"))?;
        if name.starts_with("net") {
            names.push(name.trim_end().to_owned());
        }
    }
    names.sort();
    Ok(names)
}
