//! Proofs of the launcher and the jail that start a VMM, or the probe (`vmm/examples/jail_probe.rs`) that behaves like one
//! taken over by its guest.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use vireo_shim::cgroup::{Cgroup, Entrance, Folders};
use vireo_shim::launch::{ExitStatus, Launch, Vmm, launch};
use vireo_vmm::config::{
    BootConfig, ConsoleKind, CpuConfig, DiskConfig, FdIndex, IdentityConfig, JailConfig, MachineConfig, MemoryConfig,
    NicConfig, VsockConfig,
};
use vireo_vmm::control::client::Received;
use vireo_vmm::control::message::{Command, End, Event};

use super::{descriptors, observe};

/// The user that the proofs run as.
pub const JAIL: JailConfig = JailConfig { uid: 107, gid: 108 };
/// Within this everything here happens, on the slowest node.
const LIMIT: Duration = Duration::from_secs(30);
/// The kinds of thread that a VMM has.
const KINDS: [&str; 3] = ["main", "vcpu", "worker"];
/// What no thread may do.
const FORBIDDEN: [&str; 10] = ["open", "create", "socket", "inet", "exec", "fork", "unshare", "kill", "setuid", "code"];

/// Starts the probe at `binary` for `act`, with `fds`, and waits until it is jailed.
pub fn start(binary: &Path, act: &str, fds: Vec<OwnedFd>) -> Result<Vmm> {
    let vmm = start_in(binary, act, fds, None)?;
    ready(&vmm)?;
    Ok(vmm)
}

fn start_in(binary: &Path, act: &str, fds: Vec<OwnedFd>, cgroup: Option<&Entrance>) -> Result<Vmm> {
    let binary = File::open(binary).with_context(|| format!("open {}", binary.display()))?;
    let machine = machine(act);
    Ok(launch(Launch { vmm: &binary, cgroup, oom_score_adj: Some(500), machine, fds, jail: Some(JAIL) })?)
}

/// A machine of which only the name counts.
fn machine(name: &str) -> MachineConfig {
    MachineConfig {
        name: name.to_owned(),
        kvm: FdIndex(0),
        vcpus: 1,
        cpu: CpuConfig::default(),
        memory: MemoryConfig { size: 64 << 20, hugepages: None },
        boot: BootConfig::Kernel { kernel: FdIndex(0), initrd: None, cmdline: String::new() },
        disks: Vec::new(),
        nics: Vec::new(),
        rng: false,
        balloon: false,
        vsock: None,
        identity: IdentityConfig::default(),
        console: ConsoleKind::Serial,
    }
}

fn ready(vmm: &Vmm) -> Result<()> {
    match vmm.control.wait(LIMIT)? {
        Received::Message(Event::Ready) => Ok(()),
        other => bail!("expected Ready, got {other:?}; exit {:?}, log {:?}", vmm.wait(LIMIT), log(vmm)),
    }
}

fn log(vmm: &Vmm) -> String {
    let mut text = vec![0; 4096];
    let length = nix::unistd::read(&vmm.stderr, &mut text).unwrap_or(0);
    String::from_utf8_lossy(&text[..length]).into_owned()
}

/// A jailed process keeps every promise that `/proc` can show.
pub fn is_confined(probe: &Path) -> Result<()> {
    let vmm = start(probe, "stay", vec![File::open("/dev/zero")?.into()])?;
    let pid = vmm.pid.as_raw();
    let broken: Vec<_> = observe(pid, JAIL.uid, JAIL.gid)?.into_iter().filter(|f| !f.kept).collect();
    ensure!(broken.is_empty(), "{broken:#?}");
    let descriptors: Vec<_> = descriptors(pid)?.into_values().collect();
    ensure!(descriptors.len() == 5, "{descriptors:?}");
    ensure!(descriptors[..2] == ["/dev/null", "/dev/null"] && descriptors[4] == "/dev/zero", "{descriptors:?}");
    ensure!(descriptors[2].starts_with("pipe:") && descriptors[3].starts_with("socket:"), "{descriptors:?}");
    let score = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?;
    ensure!(score.trim() == "500", "oom_score_adj is {score}");
    Ok(())
}

