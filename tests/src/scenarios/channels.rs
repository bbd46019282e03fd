//! Guest and node talk without a network: the guest agent, vsock, the balloon; the guest knows who it is, and reboots when it is asked to.

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
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use vireo_runtimeclass::{
    machine_service::{
        client::with_token,
        token::Signer,
        v1::{self, vsock_request::Input},
    },
    pod::ANNOTATION_CONTROLLER_KEY,
};
use vireo_shim::launch::{Launch, Vmm, launch};
use vireo_vmm::config::{
    BootConfig, ConsoleKind, CpuConfig, FdIndex, IdentityConfig, JailConfig, MachineConfig, MemoryConfig,
};
use vireo_vmm::control::client::Received;
use vireo_vmm::control::message::{Command, Event, MemoryReport};

use super::{
    Bench, Scenario, channel,
    eventually::{LIMIT, eventually, until},
    pod::{PROMPT, Pod, PodSpec, UP, vmi},
    shell,
};
use crate::cri::attach::Attached;

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
    let signer = Signer::new(&[7; 32]);
    let mut spec = PodSpec::described(&spec);
    spec.annotations.insert(ANNOTATION_CONTROLLER_KEY.to_owned(), signer.key().to_string());
    let pod = bench.boot(spec)?;
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let work = vsock_through_its_pod(bench, &pod, &signer);
        tokio::time::timeout(LIMIT, work).await.context("vsock through the pod hangs")?
    })?;
    console.send("mount /dev/vda /mnt; echo mounted $((2 + 4))\n")?;
    console.wait_for("mounted 6", LIMIT)?;
    runtime.block_on(frozen(bench, &pod, &signer))?;
    console.send("touch /mnt/after && umount /mnt && echo thawed $((3 + 4))\n")?;
    console.wait_for("thawed 7", LIMIT)?;
    reboots(bench, &pod, &mut console)?;
    pod.remove(bench)
}

/// The same agent on vsock, by the machine's service: for whoever has a token.
async fn vsock_through_its_pod(bench: &mut Bench, pod: &Pod, signer: &Signer) -> Result<()> {
    let mut client = channel::open(bench, pod).await?;
    let open = |port, nonce| -> Result<_> {
        let (sender, requests) = tokio::sync::mpsc::channel(4);
        sender.try_send(v1::VsockRequest { input: Some(Input::Port(port)) })?;
        let token = channel::sign(signer, pod.identity(), "Vsock", nonce)?;
        Ok((sender, with_token(ReceiverStream::new(requests), &token)))
    };
    let (_, bare) = open(1234, 1)?;
    let refused = client.vsock(bare.into_inner()).await.expect_err("there is no token");
    ensure!(refused.code() == tonic::Code::Unauthenticated, "{refused}");
    let (_sender, nobody) = open(4321, 2)?;
    let refused = client.vsock(nobody).await.expect_err("nobody listens there");
    ensure!(refused.message().contains("nothing in the guest listens on port 4321"), "{refused}");
    let (sender, request) = open(1234, 3)?;
    let mut told = client.vsock(request).await.context("vsock port 1234")?.into_inner();
    let question = b"\xFF{\"execute\": \"guest-sync-delimited\", \"arguments\": {\"id\": 4712}}\n".to_vec();
    sender.send(v1::VsockRequest { input: Some(Input::Data(question)) }).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"{\"return\": 4712}\n") {
        let piece = told.message().await?;
        answer.extend(piece.with_context(|| String::from_utf8_lossy(&answer).into_owned())?.data);
    }
    Ok(())
}

/// What is frozen for a time is thawed by the machine itself.
async fn frozen(bench: &mut Bench, pod: &Pod, signer: &Signer) -> Result<()> {
    let mut client = channel::open(bench, pod).await?;
    let token = channel::sign(signer, pod.identity(), "Freeze", 4)?;
    let freeze = v1::FreezeRequest { timeout_milliseconds: 10_000 };
    let frozen = client.freeze(with_token(freeze, &token)).await.context("freeze")?.into_inner().frozen;
    ensure!(frozen == 1, "{frozen} file systems");
    let held = client.info(v1::InfoRequest {}).await?.into_inner();
    ensure!(held.frozen, "{held:?}");
    let thawed = async {
        while client.info(v1::InfoRequest {}).await?.into_inner().frozen {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    };
    tokio::time::timeout(LIMIT, thawed).await.context("the guest is not thawed")?
}

/// The guest boots anew when it is asked to, in the same container: by its agent; without one, by the power button, at which it powers off.
fn reboots(bench: &mut Bench, pod: &Pod, console: &mut Attached) -> Result<()> {
    // The fast guest has no such program, which its agent runs.
    let shutdown = r"#!/bin/sh\necho GUEST told: $* > /dev/console\nreboot -f\n";
    console.send(&format!("mkdir -p /sbin; printf '{shutdown}' > /sbin/shutdown; chmod +x /sbin/shutdown\n"))?;
    console.send("echo ready $((1 + 4))\n")?;
    console.wait_for("ready 5", LIMIT)?;
    let (vmm, mut boots) = (pod.vmm()?, vec![boot_id(console)?]);
    for way in ["-r +0", "GUEST power button"] {
        shell::output(["vireo", "soft-reboot", &pod.name])?;
        // The second boot has no agent.
        let shown = console.wait_for(UP, LIMIT)?;
        ensure!(shown.contains(way), "no {way:?} in {shown}");
        console.wait_for(PROMPT, LIMIT)?;
        boots.push(boot_id(console)?);
    }
    boots.dedup();
    ensure!(boots.len() == 3, "the guest has not rebooted each time: {boots:?}");
    ensure!(pod.vmm()? == vmm, "it is another machine");
    // Its agent is found again.
    console.send("/agent/start\n")?;
    until("the agent of the guest's third boot", || {
        let told = pod.exec(bench, &["cat", "/proc/sys/kernel/random/boot_id"], 60);
        Ok(told.is_ok_and(|told| String::from_utf8_lossy(&told.stdout).trim() == boots[2]))
    })
}

/// Which boot of the guest this is.
fn boot_id(console: &mut Attached) -> Result<String> {
    console.send("echo boot=$(cat /proc/sys/kernel/random/boot_id)=\n")?;
    // What was typed is on the console too.
    loop {
        console.wait_for("boot=", LIMIT)?;
        let id = console.wait_for("=", LIMIT)?;
        let id = id.trim_end_matches('=');
        if id.len() == UUID.len() && !id.contains('$') {
            return Ok(id.to_owned());
        }
    }
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
