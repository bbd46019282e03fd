//! A pod with one container, made as the kubelet makes it.

use std::{
    collections::HashMap,
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tonic::Status;
use vireo_runtimeclass::machine_service::token;

use super::{
    Bench,
    eventually::{LIMIT, eventually},
};
use crate::{
    cri::{
        attach::Attached,
        v1,
        websocket::{self, WebSocket},
    },
    guest::images::{BUSYBOX, CONTAINER_DISK},
};

/// Where cgroups are.
const HIERARCHIES: &str = "/sys/fs/cgroup";
/// Where the pods' logs are.
pub const LOGS: &str = "/var/log/pods";
/// containerd's bundles of CRI's tasks.
pub const BUNDLES: &str = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";
/// What the fast guest prints when it serves.
pub const UP: &str = "GUEST-UP";
/// What the fast guest then waits with.
pub const PROMPT: &str = "vireo-guest# ";

const MIB: i64 = 1 << 20;
/// What the kubelet gives a burstable pod, for one.
pub const OOM_SCORE_ADJ: i64 = 900;

/// What a pod is made from.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// containerd's name of the runtime; empty for the default one.
    pub handler: String,
    /// The container's name.
    pub container: String,
    /// The container's image.
    pub image: String,
    /// The pod's annotations.
    pub annotations: HashMap<String, String>,
    /// The container's memory limit, bytes; 0 for none.
    pub memory_limit: i64,
    /// The container's CPU limit in thousandths; 0 for none.
    pub cpu_limit: i64,
    /// Whether the container has a terminal.
    pub tty: bool,
    /// The container's user and group.
    pub user: Option<i64>,
    /// Program of a container that is no VM.
    pub command: Vec<String>,
    /// The container's environment.
    pub environment: Vec<(String, String)>,
    /// The container's CPUs, as cpuset lists them; empty for all.
    pub cpus: String,
    /// Folders of the node that the container sees: where in the container, where in the node.
    pub mounts: Vec<(String, String)>,
    /// The container may write to its mounts.
    pub writes: bool,
    /// Devices of the node that the container has: where in the container, where in the node.
    pub devices: Vec<(String, String)>,
}

impl PodSpec {
    /// The fast guest's containerDisk and nothing else: the container's limits size the guest.
    pub fn container_disk() -> Self {
        Self {
            handler: "vireo".to_owned(),
            container: "compute".to_owned(),
            image: CONTAINER_DISK.to_owned(),
            annotations: HashMap::new(),
            memory_limit: 256 * MIB,
            cpu_limit: 1000,
            tty: true,
            user: None,
            command: Vec::new(),
            environment: Vec::new(),
            cpus: String::new(),
            mounts: Vec::new(),
            writes: false,
            devices: Vec::new(),
        }
    }

    /// The fast guest, its kernel quiet: a boot's messages take longer than the boot.
    pub fn guest() -> Self {
        Self::described(&vmi(""))
    }

    /// A shell in an ordinary container.
    pub fn ordinary() -> Self {
        let command = vec!["/bin/sh".to_owned()];
        Self { handler: String::new(), image: BUSYBOX.to_owned(), command, ..Self::container_disk() }
    }

    /// The fast guest, described by a VMI spec.
    pub fn described(vmi: &Value) -> Self {
        let annotations = HashMap::from([("vireo.dev/vmi".to_owned(), vmi.to_string())]);
        // The limit covers the VMM too: a VMI's pod asks for the guest's memory and the overhead.
        Self { annotations, memory_limit: 320 * MIB, ..Self::container_disk() }
    }
}

/// The fast guest as a VMI spec, its kernel's command line ending with `arguments`.
pub fn vmi(arguments: &str) -> Value {
    json!({
        "domain": {
            "cpu": {"cores": 1},
            "memory": {"guest": "256Mi"},
            "firmware": {"kernelBoot": {
                "kernelArgs": format!("console=ttyS0 quiet ip=10.0.2.2::10.0.2.1:255.255.255.0::eth0:off {arguments}"),
                "container": {"image": CONTAINER_DISK, "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd.img"},
            }},
            "devices": {
                "disks": [{"name": "root", "disk": {"bus": "virtio"}}],
                "interfaces": [{"name": "default", "masquerade": {}}],
                "rng": {},
            },
        },
        "networks": [{"name": "default", "pod": {}}],
        "volumes": [{"name": "root", "containerDisk": {"image": CONTAINER_DISK}}],
    })
}

