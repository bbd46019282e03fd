//! Guest and node talk without a network: the guest agent, vsock, the balloon; and the guest knows who it is.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use vireo_shim::launch::{Launch, Vmm, launch};
use vireo_vmm::config::{
    BootConfig, ConsoleKind, CpuConfig, FdIndex, IdentityConfig, JailConfig, MachineConfig, MemoryConfig,
};
use vireo_vmm::control::client::Received;
use vireo_vmm::control::message::{Command, Event, MemoryReport};

use super::{
    Bench, Scenario,
    eventually::{LIMIT, eventually, until},
    pod::{PROMPT, Pod, PodSpec, vmi},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::each("guest_agent_and_vsock_answer", channels),
    Scenario::each("memory_that_a_guest_frees_is_the_node_s_again", freed_memory),
    Scenario::once("a_balloon_fills_and_empties", balloon),
];

const UUID: &str = "5d307ca9-b3ef-428c-8861-06e72d69f223";
const MIB: u64 = 1 << 20;

fn channels(bench: &mut Bench) -> Result<()> {
    let mut spec = vmi("");
    spec["domain"]["firmware"]["kernelBoot"]["container"]["initrdPath"] = "/agent/initrd".into();
    spec["domain"]["firmware"]["uuid"] = UUID.into();
    spec["domain"]["firmware"]["serial"] = "serial-7".into();
    spec["domain"]["chassis"] = json!({"asset": "asset-8"});
    spec["domain"]["devices"]["autoattachVSOCK"] = true.into();
    let pod = bench.boot(PodSpec::described(&spec))?;
    let missing = pod.exec(bench, &["true"], 60).expect_err("no agent runs yet");
    ensure!(missing.message().contains("the guest agent is not connected"), "{missing}");
    let mut console = pod.attach(bench)?;
    console.send("/agent/start; cat /sys/class/virtio-ports/*/name; echo started $((1 + 1))\n")?;
    let ports = console.wait_for("started 2", LIMIT)?;
    ensure!(ports.contains("org.qemu.guest_agent.0"), "{ports}");

    console
        .send("cd /sys/class/dmi/id; cat product_uuid product_serial chassis_asset_tag sys_vendor product_family\n")?;
    console.send("ls /sys/bus/acpi/devices; cat /sys/class/rtc/rtc0/name; echo looked $((1 + 2))\n")?;
    let seen = console.wait_for("looked 3", LIMIT)?;
    for word in [UUID, "serial-7", "asset-8", "KubeVirt", "VMGENCTR:00", "rtc_cmos"] {
        ensure!(seen.contains(word), "no {word} in {seen}");
    }
    console.send("echo drift=$(($(cat /sys/class/rtc/rtc0/since_epoch) - $(date +%s))) told $((1 + 3))\n")?;
    let told = console.wait_for(" told 4", LIMIT)?;
    // What was typed is on the console too.
    let drift = told.rsplit("drift=").next().and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    ensure!(drift.parse::<i64>().is_ok_and(|seconds| seconds.abs() < 30), "the clock is off: {told}");

    let log = format!("/var/log/containerd-{}.log", bench.containerd);
    let told = format!("container {}: guest agent 7.2", pod.container);
    until("the shim to have heard of the guest agent", || Ok(fs::read_to_string(&log)?.contains(&told)))?;
    vsock(&pod)?;
    exec(&pod, bench)?;
    pod.remove(bench)
}

/// Commands run in the guest, as the kubelet has its probes run.
fn exec(pod: &Pod, bench: &mut Bench) -> Result<()> {
    let script = ["sh", "-c", "echo out of $(hostname); echo err >&2; exit 7"];
    let done = pod.exec(bench, &script, 60)?;
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure!(
        (&*out, &*err, done.exit_code) == ("out of vireo-guest\n", "err\n", 7),
        "{out:?} {err:?} {}",
        done.exit_code
    );
    let error = pod.exec(bench, &["/no/such/program"], 60).expect_err("nothing to run").to_string();
    ensure!(error.contains("No such file"), "{error}");

    let error = pod.exec(bench, &["sh", "-c", "echo $$ > /tmp/slow; exec sleep 1000"], 2).expect_err("a timeout");
    ensure!(error.code() == tonic::Code::DeadlineExceeded, "{error}");
    until("the guest to have ended what took too long", || {
        let alive = ["sh", "-c", "kill -0 $(cat /tmp/slow)"];
        Ok(pod.exec(bench, &alive, 60)?.exit_code != 0)
    })
}

