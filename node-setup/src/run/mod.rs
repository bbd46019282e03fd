//! `vireo run`: one machine, with no containerd at all, through the translation and the jail that the shim uses.
//!
//! The machine lives in the foreground and ends with this process. Its files are those of this machine: relative paths
//! start at the manifest's folder.

mod limits;
mod manifest;
mod session;

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;
use vireo_runtimeclass::kubevirt::v1::VirtualMachine;
use vireo_runtimeclass::pod::{DEFAULT_ID, NODE_CONFIG};
use vireo_shim::launch::{Launch, Vmm, launch};
use vireo_shim::node_config::NodeConfig;
use vireo_shim::translate::{LaunchPlan, Place, Source, translate};
use vireo_vmm::config::{ConsoleKind, JailConfig};
use vireo_vmm::control::client::Received;
use vireo_vmm::control::message::{Command, Event};

use crate::terminal::Terminal;
use session::{Session, Signals};

/// A machine is built in milliseconds; this is for a machine that swaps.
const BUILD_LIMIT: Duration = Duration::from_secs(30);
/// Between the power button and the plug, where the manifest says nothing (KubeVirt's default), seconds.
const GRACE_SECONDS: u64 = 30;

/// Runs the machine of `manifest` until it ends, under these rate limits if there are any, else under the manifest's. What it
/// writes to the volumes `ephemeral` is forgotten then.
pub(crate) fn run(manifest: &Path, rate_limits: Option<&str>, ephemeral: &[String]) -> Result<ExitCode> {
    let vm = manifest::read(manifest)?;
    let limits = limits::of(&vm, rate_limits)?;
    refuse_network(&vm)?;
    let volumes = &vm.spec.template.spec.volumes;
    for name in ephemeral {
        let known = volumes.iter().any(|volume| volume.name == *name && volume.host_disk.is_some());
        ensure!(known, "--ephemeral {name}: the manifest has no hostDisk of that name");
    }
    let strategy = &vm.spec.template.spec.start_strategy;
    ensure!(
        strategy.is_none(),
        "spec.template.spec.startStrategy: not supported by vireo run, which could not resume the machine; leave it out"
    );
    ensure!(geteuid().is_root(), "vireo run needs root, which the jail around the machine is made with; use sudo");
    // First of all: what comes while the machine is built is handled after.
    let signals = Signals::block()?;

    let node = NodeConfig::read(Path::new(NODE_CONFIG))?;
    let folder = manifest.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let spec = &vm.spec.template.spec;
    let name = vm.metadata.name.as_deref().unwrap_or("machine");
    let jail = JailConfig { uid: DEFAULT_ID, gid: DEFAULT_ID };
    let place = Place::Local { folder, ephemeral, jail };
    let plan = translate(Source {
        name,
        hostname: None,
        spec: Some(spec),
        limits: &limits,
        place,
        node: &node,
        nics: Vec::new(),
    })?;
    let console = plan.machine.console;

    let vmm = start(plan, &open_vmm(&node)?)?;
    let terminal = Terminal::take()?;
    if terminal.is_raw() {
        eprintln!("vireo: {name} runs; Ctrl-] leaves");
    }
    let (ours, theirs) = UnixStream::pair().context("console")?;
    vmm.control.send(&Command::AttachConsole, &[theirs.as_fd()])?;
    drop(theirs);
    vmm.control.send(&Command::Start { paused: false }, &[])?;
    let grace = spec.termination_grace_period_seconds.map(u64::from);
    let grace = Duration::from_secs(grace.unwrap_or(GRACE_SECONDS));
    let resizable = (console == ConsoleKind::Virtio).then_some(&terminal);
    let ended = Session::new(&vmm, ours, signals, terminal.is_raw(), resizable, grace)?.until_end();
    drop(terminal);
    ended
}

/// No network is attached yet, and a machine that was promised one should not start without it.
fn refuse_network(vm: &VirtualMachine) -> Result<()> {
    let spec = &vm.spec.template.spec;
    let field = match (spec.domain.devices.interfaces.is_empty(), spec.networks.is_empty()) {
        (true, true) => return Ok(()),
        (false, _) => "domain.devices.interfaces",
        (true, false) => "networks",
    };
    bail!("spec.template.spec.{field}: not supported by vireo run, which attaches no network; leave it out")
}

/// The VMM that the node names, or the one beside this program.
fn open_vmm(node: &NodeConfig) -> Result<File> {
    let path = match &node.vmm {
        Some(path) => path.clone(),
        None => std::env::current_exe().context("this program's own path")?.with_file_name("vireo-vmm"),
    };
    File::open(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow::anyhow!("{} is missing; it is installed beside vireo", path.display()),
        _ => anyhow::Error::new(error).context(path.display().to_string()),
    })
}

/// Launches the VMM and waits until the machine is built.
fn start(plan: LaunchPlan, binary: &File) -> Result<Vmm> {
    let LaunchPlan { machine, fds, jail, .. } = plan;
    let vmm = launch(Launch { vmm: binary, cgroup: None, oom_score_adj: None, machine, fds, jail: Some(jail) })?;
    match vmm.control.wait(BUILD_LIMIT)? {
        Received::Message(Event::Ready) => Ok(vmm),
        Received::Message(Event::Refused(why)) => bail!("{why}"),
        Received::Message(other) => bail!("the VMM said {other:?} before it was ready"),
        Received::Empty => bail!("the VMM was not ready after {} seconds", BUILD_LIMIT.as_secs()),
        Received::Closed => bail!("the VMM ended before it was ready: {}", session::how(&vmm)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_refused_by_its_path() {
        let vm = |spec: serde_json::Value| {
            let vm = serde_json::json!({
                "apiVersion": "kubevirt.io/v1",
                "kind": "VirtualMachine",
                "spec": {"runStrategy": "Always", "template": {"spec": spec}},
            });
            refuse_network(&vireo_runtimeclass::parse_virtual_machine(vm).unwrap()).map_err(|error| error.to_string())
        };
        assert_eq!(vm(serde_json::json!({"domain": {"devices": {}}})), Ok(()));
        let interfaces = serde_json::json!([{"name": "default", "masquerade": {}}]);
        let networks = serde_json::json!([{"name": "default", "pod": {}}]);
        let with = serde_json::json!({"domain": {"devices": {"interfaces": interfaces}}, "networks": networks});
        let expected = "spec.template.spec.domain.devices.interfaces: not supported by vireo run, which attaches no network; leave it out";
        assert_eq!(vm(with), Err(expected.to_owned()));
        let without = serde_json::json!({"domain": {"devices": {}}, "networks": networks});
        let expected =
            "spec.template.spec.networks: not supported by vireo run, which attaches no network; leave it out";
        assert_eq!(vm(without), Err(expected.to_owned()));
    }
}