/// What came over the streams of an exec.
#[derive(Debug, Default)]
pub struct Told {
    /// What the command printed.
    pub output: String,
    /// What it complained of.
    pub errors: String,
    /// How it ended, a `Status` as JSON.
    pub status: String,
}

/// How often a sandbox is tried again.
const SANDBOX_RETRIES: u32 = 2;

/// A pod. The runner removes what a failed scenario leaves.
#[derive(Debug)]
pub struct Pod {
    /// The sandbox's id.
    pub sandbox: String,
    /// The container's id, once created.
    pub container: String,
    /// The pod's address.
    pub ip: String,
    /// Its IPv6 address.
    pub ipv6: String,
    spec: PodSpec,
    attempt: u32,
    config: v1::PodSandboxConfig,
    /// Its name.
    pub name: String,
}

impl Pod {
    /// Makes the sandbox.
    pub(super) fn new(bench: &mut Bench, spec: PodSpec, number: u32) -> Result<Self> {
        let name = format!("pod-{number}");
        // The kubelet makes the pod's cgroup and its log folder.
        for folder in cgroups(&name)? {
            fs::create_dir_all(&folder)?;
            for folder in [folder.parent().context("a folder of pods")?, &folder] {
                prepare_cgroup(folder).with_context(|| format!("prepare {}", folder.display()))?;
            }
        }
        let logs = format!("{LOGS}/{name}");
        fs::create_dir_all(&logs)?;
        let metadata = |attempt| v1::PodSandboxMetadata {
            name: name.clone(),
            uid: format!("uid-{number}"),
            namespace: "default".to_owned(),
            attempt,
        };
        let mut config = v1::PodSandboxConfig {
            metadata: Some(metadata(0)),
            hostname: name.clone(),
            log_directory: logs,
            annotations: spec.annotations.clone(),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("/kubepods/{name}"),
                ..v1::LinuxPodSandboxConfig::default()
            }),
            ..v1::PodSandboxConfig::default()
        };
        // As the kubelet does, which always tries again: CNI's plugins now and then end with EINTR in an emulated node.
        let mut attempt = 0;
        let sandbox = loop {
            let request =
                v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: spec.handler.clone() };
            match bench.cri().run_pod_sandbox(request) {
                Ok(sandbox) => break sandbox.pod_sandbox_id,
                Err(error) if attempt < SANDBOX_RETRIES && error.message().contains("interrupted system call") => {
                    println!("    trying the sandbox again: {}", error.message());
                    attempt += 1;
                    config.metadata = Some(metadata(attempt));
                }
                Err(error) => return Err(error.into()),
            }
        };
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false };
        let status = bench.cri().pod_sandbox_status(request)?.status.context("a pod has a status")?;
        let v1::PodSandboxNetworkStatus { ip, additional_ips } = status.network.unwrap_or_default();
        let ipv6 = additional_ips.into_iter().next().context("a pod has an IPv6 address")?.ip;
        Ok(Self { sandbox, container: String::new(), ip, ipv6, spec, attempt: 0, config, name })
    }

    /// Creates the container anew in the same sandbox, as the kubelet does where an earlier one has ended.
    pub fn create_again(&mut self, bench: &mut Bench, change: impl FnOnce(&mut PodSpec)) -> Result<(), Status> {
        change(&mut self.spec);
        self.attempt += 1;
        self.create(bench)
    }

    /// Creates the container; its error is what the kubelet shows.
    pub fn create(&mut self, bench: &mut Bench) -> Result<(), Status> {
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: self.spec.container.clone(), attempt: self.attempt }),
            image: Some(v1::ImageSpec { image: self.spec.image.clone() }),
            command: self.spec.command.clone(),
            envs: self.spec.environment.iter().map(variable).collect(),
            mounts: self.spec.mounts.iter().map(|paths| mount(paths, self.spec.writes)).collect(),
            devices: self.spec.devices.iter().map(device).collect(),
            log_path: self.log_name(),
            stdin: true,
            tty: self.spec.tty,
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(v1::LinuxContainerResources {
                    cpu_period: 100_000,
                    cpu_quota: self.spec.cpu_limit * 100,
                    memory_limit_in_bytes: self.spec.memory_limit,
                    oom_score_adj: OOM_SCORE_ADJ,
                    cpuset_cpus: self.spec.cpus.clone(),
                    ..v1::LinuxContainerResources::default()
                }),
                security_context: self.spec.user.map(|user| v1::LinuxContainerSecurityContext {
                    run_as_user: Some(v1::Int64Value { value: user }),
                    run_as_group: Some(v1::Int64Value { value: user }),
                    ..v1::LinuxContainerSecurityContext::default()
                }),
            }),
            ..v1::ContainerConfig::default()
        };
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: self.sandbox.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        self.container = bench.cri().create_container(request)?.container_id;
        Ok(())
    }

    /// Starts the container.
    pub fn start(&self, bench: &mut Bench) -> Result<(), Status> {
        bench.cri().start_container(v1::StartContainerRequest { container_id: self.container.clone() }).map(drop)
    }

    /// Stops the container: the power button, then, after `grace` seconds, the axe.
    pub fn stop(&self, bench: &mut Bench, grace: i64) -> Result<(), Status> {
        let request = v1::StopContainerRequest { container_id: self.container.clone(), timeout: grace };
        bench.cri().stop_container(request).map(drop)
    }

    /// Changes the memory limit of its running container, bytes.
    pub fn limit_memory(&self, bench: &mut Bench, limit: i64) -> Result<(), Status> {
        self.limit(bench, v1::LinuxContainerResources { memory_limit_in_bytes: limit, ..Default::default() })
    }

    /// Changes limits of its running container.
    pub fn limit(&self, bench: &mut Bench, resources: v1::LinuxContainerResources) -> Result<(), Status> {
        let request =
            v1::UpdateContainerResourcesRequest { container_id: self.container.clone(), linux: Some(resources) };
        bench.cri().update_container_resources(request).map(drop)
    }

    /// Stops and removes the pod.
    pub fn remove(self, bench: &mut Bench) -> Result<()> {
        let id = self.sandbox;
        bench.cri().stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() })?;
        bench.cri().remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id })?;
        forget(&self.name)
    }

    /// The container's state and exit.
    pub fn status(&self, bench: &mut Bench) -> Result<v1::ContainerStatus> {
        let request = v1::ContainerStatusRequest { container_id: self.container.clone(), verbose: false };
        bench.cri().container_status(request)?.status.context("a container has a status")
    }

    /// Waits until the container has exited.
    pub fn wait_exit(&self, bench: &mut Bench) -> Result<v1::ContainerStatus> {
        eventually("the container's exit", LIMIT, || {
            let status = self.status(bench)?;
            Ok((status.state() == v1::ContainerState::ContainerExited).then_some(status))
        })
    }

    /// Everything on the console so far, from the container's log.
    pub fn console(&self) -> Result<String> {
        Ok(console_text(&fs::read(self.log())?))
    }

    /// The container's log, as the kubelet reads it.
    pub fn log(&self) -> PathBuf {
        Path::new(LOGS).join(&self.name).join(self.log_name())
    }

    fn log_name(&self) -> String {
        format!("{}.{}.log", self.spec.container, self.attempt)
    }

    /// Waits for a text on the console, and returns the line that it is in.
    pub fn wait_console(&self, bench: &mut Bench, text: &str) -> Result<String> {
        let result = eventually(&format!("{text:?} on the console"), LIMIT, || {
            let console = self.console()?;
            if let Some(line) = console.lines().find(|line| line.contains(text)) {
                return Ok(Some(line.to_owned()));
            }
            let status = self.status(bench)?;
            ensure!(
                status.state() != v1::ContainerState::ContainerExited,
                "{text:?}: the container has exited with {}: {}",
                status.exit_code,
                status.message
            );
            Ok(None)
        });
        result.with_context(|| format!("the console:\n{}", self.console().unwrap_or_default()))
    }

    /// Attaches to the console.
    pub fn attach(&self, bench: &mut Bench) -> Result<Attached> {
        let request = v1::AttachRequest {
            container_id: self.container.clone(),
            stdin: true,
            tty: self.spec.tty,
            stdout: true,
            stderr: !self.spec.tty,
        };
        let url = bench.cri().attach(request)?.url;
        Attached::connect(&url)
    }

    /// Runs a command in the container, for at most `timeout` seconds.
    pub fn exec(&self, bench: &mut Bench, command: &[&str], timeout: i64) -> Result<v1::ExecSyncResponse, Status> {
        let cmd = command.iter().map(ToString::to_string).collect();
        bench.cri().exec_sync(v1::ExecSyncRequest { container_id: self.container.clone(), cmd, timeout })
    }

    /// The streams of a program in the container: what is written is its stdin, what is read its stdout.
    pub fn exec_stream(&self, bench: &mut Bench, command: &[&str]) -> Result<UnixStream> {
        let request = v1::ExecRequest { stdin: true, stdout: true, stderr: true, ..self.exec_request(command) };
        WebSocket::connect(&bench.cri().exec(request)?.url)?.bridge(websocket::STDOUT, 0)
    }

    /// What a command in the container tells on its streams.
    pub fn exec_told(&self, bench: &mut Bench, command: &[&str], tty: bool) -> Result<Told> {
        let request = v1::ExecRequest { stdout: true, stderr: !tty, tty, ..self.exec_request(command) };
        let mut socket = WebSocket::connect(&bench.cri().exec(request)?.url)?;
        socket.set_read_timeout(Some(LIMIT))?;
        let mut told = Told::default();
        while let Some((channel, bytes)) = socket.message()? {
            let stream = match channel {
                websocket::STDOUT => &mut told.output,
                websocket::STDERR => &mut told.errors,
                _ => &mut told.status,
            };
            *stream += &String::from_utf8_lossy(&bytes);
        }
        Ok(told)
    }

    fn exec_request(&self, command: &[&str]) -> v1::ExecRequest {
        let cmd = command.iter().map(ToString::to_string).collect();
        v1::ExecRequest { container_id: self.container.clone(), cmd, ..v1::ExecRequest::default() }
    }

    /// What is answered to an HTTP request that comes as `kubectl port-forward` brings it, up to what is wanted of it.
    pub fn http_forwarded(&self, bench: &mut Bench, port: u16, path: &str, wanted: &str) -> Result<()> {
        let request = v1::PortForwardRequest { pod_sandbox_id: self.sandbox.clone(), port: vec![port.into()] };
        // Each channel begins with its port.
        let mut stream = WebSocket::connect(&bench.cri().port_forward(request)?.url)?.bridge(0, 2)?;
        stream.set_read_timeout(Some(LIMIT))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
        loop {
            let text = String::from_utf8_lossy(&answer);
            if text.contains(wanted) {
                return Ok(());
            }
            let count = stream.read(&mut buffer)?;
            ensure!(count > 0, "port-forward to {port}: no {wanted:?} in {text:?}");
            answer.extend_from_slice(&buffer[..count]);
        }
    }

    /// What tokens call the pod.
    pub fn identity(&self) -> token::Pod {
        let v1::PodSandboxMetadata { name, uid, namespace, .. } = self.config.metadata.clone().unwrap_or_default();
        token::Pod { namespace, name, uid }
    }

    /// The pids of the container's processes.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let file = self.cgroup().join("cgroup.procs");
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        Ok(text.lines().flat_map(str::parse).collect())
    }

    /// The container's cgroup; with v1, that of the memory controller.
    pub fn cgroup(&self) -> PathBuf {
        self.cgroup_of("memory")
    }

    /// The container's cgroup where the controller is that v1 calls so.
    pub fn cgroup_of(&self, controller: &str) -> PathBuf {
        self.pod_cgroup_of(controller).join(&self.container)
    }

    /// The pod's, likewise.
    pub fn pod_cgroup_of(&self, controller: &str) -> PathBuf {
        let all = Path::new(HIERARCHIES);
        let hierarchy = match controller {
            _ if cgroup_v2() => all.to_owned(),
            "cpu" | "cpuacct" => all.join("cpu,cpuacct"),
            other => all.join(other),
        };
        hierarchy.join("kubepods").join(&self.name)
    }

    /// The VMM.
    pub fn vmm(&self) -> Result<u32> {
        self.pids()?
            .into_iter()
            .find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "vireo-vmm"))
            .context("there is no vireo-vmm in the container's cgroup")
    }

    /// The shim.
    pub fn shim(&self) -> Result<u32> {
        for entry in fs::read_dir("/proc")?.flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            if line.contains("containerd-shim-vireo-v2") && line.contains(&self.sandbox) {
                return Ok(pid);
            }
        }
        anyhow::bail!("there is no shim of pod {}", self.sandbox)
    }

    /// What the guest answers to an HTTP request on the pod's address.
    pub fn http(&self, path: &str) -> Result<String> {
        let url = format!("http://{}{path}", self.ip);
        eventually(&format!("an answer from {url}"), LIMIT, || {
            Ok(super::shell::output(["busybox", "wget", "-q", "-T", "5", "-O", "-", &url]).ok())
        })
    }

    /// The pod's network namespace, as `nsenter` is told of it.
    pub fn netns(&self) -> Result<String> {
        let path = format!("{BUNDLES}/{}/config.json", self.sandbox);
        let spec: Value = serde_json::from_slice(&fs::read(&path).with_context(|| path.clone())?)?;
        let namespaces = spec["linux"]["namespaces"].as_array().context("a sandbox has namespaces")?;
        let network = namespaces.iter().find(|namespace| namespace["type"] == "network");
        let path = network.and_then(|namespace| namespace["path"].as_str()).context("CNI has named it")?;
        Ok(path.to_owned())
    }
}