/// Each kind of thread is killed for each forbidden act, and it takes the process along.
pub fn forbidden_acts_kill(probe: &Path) -> Result<()> {
    for kind in KINDS {
        for act in FORBIDDEN {
            let vmm = start(probe, &format!("{kind}:{act}"), Vec::new())?;
            let status = vmm.wait(LIMIT);
            ensure!(status == Some(ExitStatus::Signaled(SIGSYS)), "{kind}:{act} ended with {status:?}: {}", log(&vmm));
        }
    }
    for kind in ["vcpu", "worker"] {
        let vmm = start(probe, &format!("{kind}:thread"), Vec::new())?;
        let status = vmm.wait(LIMIT);
        ensure!(status == Some(ExitStatus::Signaled(SIGSYS)), "{kind}:thread ended with {status:?}");
    }
    Ok(())
}

/// The signal that a seccomp filter kills with.
const SIGSYS: i32 = nix::sys::signal::Signal::SIGSYS as i32;
const SIGKILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;

/// Each kind of thread can do its work.
pub fn work_is_allowed(probe: &Path) -> Result<()> {
    for kind in KINDS {
        let disk = tempfile::tempfile()?;
        disk.set_len(4096)?;
        let vmm = start(probe, &format!("{kind}:work"), vec![disk.into()])?;
        let status = vmm.wait(LIMIT);
        ensure!(status == Some(ExitStatus::Exited(0)), "{kind}:work ended with {status:?}: {}", log(&vmm));
    }
    Ok(())
}

/// A dropped VMM is dead and reaped.
pub fn drop_kills_and_reaps(probe: &Path) -> Result<()> {
    let (end, inside) = pipe()?;
    let vmm = start(probe, "stay", vec![inside])?;
    let pid = vmm.pid;
    ensure!(vmm.reap().is_none(), "it stays");
    drop(vmm);
    ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} is still there");
    gone(&end)
}

/// `kill` is told as what it was, as often as one asks.
pub fn kill_is_seen(probe: &Path) -> Result<()> {
    let vmm = start(probe, "stay", Vec::new())?;
    vmm.kill();
    for _ in 0..2 {
        ensure!(vmm.wait(LIMIT) == Some(ExitStatus::Signaled(SIGKILL)));
    }
    Ok(())
}

/// A process is in its cgroup, in each hierarchy of the machine, when it has become the VMM.
pub fn born_in_cgroup(probe: &Path) -> Result<()> {
    let folders = Folders::at(Path::new(&format!("vireo-proof-{}", std::process::id())))?;
    let cgroup = Cgroup::create(&folders, None)?;
    let vmm = start_in(probe, "stay", Vec::new(), Some(cgroup.entrance()))?;
    for folder in folders.iter() {
        let file = folder.path.join("cgroup.procs");
        let inside = std::fs::read_to_string(&file)?;
        ensure!(inside.trim() == vmm.pid.to_string(), "{} is {inside:?}, not {}", file.display(), vmm.pid);
    }
    ready(&vmm)?;
    drop(vmm);
    drop(cgroup);
    let left = folders.iter().find(|folder| folder.path.exists());
    ensure!(left.is_none(), "{left:?} is left");
    Ok(())
}

/// What stands before the pid that [`launch_and_wait`] tells.
const TELLS_PID: &str = "launched vmm ";

/// A launcher for [`dies_with_its_launcher`]: tells the VMM's pid and waits to be killed. The VMM holds its stdout open.
pub fn launch_and_wait(probe: &Path) -> Result<()> {
    let held = std::io::stdout().as_fd().try_clone_to_owned()?;
    let vmm = start(probe, "stay", vec![held])?;
    println!("{TELLS_PID}{}", vmm.pid);
    loop {
        std::thread::park();
    }
}

/// A VMM that doesn't listen to its control socket ends with the launcher that `launcher` starts ([`launch_and_wait`]).
pub fn dies_with_its_launcher(mut launcher: std::process::Command) -> Result<()> {
    use std::io::{BufRead, BufReader};
    let mut launcher = launcher.stdout(std::process::Stdio::piped()).spawn().context("start a launcher")?;
    let mut output = BufReader::new(launcher.stdout.take().context("its output")?);
    // The test harness writes before it, on the same line.
    let mut line = String::new();
    while !line.contains(TELLS_PID) && {
        line.clear();
        output.read_line(&mut line)? > 0
    } {}
    let told = line.split_once(TELLS_PID).map(|(_, pid)| pid.trim());
    let alive = told.map(|pid| Path::new("/proc").join(pid).exists());
    launcher.kill()?;
    launcher.wait()?;
    ensure!(alive == Some(true), "no VMM was started");
    gone(&output.into_inner().into())
}

