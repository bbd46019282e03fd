//! What is newer takes the place of what runs, and the guest notices nothing.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};

use super::{
    Bench, Scenario,
    deaths::gone,
    eventually::LIMIT,
    leftovers::Leftovers,
    pod::{PROMPT, Pod, PodSpec, UP},
};
use crate::cri::v1;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::each("an_upgrade_leaves_the_guest_running_and_the_next_one_starts", binaries),
    Scenario::under(&["1.7"], "another_containerd_takes_a_running_guest_over", containerd),
];

/// Other binaries are put in place of those of a running pod, containerd is restarted, and the pod's container ends and is made again.
fn binaries(bench: &mut Bench) -> Result<()> {
    binaries_of(bench, PodSpec::guest())
}

pub(super) fn binaries_of(bench: &mut Bench, spec: PodSpec) -> Result<()> {
    let before = Leftovers::look()?;
    let mut pod = bench.boot(spec)?;
    let (vmm, shim) = (pod.vmm()?, pod.shim()?);
    for name in ["containerd-shim-vireo-v2", "vireo-vmm"] {
        replace(&Path::new("/usr/local/bin").join(name))?;
    }
    bench.restart_containerd()?;
    goes_on(bench, &pod, vmm)?;
    again(bench, &mut pod, vmm)?;
    ensure!(pod.shim()? == shim, "another shim took the container");
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

/// The next release of containerd takes the place of the running one, with its state and data and a configuration of the old format.
fn containerd(bench: &mut Bench) -> Result<()> {
    let (older, newer) = (bench.containerd.clone(), "2.1");
    let taken_over = taken_over(bench, newer);
    // What comes next is the older one's, whatever has become of this. That one reads what the newer has written.
    bench.upgrade_containerd(&older)?;
    taken_over
}

fn taken_over(bench: &mut Bench, newer: &str) -> Result<()> {
    let mut pod = bench.boot(PodSpec::guest())?;
    let vmm = pod.vmm()?;
    bench.upgrade_containerd(newer)?;
    let version = bench.cri().version(v1::VersionRequest::default())?.runtime_version;
    ensure!(version.trim_start_matches('v').starts_with(newer), "containerd is {version}");
    goes_on(bench, &pod, vmm)?;
    again(bench, &mut pod, vmm)?;
    pod.remove(bench)?;
    bench.boot(PodSpec::guest())?.remove(bench)
}

/// The machine of a running container, and containerd's view of it, are what they were.
pub(super) fn goes_on(bench: &mut Bench, pod: &Pod, vmm: u32) -> Result<()> {
    ensure!(!gone(vmm), "the VMM ended with containerd");
    let status = pod.status(bench)?;
    ensure!(status.state() == v1::ContainerState::ContainerRunning, "after the restart: {:?}", status.state());
    pod.http("/")?;
    let mut console = pod.attach(bench)?;
    console.send("\n")?;
    console.wait_for(PROMPT, LIMIT)?;
    Ok(())
}

/// The container ends and is made again, by another VMM.
fn again(bench: &mut Bench, pod: &mut Pod, vmm: u32) -> Result<()> {
    pod.stop(bench, 60)?;
    let status = pod.wait_exit(bench)?;
    ensure!(status.exit_code == 0, "exit code {} after the restart", status.exit_code);
    // The old container is still there, as it is with the kubelet.
    let old = pod.container.clone();
    pod.create_again(bench, |_| {})?;
    pod.start(bench)?;
    pod.wait_console(bench, UP)?;
    ensure!(pod.vmm()? != vmm, "the VMM is the old one");
    bench.cri().remove_container(v1::RemoveContainerRequest { container_id: old })?;
    pod.http("/").map(drop)
}
