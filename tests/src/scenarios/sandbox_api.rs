//! Pods whose sandbox containerd asks the shim for (`sandboxer = "shim"`), without a pause container.

use anyhow::{Result, ensure};

use super::{
    Bench, Scenario, crash, deaths,
    eventually::LIMIT,
    pod::{PodSpec, vmi},
    shell, upgrade,
};
use crate::cri::v1;

/// The containerds that have the sandbox API without being told by their environment.
const HAVE_IT: &[&str] = &["2.1"];
/// The runtime in their configuration, and where their bundles of sandboxes are.
const HANDLER: &str = "vireo-sandbox";
const BUNDLES: &str = "/run/containerd/io.containerd.sandbox.controller.v1.shim/k8s.io";

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::under(HAVE_IT, "a_sandbox_without_a_pause_container_is_a_pod", pod),
    Scenario::under(HAVE_IT, "a_sandbox_s_killed_shim_takes_everything_along", killed_shim),
    Scenario::under(HAVE_IT, "a_sandbox_survives_an_upgrade", upgraded),
    Scenario::under(HAVE_IT, "sandboxes_killed_with_everything_leave_nothing", everything),
];

fn on_sandbox(spec: PodSpec) -> PodSpec {
    PodSpec { handler: HANDLER.to_owned(), ..spec }
}

fn pod(bench: &mut Bench) -> Result<()> {
    let mut spec = vmi("");
    spec["domain"]["firmware"]["kernelBoot"]["container"]["initrdPath"] = "/agent/initrd".into();
    let pod = bench.boot(on_sandbox(PodSpec::described(&spec)))?;
    let containers = shell::output(["ctr", "-n", "k8s.io", "containers", "list", "-q"])?;
    ensure!(containers.contains(&pod.container), "{containers}");
    ensure!(!containers.contains(&pod.sandbox), "the sandbox is a container:\n{containers}");
    pod.http("/")?;
    let vmm = pod.vmm()?;
    bench.restart_containerd()?;
    upgrade::goes_on(bench, &pod, vmm)?;
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: pod.sandbox.clone(), verbose: true };
    let status = bench.cri().pod_sandbox_status(request)?.status.unwrap_or_default();
    ensure!(status.state() == v1::PodSandboxState::SandboxReady && status.created_at > 0, "{status:?}");
    let mut console = pod.attach(bench)?;
    console.send("/agent/start; echo started $((1 + 1))\n")?;
    console.wait_for("started 2", LIMIT)?;
    let done = pod.exec(bench, &["/bin/busybox", "echo", "from the guest"], 60)?;
    ensure!(done.stdout == b"from the guest\n", "{done:?}");
    let request = v1::ContainerStatsRequest { container_id: pod.container.clone() };
    let memory = bench.cri().container_stats(request)?.stats.and_then(|stats| stats.memory?.working_set_bytes);
    ensure!(memory.is_some_and(|memory| memory.value > 30 << 20), "{memory:?}");
    pod.stop(bench, 60)?;
    let status = pod.wait_exit(bench)?;
    ensure!(status.exit_code == 0, "exit code {}: {}", status.exit_code, status.message);
    pod.remove(bench)
}

fn killed_shim(bench: &mut Bench) -> Result<()> {
    deaths::killed_shim_of(bench, on_sandbox(PodSpec::guest()))
}

fn upgraded(bench: &mut Bench) -> Result<()> {
    upgrade::binaries_of(bench, on_sandbox(PodSpec::guest()))
}

fn everything(bench: &mut Bench) -> Result<()> {
    crash::everything_of(bench, HANDLER, BUNDLES)
}