/// A real machine with every device runs in its jail, through resets, to its end. Needs KVM and `/dev/net/tun`.
pub fn a_machine_runs_jailed(vmm: &Path) -> Result<()> {
    let (machine, fds) = machine_with_everything()?;
    let binary = File::open(vmm).with_context(|| format!("open {}", vmm.display()))?;
    let vmm = launch(Launch { vmm: &binary, cgroup: None, oom_score_adj: None, machine, fds, jail: Some(JAIL) })?;
    ready(&vmm)?;
    let (mut console, theirs) = UnixStream::pair()?;
    console.set_read_timeout(Some(LIMIT))?;
    vmm.control.send(&Command::AttachConsole, &[theirs.as_fd()])?;
    vmm.control.send(&Command::Start { paused: false }, &[])?;
    for typed in [b"r", b"r", b"x"] {
        let event = vmm.control.wait(LIMIT)?;
        let runs = matches!(event, Received::Message(Event::Started { .. } | Event::Rebooted));
        ensure!(runs, "{event:?} {:?}: {}", vmm.wait(Duration::ZERO), log(&vmm));
        console.read_exact(&mut [0]).with_context(|| format!("the guest's prompt: {:?}", vmm.reap()))?;
        let broken: Vec<_> = observe(vmm.pid.as_raw(), JAIL.uid, JAIL.gid)?.into_iter().filter(|f| !f.kept).collect();
        ensure!(broken.is_empty(), "{broken:#?}");
        console.write_all(typed)?;
    }
    let event = vmm.control.wait(LIMIT)?;
    ensure!(event == Received::Message(Event::Ended(End::PowerOff)), "{event:?}: {}", log(&vmm));
    let status = vmm.wait(LIMIT);
    ensure!(status == Some(ExitStatus::Exited(0)), "{status:?}: {}", log(&vmm));
    Ok(())
}

fn machine_with_everything() -> Result<(MachineConfig, Vec<OwnedFd>)> {
    let kvm = File::options().read(true).write(true).open("/dev/kvm").context("/dev/kvm")?;
    let disk = tempfile::tempfile()?;
    disk.set_len(1 << 20)?;
    let taps = vireo_vmm::tap::open_tap(&format!("vjail{}", std::process::id() % 1_000_000), 1)?;
    let disk_config = DiskConfig::new("root", FdIndex(2));
    let nic_config = NicConfig::new("default", vec![FdIndex(3)], [0x52, 0x54, 0, 1, 2, 3]);
    let machine = MachineConfig {
        vcpus: 2,
        cpu: CpuConfig::default(),
        disks: vec![disk_config],
        nics: vec![nic_config],
        rng: true,
        balloon: true,
        vsock: Some(VsockConfig { cid: 3 }),
        boot: BootConfig::Kernel { kernel: FdIndex(1), initrd: None, cmdline: String::new() },
        ..machine("prompt")
    };
    Ok((
        machine,
        vec![kvm.into(), super::guest::prompt()?.into(), disk.into()]
            .into_iter()
            .chain(taps.into_iter().map(Into::into))
            .collect(),
    ))
}

/// A binary that is none is refused by what failed, and leaves no process.
pub fn a_bad_binary_is_refused() -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    let error = start(file.path(), "stay", Vec::new()).err().context("an empty file was started")?;
    ensure!(error.to_string() == "launch vireo-vmm: execute the binary", "{error:#}");
    let left = nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
    ensure!(left == Err(nix::Error::ECHILD), "a child is left: {left:?}");
    Ok(())
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = std::io::pipe()?;
    Ok((reader.into(), writer.into()))
}

/// Waits until nobody holds the other end any more.
fn gone(pipe: &OwnedFd) -> Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(LIMIT).context("time limit")?;
    ensure!(poll(&mut fds, timeout)? == 1, "the process still holds its end");
    ensure!(fds[0].revents().is_some_and(|e| e.contains(PollFlags::POLLHUP)), "the pipe has data, not an end");
    Ok(())
}
