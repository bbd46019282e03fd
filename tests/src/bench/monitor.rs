//! The machine monitors under test, each started as its users start it.

use std::{
    fs::File,
    io::{PipeReader, Read as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use vireo_shim::launch::{Launch, Vmm, launch};
use vireo_vmm::{
    config::{BootConfig, ConsoleKind, CpuConfig, FdIndex, IdentityConfig, JailConfig, MachineConfig, MemoryConfig},
    control::{
        client::Received,
        message::{Command as Order, Event},
    },
};

use super::{GUEST_MEMORY_BYTES, console::Console};
use crate::scenarios::measure::now;

/// Who the jailed VMM is: the pod's user if the pod names none.
const JAIL: JailConfig = JailConfig { uid: 107, gid: 107 };
/// How long building a machine may take on an emulated node.
const READY: Duration = Duration::from_secs(30);

/// One of those that are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Monitor {
    /// `vireo-vmm`, the binary at this path, launched and jailed as the shim does it.
    Vireo(PathBuf),
    /// `qemu-system-x86_64 -M <machine>`, with KVM and no default devices.
    Qemu {
        /// `microvm` or `q35`.
        machine: &'static str,
        /// What the place needs besides.
        arguments: &'static [&'static str],
    },
}

impl Monitor {
    /// As it stands in the tables.
    pub fn name(&self) -> String {
        match self {
            Self::Vireo(_) => "Vireo".to_owned(),
            Self::Qemu { machine, .. } => format!("QEMU {machine}"),
        }
    }

    /// Starts it: one vCPU, [`GUEST_MEMORY_BYTES`] of RAM, a serial console, a virtio console, no disks, no network.
    pub fn start(&self, guest: &Guest) -> Result<Running> {
        let begun = now()?;
        let (process, console) = match self {
            Self::Vireo(binary) => vireo(binary, guest),
            Self::Qemu { machine, arguments } => qemu(machine, arguments, guest),
        }
        .with_context(|| format!("start {}", self.name()))?;
        Ok(Running { begun, console: Console::new(console), process })
    }
}

/// What it boots.
#[derive(Debug, Clone)]
pub struct Guest {
    /// A kernel with a PVH entry, or a bzImage.
    pub kernel: PathBuf,
    /// The initial RAM file system.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// A monitor with its guest; dropping it kills it.
#[derive(Debug)]
pub struct Running {
    /// When its start was begun, on `CLOCK_MONOTONIC`.
    pub begun: Duration,
    /// The guest's serial port.
    pub console: Console,
    process: Process,
}

#[derive(Debug)]
enum Process {
    Vireo(Vmm),
    Qemu(Qemu),
}

impl Running {
    /// Process id of the monitor.
    pub fn pid(&self) -> Result<u32> {
        Ok(match &self.process {
            Process::Vireo(vmm) => u32::try_from(vmm.pid.as_raw())?,
            Process::Qemu(qemu) => qemu.child.id(),
        })
    }

    /// When the guest had written `marker`, since the start.
    pub fn wait_for(&mut self, marker: &[u8], limit: Duration) -> Result<Duration> {
        match self.console.wait_for(marker, limit) {
            Ok(at) => Ok(at.saturating_sub(self.begun)),
            Err(error) => Err(error.context(self.last_words())),
        }
    }

