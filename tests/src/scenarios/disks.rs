//! What a guest writes: forgotten with its pod where it should be, never lost where it was told that it is safe.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use super::{
    Bench, Scenario,
    eventually::LIMIT,
    pod::{PROMPT, PodSpec, vmi},
};
use crate::guest::{BLANK_QCOW2, images::QCOW2_DISK};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::each("a_pods_disk_forgets_with_the_pod_alone", forgets),
    Scenario::each("an_ephemeral_claim_forgets_and_stays_as_it_is", ephemeral),
    Scenario::once("killed_vmm_loses_no_acknowledged_write_on_raw", |_| survives_kills("raw")),
    Scenario::once("killed_vmm_loses_no_acknowledged_write_on_qcow2", |_| survives_kills("qcow2")),
];

/// The fast guest on a qcow2 image with zstd clusters: what it writes survives its reboot, and not its pod.
fn forgets(bench: &mut Bench) -> Result<()> {
    let mut spec = vmi("");
    spec["volumes"][0]["containerDisk"]["path"] = QCOW2_DISK.into();
    let spec = PodSpec::described(&spec);
    for first in [true, false] {
        let pod = bench.boot(spec.clone())?;
        let mut console = pod.attach(bench)?;
        console.send("mount /dev/vda /mnt; tr a-z A-Z < /mnt/etc/vireo-disk; ls /mnt/kept\n")?;
        console.wait_for("THE FAST GUEST'S DISK", LIMIT)?;
        console.wait_for("/mnt/kept: No such file", LIMIT)?;
        if first {
            console.send("echo kept > /mnt/kept; sync; umount /mnt; act reboot\n")?;
            console.wait_for("GUEST-INIT", LIMIT)?;
            console.wait_for(PROMPT, LIMIT)?;
            console.send("mount /dev/vda /mnt; tr a-z A-Z < /mnt/kept; umount /mnt\n")?;
            console.wait_for("KEPT", LIMIT)?;
        }
        pod.remove(bench)?;
    }
    Ok(())
}