fn variable((key, value): &(String, String)) -> v1::KeyValue {
    v1::KeyValue { key: key.clone(), value: value.clone() }
}

fn mount((container_path, host_path): &(String, String), writes: bool) -> v1::Mount {
    v1::Mount { container_path: container_path.clone(), host_path: host_path.clone(), readonly: !writes }
}

fn device((container_path, host_path): &(String, String)) -> v1::Device {
    let (container_path, host_path) = (container_path.clone(), host_path.clone());
    v1::Device { container_path, host_path, permissions: "rwm".to_owned() }
}

/// The text of a log in CRI's form, `<time> <stream> <F|P> <text>` a line; P is a part of a line.
pub(super) fn console_text(log: &[u8]) -> String {
    let mut text = String::new();
    for line in String::from_utf8_lossy(log).lines() {
        let mut fields = line.splitn(4, ' ').skip(2);
        let (tag, content) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        text += content.trim_end_matches('\r');
        if tag.starts_with('F') {
            text.push('\n');
        }
    }
    text
}

/// Whether the node has cgroup v2, else v1.
pub(super) fn cgroup_v2() -> bool {
    Path::new(HIERARCHIES).join("cgroup.controllers").exists()
}

/// A pod's cgroup in each hierarchy.
pub(super) fn cgroups(pod: &str) -> Result<Vec<PathBuf>> {
    let below = Path::new("kubepods").join(pod);
    if cgroup_v2() {
        return Ok(vec![Path::new(HIERARCHIES).join(below)]);
    }
    let entries = fs::read_dir(HIERARCHIES)?;
    entries.map(|entry| Ok(entry?.path().join(&below))).collect()
}

/// v2's cgroups hand their controllers down; v1's CPU sets begin without CPUs.
fn prepare_cgroup(folder: &Path) -> Result<()> {
    let parent = folder.parent().context("a cgroup above")?;
    if cgroup_v2() {
        fs::write(folder.join("cgroup.subtree_control"), "+cpu +cpuset +io +memory +pids +hugetlb")?;
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if !cgroup_v2() && folder.join(file).exists() {
            fs::write(folder.join(file), fs::read(parent.join(file))?)?;
        }
    }
    Ok(())
}

/// Removes what the kubelet would have made for a pod. A cgroup that the runtime left in it makes this fail.
pub(super) fn forget(name: &str) -> Result<()> {
    for cgroup in cgroups(name)?.into_iter().filter(|cgroup| cgroup.exists()) {
        // The kernel empties a cgroup a moment after its last process is gone.
        eventually(&format!("{}: to be empty", cgroup.display()), Duration::from_secs(10), || {
            Ok(fs::remove_dir(&cgroup).is_ok().then_some(()))
        })?;
    }
    fs::remove_dir_all(Path::new(LOGS).join(name)).context("remove the pod's logs")
}
