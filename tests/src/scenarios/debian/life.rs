//! All that a pod's owner does with a cloud's image, through CRI alone: qcow2 in an image, BIOS, two vCPUs, the pod's network.

use std::{collections::HashMap, fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use vireo_runtimeclass::{
    machine_service::{
        client::with_token,
        token::Signer,
        v1::{PauseRequest, ResumeRequest},
    },
    pod::{ANNOTATION_CONTROLLER_KEY, PRIVATE_DIR},
};

use super::{
    super::{
        Bench, channel,
        eventually::{LIMIT, eventually, until},
        pod::{Pod, PodSpec},
        shell, volumes,
    },
    USER_DATA, boot, described, log_in,
};
use crate::{cri::v1, guest::debian::CONTAINER_DISK};

/// Mounts the further disks, and serves what is on them.
const SERVES: &str = "fs_setup:
- {device: /dev/disk/by-id/virtio-scratch, filesystem: ext4, partition: none}
mounts:
- [/dev/disk/by-id/virtio-scratch, /srv/scratch]
- [/dev/disk/by-id/virtio-config, /srv/config, iso9660, ro]
runcmd:
- cp /etc/vireo-seed /srv/scratch/seed
- systemd-run --unit web --working-directory /srv python3 -m http.server 80
";
const NETWORK_DATA: &str = "
version: 2
ethernets:
  pod: {match: {name: \"e*\"}, dhcp4: true}
";
/// What the container may use of a CPU when it is throttled: microseconds in each period of 100 ms.
const QUOTA: u64 = 20_000;

pub(super) fn life(bench: &mut Bench) -> Result<()> {
    shell::output(["ctr", "-n", "k8s.io", "images", "import", "/guest/containerdisk.tar"])?;
    let folder = tempfile::tempdir_in("/run")?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
    let [config, keys, key] = ["config", "keys", "key"].map(|name| folder.path().join(name));
    volumes::write(&config, "1", &[("greeting", "hello from a ConfigMap")])?;
    let key = key.to_str().context("a path")?;
    shell::output(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])?;
    volumes::write(&keys, "1", &[("me", &fs::read_to_string(format!("{key}.pub"))?)])?;
    let signer = Signer::new(&[7; 32]);

    let mut pod = bench.pod(spec(&config, &keys, &signer))?;
    pod.create(bench)?;
    pod.start(bench)?;
    let mut console = pod.attach(bench)?;
    let name = pod.name.clone();
    boot(&mut console, &name)?;
    // Who attaches comes late for the first words; the log has them.
    let shown = pod.console()?;
    ensure!(shown.contains("SeaBIOS"), "no word of SeaBIOS on the serial console:\n{shown}");
    log_in(&mut console, &name, 2)?;
    agent(bench, &pod)?;
    served(bench, &pod)?;
    for (user, ip) in [("debian", &pod.ip), ("vireo", &pod.ipv6)] {
        logged_in_by_ssh(&pod, key, user, ip)?;
    }
    paused(bench, &pod, &signer)?;
    throttled(bench, &pod)?;

    pod.stop(bench, 300)?;
    let status = pod.wait_exit(bench)?;
    ensure!((status.exit_code, status.reason.as_str()) == (0, "Completed"), "{status:?}");
    out_of_memory(bench, &mut pod)?;
    pod.remove(bench)
}

fn spec(config: &Path, keys: &Path, signer: &Signer) -> PodSpec {
    let mut spec = described(&json!({"bootloader": {"bios": {"useSerial": true}}}));
    spec["domain"]["cpu"]["cores"] = 2.into();
    spec["domain"]["devices"] = json!({
        "disks": [{"name": "root"}, {"name": "seed"}, {"name": "scratch", "serial": "scratch"}, {"name": "config"}],
        "interfaces": [{"name": "default", "masquerade": {}}],
        "rng": {},
    });
    spec["networks"] = json!([{"name": "default", "pod": {}}]);
    let user_data = [USER_DATA, SERVES].concat();
    spec["volumes"] = json!([
        {"name": "root", "containerDisk": {"image": CONTAINER_DISK}},
        {"name": "seed", "cloudInitNoCloud": {"userData": user_data, "networkData": NETWORK_DATA}},
        {"name": "scratch", "emptyDisk": {"capacity": "64Mi"}},
        {"name": "config", "configMap": {"name": "config"}},
    ]);
    let source = json!({"secret": {"secretName": "keys"}});
    let by_cloud_init = json!({"noCloud": {}});
    let by_agent = json!({"qemuGuestAgent": {"users": ["vireo"]}});
    spec["accessCredentials"] = json!([
        {"sshPublicKey": {"source": source, "propagationMethod": by_cloud_init}},
        {"sshPublicKey": {"source": source, "propagationMethod": by_agent}},
    ]);
    let mut pod = PodSpec {
        image: CONTAINER_DISK.to_owned(),
        memory_limit: 640 << 20,
        cpu_limit: 2000,
        mounts: [("config-map/config", config), ("secret/keys-access-cred", keys)]
            .map(|(place, folder)| (format!("{PRIVATE_DIR}/{place}"), folder.display().to_string()))
            .into(),
        ..PodSpec::described(&spec)
    };
    pod.annotations.insert(ANNOTATION_CONTROLLER_KEY.to_owned(), signer.key().to_string());
    pod
}

/// The guest's own agent is heard of and runs commands; what they find.
fn agent(bench: &mut Bench, pod: &Pod) -> Result<()> {
    let log = format!("/var/log/containerd-{}.log", bench.containerd);
    let (told, system) =
        (format!("container {}: guest agent 7.2", pod.container), format!(" on {}: Debian GNU/Linux 12", pod.name));
    until("the shim to have heard of the guest agent", || {
        let log = fs::read_to_string(&log)?;
        Ok(log.lines().any(|line| line.contains(&told) && line.contains(&system)))
    })?;
    for (command, found) in [
        (&["networkctl", "--no-pager", "--all", "status"][..], "10.0.2.2 (DHCP4 via 10.0.2.1)"),
        (&["findmnt", "-n", "-o", "FSTYPE", "/srv/scratch"], "ext4"),
        (&["findmnt", "-n", "-o", "FSTYPE", "/srv/config"], "iso9660"),
    ] {
        let told = pod.exec(bench, command, 60)?;
        let output = String::from_utf8_lossy(&told.stdout);
        ensure!(output.contains(found), "{command:?}: no {found:?} in {output}: {told:?}");
    }
    let told = pod.exec_told(bench, &["sh", "-c", "hostname; echo so >&2; exit 3"], false)?;
    let streams = (told.output.trim(), told.errors.trim(), told.status.contains("\"3\""));
    ensure!(streams == (&pod.name, "so", true), "{told:?}");
    Ok(())
}

/// The guest serves its disks: to the node, to another pod, and through a port-forward.
fn served(bench: &mut Bench, pod: &Pod) -> Result<()> {
    const GREETING: &str = "hello from a ConfigMap";
    let seed = pod.http("/scratch/seed")?;
    ensure!(seed == "told by cloud-init\n", "{seed:?}");
    pod.http_forwarded(bench, 80, "/config/greeting", GREETING)?;
    let mut other = bench.pod(PodSpec::ordinary())?;
    other.create(bench)?;
    other.start(bench)?;
    // Debian's static wget crashes in getaddrinfo; nc has none.
    let request = format!("printf 'GET /config/greeting HTTP/1.0\\r\\n\\r\\n' | nc {} 80", pod.ip);
    let answer = other.exec(bench, &["sh", "-c", &request], 60)?;
    ensure!(String::from_utf8_lossy(&answer.stdout).ends_with(GREETING), "{answer:?}");
    other.remove(bench)
}

/// With the key out of the secret: of the image's own user by cloud-init, of another by the agent, which retries until there is that user.
fn logged_in_by_ssh(pod: &Pod, key: &str, user: &str, ip: &str) -> Result<()> {
    let whom = format!("{user}@{ip}");
    let command = "echo $(id -un) became $(sudo id -un) on $(hostname)";
    let unknown = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"];
    let ssh = ["ssh", "-i", key, "-o", "BatchMode=yes", "-o", unknown[0], "-o", unknown[1], &whom, command];
    let mut refused = None;
    let told = eventually(&format!("ssh {whom}"), 2 * LIMIT, || match shell::output(ssh) {
        Ok(told) => Ok(Some(told)),
        Err(error) => {
            refused = Some(error);
            Ok(None)
        }
    });
    let told = told.with_context(|| format!("{refused:?}"))?;
    ensure!(told.trim() == format!("{user} became root on {}", pod.name), "{told}");
    Ok(())
}

/// Paused through the pod, the guest does not answer; resumed, it does.
fn paused(bench: &mut Bench, pod: &Pod, signer: &Signer) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let token = |method, nonce| channel::sign(signer, pod.identity(), method, nonce);
    runtime.block_on(async {
        let request = with_token(PauseRequest {}, &token("Pause", 1)?);
        channel::open(bench, pod).await?.pause(request).await.context("pause")
    })?;
    let url = format!("http://{}/scratch/seed", pod.ip);
    let answer = shell::output(["busybox", "wget", "-q", "-T", "3", "-O", "-", &url]);
    ensure!(answer.is_err(), "a paused guest answers {answer:?}");
    let exec = pod.exec(bench, &["true"], 60).err().context("a paused guest runs a command")?;
    ensure!(exec.message().contains("paused"), "{exec}");
    runtime.block_on(async {
        let request = with_token(ResumeRequest {}, &token("Resume", 2)?);
        channel::open(bench, pod).await?.resume(request).await.context("resume")
    })?;
    pod.http("/scratch/seed").map(drop)
}

/// A guest that is busy gets what a changed limit leaves it.
fn throttled(bench: &mut Bench, pod: &Pod) -> Result<()> {
    const PERIOD: u64 = 100_000;
    /// How many are looked at.
    const PERIODS: u64 = 20;
    let limit = |quota: u64| -> Result<v1::LinuxContainerResources> {
        Ok(v1::LinuxContainerResources {
            cpu_period: PERIOD.try_into()?,
            cpu_quota: quota.try_into()?,
            ..Default::default()
        })
    };
    let busy = ["systemd-run", "--unit", "busy", "sh", "-c", "while :; do :; done"];
    ensure!(pod.exec(bench, &busy, 60)?.exit_code == 0, "no {busy:?}");
    pod.limit(bench, limit(QUOTA)?)?;
    let stat = || -> Result<HashMap<String, u64>> {
        let text = fs::read_to_string(pod.cgroup().join("cpu.stat"))?;
        let fields = text.lines().filter_map(|line| line.split_once(' '));
        fields.map(|(name, value)| Ok((name.to_owned(), value.parse()?))).collect()
    };
    // The time of before may still be in a CPU's hands.
    let since = |begin: &HashMap<String, u64>, name: &str| -> Result<u64> { Ok(stat()?[name] - begin[name]) };
    let begin = stat()?;
    until("a period to pass", || Ok(since(&begin, "nr_periods")? >= 2))?;
    let begin = stat()?;
    until("periods to pass", || Ok(since(&begin, "nr_periods")? >= PERIODS))?;
    let (periods, used, throttled) =
        (since(&begin, "nr_periods")?, since(&begin, "usage_usec")?, since(&begin, "nr_throttled")?);
    ensure!(throttled >= PERIODS / 2, "throttled in {throttled} of {periods} periods");
    // One period more, for those that have begun and not ended; a fifth more, for what CPUs take ahead.
    ensure!(used <= (periods + 1) * QUOTA * 6 / 5, "{used} µs used in {periods} periods of {QUOTA} µs");
    pod.limit(bench, limit(2 * PERIOD)?)?;
    ensure!(pod.exec(bench, &["systemctl", "stop", "busy"], 60)?.exit_code == 0, "the guest stays busy");
    Ok(())
}

/// The container once more; a limit below what the guest has by then ends it, and is told.
fn out_of_memory(bench: &mut Bench, pod: &mut Pod) -> Result<()> {
    pod.create_again(bench, |_| {})?;
    pod.start(bench)?;
    let file = pod.cgroup().join("memory.current");
    until("the guest to use 128 MiB", || Ok(fs::read_to_string(&file)?.trim().parse::<u64>()? > 128 << 20))?;
    pod.limit_memory(bench, 64 << 20)?;
    let status = pod.wait_exit(bench)?;
    ensure!((status.exit_code, status.reason.as_str()) == (137, "OOMKilled"), "{status:?}");
    Ok(())
}