/// Two claims, raw and qcow2, and an empty disk: what a guest writes there survives its reboot, not its pod, and the
/// claims' images stay as they are.
fn ephemeral(bench: &mut Bench) -> Result<()> {
    let folder = tempfile::tempdir_in("/run")?;
    let claims = ["raw", "qcow2"].map(|name| (name, folder.path().join(name).join("disk.img")));
    let mut raw = vec![0; 16 << 20];
    raw[..4].copy_from_slice(b"BASE");
    let qcow2 = fs::read(Path::new("/vireo/guest").join(BLANK_QCOW2))?;
    let contents = [raw, qcow2];
    for ((_, image), content) in claims.iter().zip(&contents) {
        let claim = image.parent().context("a folder")?;
        fs::create_dir(claim)?;
        fs::set_permissions(claim, fs::Permissions::from_mode(0o755))?;
        fs::write(image, content)?;
        // The pod's own user may read it, and nobody may write.
        fs::set_permissions(image, fs::Permissions::from_mode(0o400))?;
        chown(image, Some(107), Some(107))?;
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
    let mut spec = vmi("");
    let volumes = spec["volumes"].as_array_mut().context("a list")?;
    for (name, _) in &claims {
        volumes.push(json!({"name": name, "ephemeral": {"persistentVolumeClaim": {"claimName": name}}}));
    }
    volumes.push(json!({"name": "empty", "emptyDisk": {"capacity": "64Mi"}}));
    let disks = spec["domain"]["devices"]["disks"].as_array_mut().context("a list")?;
    disks.push(json!({"name": "empty", "disk": {"bus": "virtio"}, "serial": "EMPTY-1"}));
    let mut pod = PodSpec::described(&spec);
    for (name, image) in &claims {
        let claim = image.parent().context("a folder")?.display().to_string();
        pod.mounts.push((format!("/var/run/kubevirt-private/vmi-disks/{name}"), claim));
    }
    // Listed disks come first: the empty one is vdb, the claims vdc and vdd.
    let first = "first() { dd if=/dev/$1 bs=512 count=1 2> /dev/null | tr -d '\\0'; }\n";
    let look = |tag: &str| format!("for d in vdb vdc vdd; do echo {tag}=$d=$(first $d)=; done\n");
    for round in ["one", "two"] {
        let pod = bench.boot(pod.clone())?;
        let mut console = pod.attach(bench)?;
        console.send(first)?;
        console.send(&look(round))?;
        for text in ["vdb==", "vdc=BASE=", "vdd=="] {
            console.wait_for(&format!("{round}={text}"), LIMIT)?;
        }
        console.send("cat /sys/block/vdb/serial /sys/block/vdb/size\n")?;
        console.wait_for("EMPTY-1", LIMIT)?;
        console.wait_for("131072", LIMIT)?;
        console.send("for d in vdb vdc vdd; do echo kept | dd of=/dev/$d bs=512 conv=sync,fsync,notrunc; done\n")?;
        console.send("act reboot\n")?;
        console.wait_for("GUEST-INIT", LIMIT)?;
        console.wait_for(PROMPT, LIMIT)?;
        console.send(first)?;
        console.send(&look("again"))?;
        for disk in ["vdb", "vdc", "vdd"] {
            console.wait_for(&format!("again={disk}=kept="), LIMIT)?;
        }
        pod.remove(bench)?;
        for ((name, image), content) in claims.iter().zip(&contents) {
            ensure!(fs::read(image)? == *content, "the claim's {name} image has changed");
        }
    }
    Ok(())
}

/// Sectors that a guest has written and flushed before its VMM is killed.
const SECTORS: usize = 25;

/// A guest writes sector after sector, each with a flush, and says so; its VMM is killed; the next guest finds them all.
fn survives_kills(format: &str) -> Result<()> {
    let disk = format!("/run/written.{format}");
    let blank = if format == "raw" { None } else { Some(Path::new("/vireo/guest").join(BLANK_QCOW2)) };
    match blank {
        Some(blank) => drop(fs::copy(&blank, &disk).with_context(|| format!("copy {}", blank.display()))?),
        None => File::create(&disk)?.set_len(16 << 20)?,
    }
    let result = kill_and_look(&disk);
    fs::remove_file(disk)?;
    result
}

fn kill_and_look(disk: &str) -> Result<()> {
    let mut local = Local::boot(disk)?;
    local.send(
        "n=0; while n=$((n+1)); do printf '%-512s' $n | dd of=/dev/vda bs=512 seek=$n conv=notrunc,fsync 2> /dev/null; \
         echo ACK=$n=; done\n",
    )?;
    local.wait_for(&format!("ACK={SECTORS}="))?;
    let vmm = local.vmm()?;
    kill(Pid::from_raw(vmm), Signal::SIGKILL).with_context(|| format!("kill -9 {vmm}"))?;
    // What it still said counts, too.
    let console = local.end()?;
    let acknowledged = console.rsplit("ACK=").find_map(|rest| rest.split_once('=')?.0.parse::<usize>().ok());
    let acknowledged = acknowledged.context("a write was acknowledged")?;
    ensure!(acknowledged >= SECTORS, "{acknowledged}");

    let mut local = Local::boot(disk)?;
    local.send(&format!(
        "n=0; while [ $n -lt {acknowledged} ]; do n=$((n+1)); \
         [ \"$(dd if=/dev/vda bs=512 skip=$n count=1 2> /dev/null | tr -d ' ')\" = $n ] || echo LOST=$n=; done; echo SEEN=$n=\n"
    ))?;
    local.wait_for(&format!("SEEN={acknowledged}="))?;
    let lost = local.console.lines().filter(|line| line.starts_with("LOST=")).collect::<Vec<_>>().join(" ");
    ensure!(lost.is_empty(), "of {acknowledged} acknowledged writes: {lost}");
    local.send("act poweroff\n")?;
    local.end()?;
    Ok(())
}

/// A guest under `vireo run`, ended with the scenario.
struct Local {
    vireo: Child,
    output: Receiver<Vec<u8>>,
    console: String,
}

impl Local {
    /// Boots the fast guest with a disk, to its prompt.
    fn boot(disk: &str) -> Result<Self> {
        let path = "/run/vireo-run-disk.json";
        let machine = json!({
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachine",
            "metadata": {"name": "writer"},
            "spec": {"runStrategy": "Always", "template": {"spec": {
                "domain": {
                    "memory": {"guest": "256Mi"},
                    "firmware": {"kernelBoot": {
                        "kernelArgs": "console=ttyS0 quiet",
                        "container": {"kernelPath": "/vireo/guest/vmlinuz", "initrdPath": "/vireo/guest/initrd"},
                    }},
                    "devices": {"disks": [{"name": "data", "disk": {"bus": "virtio"}}]},
                },
                "volumes": [{"name": "data", "hostDisk": {"path": disk, "type": "Disk"}}],
            }}},
        });
        fs::write(path, machine.to_string())?;
        let vireo = Command::new("vireo").args(["run", path]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut vireo = vireo.context("run vireo")?;
        let mut stdout = vireo.stdout.take().context("piped")?;
        let (sender, output) = channel();
        thread::spawn(move || {
            let mut buffer = vec![0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        let mut local = Self { vireo, output, console: String::new() };
        let booted = local.wait_for(PROMPT);
        fs::remove_file(path)?;
        booted.map(|()| local)
    }

    fn send(&mut self, line: &str) -> Result<()> {
        Ok(self.vireo.stdin.as_mut().context("piped")?.write_all(line.as_bytes())?)
    }

    /// Reads until `text` is on the console.
    fn wait_for(&mut self, text: &str) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while !self.console.contains(text) {
            match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.console.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => bail!("{text:?}: {error}; the console:\n{}", self.console),
            }
        }
        Ok(())
    }

    /// The VMM's process.
    fn vmm(&self) -> Result<i32> {
        let vireo = self.vireo.id();
        for task in fs::read_dir(format!("/proc/{vireo}/task"))? {
            let children = fs::read_to_string(task?.path().join("children"))?;
            if let Some(child) = children.split_whitespace().next() {
                return Ok(child.parse()?);
            }
        }
        bail!("vireo has no child");
    }

    /// Waits for the end, and returns all of the console.
    fn end(mut self) -> Result<String> {
        drop(self.vireo.stdin.take());
        self.vireo.wait()?;
        self.console.extend(self.output.iter().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
        Ok(std::mem::take(&mut self.console))
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = self.vireo.kill();
        let _ = self.vireo.wait();
    }
}
