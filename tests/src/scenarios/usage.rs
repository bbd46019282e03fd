//! What a guest uses is what its container's statistics say.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    Bench, Scenario,
    eventually::LIMIT,
    pod::{PodSpec, cgroup_v2, vmi},
    shell,
};
use crate::cri::v1;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::each("what_a_guest_uses_is_counted", counted)];

/// What the guest reads and writes, bytes.
const MOVED: u64 = 4 << 20;
/// The major number of loop devices (Linux, `Documentation/admin-guide/devices.txt`).
const LOOP: u64 = 7;

/// The guest has a disk that is a block device: file systems in memory, which all else here is on, count no I/O.
pub(super) fn counted(bench: &mut Bench) -> Result<()> {
    let folder = tempfile::tempdir_in("/run")?;
    let image = folder.path().join("block.img");
    std::fs::File::create(&image)?.set_len(2 * MOVED)?;
    shell::output(["modprobe", "loop"])?;
    let device = shell::output(["losetup", "--find", "--show", image.to_str().context("a path")?])?.trim().to_owned();
    if !cgroup_v2() {
        // In the node's kernel v1 counts where this schedules (`shim/src/cgroup/stats/v1.rs`).
        shell::output(["modprobe", "bfq"])?;
        std::fs::write(format!("/sys/block/{}/queue/scheduler", device.replace("/dev/", "")), "bfq")?;
    }
    let result = with_device(bench, &device);
    shell::output(["losetup", "--detach", &device])?;
    result
}

fn with_device(bench: &mut Bench, device: &str) -> Result<()> {
    let mut spec = vmi("");
    let disks = spec["domain"]["devices"]["disks"].as_array_mut().context("a list")?;
    disks.push(json!({"name": "block", "disk": {"bus": "virtio"}}));
    let volumes = spec["volumes"].as_array_mut().context("a list")?;
    volumes.push(json!({"name": "block", "persistentVolumeClaim": {"claimName": "block"}}));
    let devices = vec![("/dev/block".to_owned(), device.to_owned())];
    let pod = bench.boot(PodSpec { devices, ..PodSpec::described(&spec) })?;
    let mut console = pod.attach(bench)?;
    let before = Numbers::read(&pod.container)?;
    console.send("dd if=/dev/zero of=/dev/vdb bs=1M count=4 conv=fsync; echo 3 > /proc/sys/vm/drop_caches\n")?;
    console.send("dd if=/dev/vdb of=/dev/null bs=1M count=4; echo moved $((1 + 1))\n")?;
    console.wait_for("moved 2", LIMIT)?;
    let after = Numbers::read(&pod.container)?;
    for (what, before, after) in [("wrote", before.written, after.written), ("read", before.read, after.read)] {
        // The VMM reads ahead nothing, the guest a little.
        ensure!(
            (MOVED..2 * MOVED).contains(&(after - before)),
            "the guest {what} {MOVED} bytes: {before} became {after}"
        );
    }
    ensure!(after.cpu > before.cpu, "the guest used CPU time: {} ns became {}", before.cpu, after.cpu);
    // At least the main thread, the vCPU's and that of each disk.
    ensure!((4..100).contains(&after.processes), "{} threads", after.processes);

    let request = v1::ContainerStatsRequest { container_id: pod.container.clone() };
    let stats = bench.cri().container_stats(request)?.stats.context("CRI has statistics")?;
    let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).context("of CPUs")?.value;
    let memory = stats.memory.and_then(|memory| memory.working_set_bytes).context("of memory")?.value;
    ensure!(cpu >= after.cpu, "CRI says {cpu} ns after {}", after.cpu);
    ensure!((32 << 20..320 << 20).contains(&memory), "CRI says {memory} bytes of memory");
    pod.remove(bench)
}

/// What `ctr` is told, which CRI's statistics leave out in part.
struct Numbers {
    written: u64,
    read: u64,
    /// Nanoseconds.
    cpu: u64,
    processes: u64,
}

impl Numbers {
    fn read(container: &str) -> Result<Self> {
        let text = shell::output(["ctr", "-n", "k8s.io", "task", "metrics", "--format", "json", container])?;
        let all: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let on_loop = |list: &Value, value: &str, op: Option<&str>| -> u64 {
            let entries = list.as_array().into_iter().flatten();
            let these = entries.filter(|entry| entry["major"] == LOOP && op.is_none_or(|op| entry["op"] == op));
            these.filter_map(|entry| entry[value].as_u64()).sum()
        };
        let processes = all["pids"]["current"].as_u64().with_context(|| text.clone())?;
        if cgroup_v2() {
            let (io, cpu) = (&all["io"]["usage"], &all["cpu"]["usage_usec"]);
            let (written, read) = (on_loop(io, "wbytes", None), on_loop(io, "rbytes", None));
            return Ok(Self { written, read, cpu: cpu.as_u64().context(text)? * 1000, processes });
        }
        let (io, cpu) = (&all["blkio"]["io_service_bytes_recursive"], &all["cpu"]["usage"]["total"]);
        let (written, read) = (on_loop(io, "value", Some("Write")), on_loop(io, "value", Some("Read")));
        Ok(Self { written, read, cpu: cpu.as_u64().context(text)?, processes })
    }
}