/// The agent that listens on the guest's vsock port 1234 is in step with us.
fn vsock(pod: &Pod) -> Result<()> {
    let bundle = format!("/run/containerd/io.containerd.runtime.v2.task/k8s.io/{}", pod.container);
    let folder = File::open(&bundle).with_context(|| bundle.clone())?;
    let socket = format!("/proc/self/fd/{}/vsock.sock", folder.as_raw_fd());
    let mut stream = eventually("the guest to listen on vsock port 1234", LIMIT, || {
        let mut stream = UnixStream::connect(&socket).with_context(|| format!("{bundle}/vsock.sock"))?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(b"CONNECT 1234\n")?;
        let mut ok = [0; 3];
        // Nobody listening yet is the socket's end.
        Ok(stream.read_exact(&mut ok).is_ok().then_some(stream))
    })?;
    stream.write_all(b"\xFF{\"execute\": \"guest-sync-delimited\", \"arguments\": {\"id\": 4711}}\n")?;
    let mut lines = BufReader::new(stream);
    let mut answer = Vec::new();
    while !answer.ends_with(b"{\"return\": 4711}\n") {
        ensure!(lines.read_until(b'\n', &mut answer)? > 0, "{}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

fn freed_memory(bench: &mut Bench) -> Result<()> {
    let pod = bench.boot(PodSpec::guest())?;
    let used = || -> Result<u64> {
        let text = fs::read_to_string(pod.cgroup().join("memory.current"))?;
        text.trim().parse().with_context(|| text.clone())
    };
    let mut console = pod.attach(bench)?;
    // The file is in the initramfs, which is RAM.
    console.send("dd if=/dev/urandom of=/fill bs=1M count=96 2> /dev/null; echo filled $((1 + 1))\n")?;
    console.wait_for("filled 2", LIMIT)?;
    let full = used()?;
    console.send("rm /fill; echo freed $((1 + 2))\n")?;
    console.wait_for("freed 3", LIMIT)?;
    until(&format!("{full} bytes to become 64 MiB less"), || Ok(used()? + 64 * MIB < full))?;
    pod.remove(bench)
}

/// Drives a machine's balloon as the shim could.
fn balloon(_: &mut Bench) -> Result<()> {
    let open = |path: &str| File::open(path).with_context(|| path.to_owned());
    let kvm = File::options().read(true).write(true).open("/dev/kvm").context("/dev/kvm")?;
    let fds: Vec<OwnedFd> = vec![kvm.into(), open("/vireo/guest/vmlinuz")?.into(), open("/vireo/guest/initrd")?.into()];
    let machine = MachineConfig {
        name: "balloon".to_owned(),
        kvm: FdIndex(0),
        vcpus: 1,
        cpu: CpuConfig::default(),
        memory: MemoryConfig { size: 256 * MIB, hugepages: None },
        boot: BootConfig::Kernel {
            kernel: FdIndex(1),
            initrd: Some(FdIndex(2)),
            cmdline: "console=ttyS0 quiet".to_owned(),
        },
        disks: Vec::new(),
        nics: Vec::new(),
        rng: false,
        balloon: true,
        vsock: None,
        identity: IdentityConfig::default(),
        console: ConsoleKind::Serial,
    };
    let vmm = File::open(Path::new("/vireo/bin/vireo-vmm"))?;
    let jail = Some(JailConfig { uid: 107, gid: 107 });
    let vmm = launch(Launch { vmm: &vmm, cgroup: None, oom_score_adj: None, machine, fds, jail })?;
    let (mut console, theirs) = UnixStream::pair()?;
    console.set_read_timeout(Some(LIMIT))?;
    vmm.control.send(&Command::AttachConsole, &[theirs.as_fd()])?;
    vmm.control.send(&Command::Start { paused: false }, &[])?;
    let mut seen = Vec::new();
    while !seen.ends_with(PROMPT.as_bytes()) {
        let mut byte = [0];
        console.read_exact(&mut byte).with_context(|| String::from_utf8_lossy(&seen).into_owned())?;
        seen.push(byte[0]);
    }
    let free =
        || -> Result<u64> { ask(&vmm)?.statistics.and_then(|all| all.free).context("the guest tells its free memory") };
    let before = free()?;
    for (bytes, gone) in [(64 * MIB, 48 * MIB), (0, 0)] {
        vmm.control.send(&Command::SetBalloon { bytes }, &[])?;
        until(&format!("the balloon to hold {bytes} bytes"), || Ok(ask(&vmm)?.actual == bytes))?;
        let left = free()?;
        ensure!(left + gone <= before + 16 * MIB, "{left} bytes are free, {before} were");
        ensure!(left + gone + 32 * MIB >= before, "{left} bytes are free, {before} were");
    }
    Ok(())
}

fn ask(vmm: &Vmm) -> Result<MemoryReport> {
    vmm.control.send(&Command::AskMemory, &[])?;
    eventually("an answer about memory", Duration::from_mins(1), || match vmm.control.wait(LIMIT)? {
        Received::Message(Event::Memory(report)) => Ok(Some(report)),
        Received::Closed => anyhow::bail!("the VMM ended"),
        _ => Ok(None),
    })
}
