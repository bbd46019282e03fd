//! What is asked of a running machine.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::{
    Bench, Scenario,
    eventually::{LIMIT, until},
    pod::{PROMPT, Pod, PodSpec, vmi},
    shell::output,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::each("a_paused_guest_stands_still_and_goes_on", pause),
    Scenario::once("the_node_s_tool_reaches_machines", tool),
];

/// The most that the guest's clock may be off after a pause, seconds: an emulated node is slow to answer.
const CLOCK_TOLERANCE: u64 = 10;

fn pause(bench: &mut Bench) -> Result<()> {
    let mut spec = vmi("");
    spec["domain"]["cpu"]["cores"] = 2.into();
    let mut pod = bench.pod(PodSpec { cpu_limit: 2000, ..PodSpec::described(&spec) })?;
    pod.create(bench)?;
    pod.start(bench)?;
    let mut console = pod.attach(bench)?;
    console.wait_for(PROMPT, LIMIT)?;
    // A counter that is never idle, and writes to the disk on the way.
    console.send("mount /dev/vda /mnt; (i=0; while :; do i=$((i+1)); echo $i > /mnt/count; done) & echo counting\n")?;
    console.wait_for("\ncounting", LIMIT)?;
    for _ in 0..2 {
        task("pause", &pod)?;
        ensure!(listed(&pod)?.contains("PAUSED"), "{}", listed(&pod)?);
        let before = cpu_ticks(&pod)?;
        console.send("echo told=$(date +%s)\n")?;
        let again = task("pause", &pod).err().context("a paused machine can't be paused")?;
        ensure!(format!("{again:#}").contains("pause: the machine is already paused"), "{again:#}");
        ensure!(cpu_ticks(&pod)? == before, "a vCPU or a disk uses CPU time in a pause");
        task("resume", &pod)?;
        ensure!(listed(&pod)?.contains("RUNNING"), "{}", listed(&pod)?);
        // What was typed during the pause is answered now, and the guest knows what time it is.
        console.wait_for("told=1", LIMIT)?;
        let line = format!("1{}", console.wait_for("\n", LIMIT)?);
        until("the guest to use CPU time again", || Ok(cpu_ticks(&pod)? > before))?;
        let told: u64 = line.trim().parse().with_context(|| line.clone())?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        ensure!(now.abs_diff(told) <= CLOCK_TOLERANCE, "the guest's clock says {told}, the node's {now}");
    }
    ensure!(pod.http("/")?.starts_with("hello from"), "the guest has lost its network");
    pod.remove(bench)
}

/// `vireo ps` and its like, through `vireo.v1.Machine` on the shim's socket.
fn tool(bench: &mut Bench) -> Result<()> {
    let mut pod = bench.pod(PodSpec::guest())?;
    pod.create(bench)?;
    pod.start(bench)?;
    let mut console = pod.attach(bench)?;
    console.wait_for(PROMPT, LIMIT)?;
    let name = pod.name.clone();
    let shown = |of: &str| -> Result<String> {
        let table = output(["vireo", of])?;
        let line = table.lines().find(|line| line.split('/').any(|part| part.split(' ').next() == Some(&name)));
        line.map(str::to_owned).with_context(|| format!("vireo {of} does not show {name}:\n{table}"))
    };
    ensure!(shown("ps")?.contains("running"), "{}", shown("ps")?);
    output(["vireo", "pause", &name])?;
    ensure!(shown("ps")?.contains("paused"), "{}", shown("ps")?);
    let again = output(["vireo", "pause", &name]).err().context("a paused machine can't be paused")?;
    ensure!(format!("{again:#}").contains("already paused"), "{again:#}");
    output(["vireo", "resume", &name])?;
    console.send("echo sum=$((40+2))\n")?;
    console.wait_for("sum=42", LIMIT)?;
    ensure!(shown("top")?.contains("MiB"), "{}", shown("top")?);
    output(["vireo", "power-button", &name])?;
    let status = pod.wait_exit(bench)?;
    ensure!(status.exit_code == 0, "{}: {}", status.exit_code, status.message);
    pod.remove(bench)
}

fn task(action: &str, pod: &Pod) -> Result<()> {
    output(["ctr", "-n", "k8s.io", "task", action, &pod.container]).map(drop)
}

/// The task's line.
fn listed(pod: &Pod) -> Result<String> {
    let tasks = output(["ctr", "-n", "k8s.io", "task", "list"])?;
    let line = tasks.lines().find(|line| line.starts_with(&pod.container));
    line.map(str::to_owned).with_context(|| format!("the task is not listed:\n{tasks}"))
}

/// CPU time that the guest has used so far: that of the VMM's threads for vCPUs and disks.
fn cpu_ticks(pod: &Pod) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", pod.vmm()?))?.flatten() {
        let stat = fs::read_to_string(thread.path().join("stat"))?;
        let (name, fields) = stat.rsplit_once(')').context("a thread has a name")?;
        if name.contains("(vcpu") || name.contains("(blk") {
            // utime and stime, the 12th and 13th field after the name.
            sum += fields.split_whitespace().skip(11).take(2).flat_map(str::parse::<u64>).sum::<u64>();
        }
    }
    Ok(sum)
}
