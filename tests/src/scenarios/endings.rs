//! How a guest ends is how its container ends.

use anyhow::{Result, ensure};

use super::{
    Bench, Scenario,
    eventually::LIMIT,
    pod::{PROMPT, Pod, PodSpec, UP, vmi},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::each("sigterm_is_the_power_button", sigterm),
    Scenario::each("grace_over_is_a_kill", grace_over),
    Scenario::each("guest_power_off_is_exit_0", power_off),
    Scenario::each("guest_panic_is_told", panic),
    Scenario::each("triple_fault_is_told", triple_fault),
    Scenario::each("guest_reboot_goes_on", reboot),
    Scenario::each("lowered_limit_is_an_oom_kill", oom),
];

fn sigterm(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    pod.stop(bench, 60)?;
    let status = pod.wait_exit(bench)?;
    ensure!(status.exit_code == 0, "exit code {}: {} {}", status.exit_code, status.reason, status.message);
    let console = pod.console()?;
    ensure!(console.contains("GUEST power button"), "the guest saw no power button:\n{console}");
    pod.remove(bench)
}

fn grace_over(bench: &mut Bench) -> Result<()> {
    let mut pod = bench.pod(PodSpec::guest())?;
    pod.create(bench)?;
    pod.start(bench)?;
    // The kernel does not listen to the button yet.
    pod.stop(bench, 0)?;
    let status = pod.wait_exit(bench)?;
    ensure!(status.exit_code == 137, "exit code {}: {} {}", status.exit_code, status.reason, status.message);
    pod.remove(bench)
}

fn power_off(bench: &mut Bench) -> Result<()> {
    let pod = ends_by(bench, "poweroff", 0)?;
    pod.remove(bench)
}

fn panic(bench: &mut Bench) -> Result<()> {
    let pod = ends_by(bench, "panic", 1)?;
    let console = pod.console()?;
    ensure!(console.contains("panic"), "the reason is not on the console:\n{console}");
    pod.remove(bench)
}

fn triple_fault(bench: &mut Bench) -> Result<()> {
    let pod = ends_by(bench, "triple-fault", 1)?;
    let console = pod.console()?;
    ensure!(console.contains("triple fault"), "the reason is not on the console:\n{console}");
    pod.remove(bench)
}

/// A guest that does something to itself, and the code that its container ends with.
fn ends_by(bench: &mut Bench, action: &str, code: i32) -> Result<Pod> {
    let mut pod = bench.pod(PodSpec::described(&vmi(&format!("vireo.do={action}"))))?;
    pod.create(bench)?;
    pod.start(bench)?;
    let status = pod.wait_exit(bench)?;
    let console = pod.console()?;
    ensure!(status.exit_code == code, "{action}: exit code {}, expected {code}:\n{console}", status.exit_code);
    Ok(pod)
}

/// The limit of a running container is changed to less than its guest already has.
fn oom(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    pod.limit_memory(bench, 64 << 20)?;
    let status = pod.wait_exit(bench)?;
    ensure!(status.reason == "OOMKilled", "{}: {} {}", status.reason, status.exit_code, status.message);
    ensure!(status.exit_code == 137, "exit code {}", status.exit_code);
    pod.remove(bench)
}

fn reboot(bench: &mut Bench) -> Result<()> {
    let mut pod = bench.pod(PodSpec::guest())?;
    pod.create(bench)?;
    pod.start(bench)?;
    let mut console = pod.attach(bench)?;
    console.wait_for(PROMPT, LIMIT)?;
    let vmm = pod.vmm()?;
    console.send("act reboot\n")?;
    console.wait_for(UP, LIMIT)?;
    console.wait_for(PROMPT, LIMIT)?;
    ensure!(pod.vmm()? == vmm, "the VMM is another process after the guest's reboot");
    pod.remove(bench)
}