    /// What the monitor itself said, and how it ended; it is killed for it.
    pub fn last_words(&mut self) -> String {
        match &mut self.process {
            Process::Vireo(vmm) => vireo_said(vmm),
            Process::Qemu(qemu) => {
                let _ = qemu.child.kill();
                let mut text = String::new();
                let _ = qemu.errors.read_to_string(&mut text);
                format!("QEMU said {:?} and ended with {:?}", text.trim(), qemu.child.wait().ok())
            }
        }
    }
}

/// A QEMU process, killed when dropped.
#[derive(Debug)]
struct Qemu {
    child: Child,
    errors: PipeReader,
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn qemu(machine: &str, arguments: &[&str], guest: &Guest) -> Result<(Process, OwnedFd)> {
    // What Vireo's machine always has, microvm has only if told: a PCI bus, and a clock, for which Linux else waits 9 s.
    let options = if machine == "microvm" { "microvm,rtc=on,pcie=on" } else { machine };
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-M", options, "-accel", "kvm", "-smp", "1"]).args(arguments);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    command.args(["-m", &(GUEST_MEMORY_BYTES >> 20).to_string()]).args(["-device", "virtio-serial-pci"]);
    command.arg("-kernel").arg(&guest.kernel).args(["-append", &guest.cmdline]);
    if let Some(initrd) = &guest.initrd {
        command.arg("-initrd").arg(initrd);
    }
    let (errors, their_errors) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(their_errors);
    let mut child = command.spawn().context("run qemu-system-x86_64")?;
    let console = child.stdout.take().context("a child has the pipe that it was given")?;
    Ok((Process::Qemu(Qemu { child, errors }), console.into()))
}

fn vireo(binary: &PathBuf, guest: &Guest) -> Result<(Process, OwnedFd)> {
    let open = |path: &PathBuf| File::open(path).with_context(|| format!("open {}", path.display()));
    let kvm = File::options().read(true).write(true).open("/dev/kvm").context("open /dev/kvm")?;
    let mut fds: Vec<OwnedFd> = vec![kvm.into(), open(&guest.kernel)?.into()];
    let initrd = match &guest.initrd {
        None => None,
        Some(path) => {
            fds.push(open(path)?.into());
            Some(FdIndex(2))
        }
    };
    let machine = MachineConfig {
        name: "bench".to_owned(),
        kvm: FdIndex(0),
        vcpus: 1,
        cpu: CpuConfig::default(),
        memory: MemoryConfig { size: GUEST_MEMORY_BYTES, hugepages: None },
        boot: BootConfig::Kernel { kernel: FdIndex(1), initrd, cmdline: guest.cmdline.clone() },
        disks: Vec::new(),
        nics: Vec::new(),
        rng: false,
        balloon: false,
        vsock: None,
        identity: IdentityConfig::default(),
        console: ConsoleKind::Serial,
    };
    let binary = open(binary)?;
    let vmm = launch(Launch { vmm: &binary, cgroup: None, oom_score_adj: None, machine, fds, jail: Some(JAIL) })?;
    let (console, theirs) = UnixStream::pair()?;
    match vmm.control.wait(READY)? {
        Received::Message(Event::Ready) => {}
        Received::Message(Event::Refused(reason)) => bail!("vireo-vmm refuses: {reason}"),
        other => bail!("vireo-vmm answers {other:?} to its launch; {}", vireo_said(&vmm)),
    }
    vmm.control.send(&Order::AttachConsole, &[theirs.as_fd()])?;
    vmm.control.send(&Order::Start { paused: false }, &[])?;
    ensure!(vmm.reap().is_none(), "vireo-vmm ended at its start; {}", vireo_said(&vmm));
    Ok((Process::Vireo(vmm), console.into()))
}

/// A VMM that was refused for its jail has said nothing: the signal tells.
fn vireo_said(vmm: &Vmm) -> String {
    let mut text = Vec::new();
    vmm.kill();
    let status = vmm.wait(READY);
    if let Ok(stderr) = vmm.stderr.try_clone() {
        let _ = File::from(stderr).read_to_end(&mut text);
    }
    // Its last event has the reason of an end.
    let told: Vec<Event> = std::iter::from_fn(|| match vmm.control.receive() {
        Ok(Received::Message(event)) => Some(event),
        _ => None,
    })
    .collect();
    format!("vireo-vmm said {:?}, told {told:?} and ended with {status:?}", String::from_utf8_lossy(&text).trim())
}
