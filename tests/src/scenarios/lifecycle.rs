//! What the kubelet asks of a container beside starting it: its probes while it runs, its hook before it is stopped.

use std::{
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use tonic::Code;

use super::{
    Bench, Scenario,
    eventually::{LIMIT, eventually, until},
    pod::{Pod, PodSpec, vmi},
    shell,
};
use crate::cri::{Cri, v1};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::each("probes_find_out_how_a_guest_is", probes),
    Scenario::each("a_hook_runs_before_the_power_button_and_never_instead", hooks),
];

/// What a probe may take, seconds: an emulated node is slow to answer.
const PROBE: i64 = 30;

/// A fast guest whose agent answers.
fn boot(bench: &mut Bench) -> Result<Pod> {
    let mut spec = vmi("");
    spec["domain"]["firmware"]["kernelBoot"]["container"]["initrdPath"] = "/agent/initrd".into();
    let pod = bench.boot(PodSpec::described(&spec))?;
    pod.attach(bench)?.send("/agent/start\n")?;
    eventually("the guest's agent", LIMIT, || Ok(pod.exec(bench, &["true"], PROBE).ok()))?;
    Ok(pod)
}

fn probes(bench: &mut Bench) -> Result<()> {
    let pod = boot(bench)?;
    let exec = |bench: &mut Bench, command: &[&str]| -> Result<i32> { Ok(pod.exec(bench, command, PROBE)?.exit_code) };
    ensure!(exec(bench, &["cat", "/tmp/healthy"])? == 1, "an unhealthy guest passes");
    ensure!(exec(bench, &["touch", "/tmp/healthy"])? == 0, "the guest can't be healthy");
    ensure!(exec(bench, &["cat", "/tmp/healthy"])? == 0, "a healthy guest fails");
    let slow = pod.exec(bench, &["sleep", "1000"], 1).err().context("a slow probe passes")?;
    ensure!(slow.code() == Code::DeadlineExceeded, "{slow}");
    ensure!(exec(bench, &["cat", "/tmp/healthy"])? == 0, "a probe fails after a slow one");

    let address: SocketAddr = format!("{}:80", pod.ip).parse()?;
    let url = format!("http://{address}/");
    let tcp = || TcpStream::connect_timeout(&address, Duration::from_secs(PROBE.unsigned_abs())).is_ok();
    let http = || shell::output(["busybox", "wget", "-q", "-T", "30", "-O", "-", &url]).is_ok();
    ensure!(tcp() && http(), "a guest that serves fails");
    ensure!(exec(bench, &["killall", "httpd"])? == 0, "the guest goes on serving");
    until("the guest to serve no more", || Ok(!tcp() && !http()))?;
    ensure!(exec(bench, &["httpd", "-h", "/www"])? == 0, "the guest serves no more");
    until("the guest to serve again", || Ok(tcp() && http()))?;
    pod.remove(bench)
}

/// The kubelet runs a hook, for as long as the grace period is, and stops the container then: whether the hook has done its work, has
/// failed, or still runs.
fn hooks(bench: &mut Bench) -> Result<()> {
    let pod = boot(bench)?;
    let failed = pod.exec(bench, &["sh", "-c", "exit 3"], 0)?;
    ensure!(failed.exit_code == 3, "{failed:?}");
    let done = pod.exec(bench, &["sh", "-c", "echo HOOK done > /dev/console"], 0)?;
    ensure!(done.exit_code == 0, "{done:?}");
    let hanging = v1::ExecSyncRequest {
        container_id: pod.container.clone(),
        cmd: ["sh", "-c", "echo HOOK hangs > /dev/console; exec sleep 1000"].map(str::to_owned).into(),
        timeout: 0,
    };
    let hanging = thread::spawn(move || Ok(Cri::connect()?.exec_sync(hanging)?));
    pod.wait_console(bench, "HOOK hangs")?;
    pod.stop(bench, 60)?;
    let status = pod.wait_exit(bench)?;
    ensure!((status.exit_code, status.reason.as_str()) == (0, "Completed"), "{status:?}");
    let hook: Result<v1::ExecSyncResponse> = hanging.join().map_err(|_| anyhow!("the hook panicked"))?;
    ensure!(hook?.exit_code == 137, "the machine's end is not the hook's");
    let console = pod.console()?;
    let at = |text: &str| console.find(text).with_context(|| format!("no {text:?} on the console:\n{console}"));
    ensure!(at("HOOK done")? < at("GUEST power button")?, "{console}");
    pod.remove(bench)
}
