//! The full Debian guest: booted by stock firmware and its own boot loader, and by its kernel; set up by cloud-init; answering
//! through its own guest agent.
//!
//! Its disk is the node's `/dev/disk/guest`, which forgets what was written when the node ends; `/guest` has its kernel, and a
//! containerDisk with the disk as qcow2. A whole distribution takes minutes on an emulated node.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    Bench, Scenario,
    eventually::{LIMIT, eventually, until},
    local_machine::LocalMachine,
    pod::PodSpec,
    shell,
};
use crate::{cri::attach::Attached, guest::debian::CONTAINER_DISK};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::once("full_debian_boots_by_bios_in_a_pod", by_bios),
    Scenario::once("full_debian_boots_by_efi", by_efi),
    Scenario::once("full_debian_boots_by_kernel", by_kernel),
];

const DISK: &str = "/dev/disk/guest";
/// For one step of a boot, on a node that does other work as well.
const BOOT_LIMIT: Duration = Duration::from_mins(15);
const NAME: &str = "seeded";
const USER_DATA: &str = "#cloud-config
users:
- {name: vireo, plain_text_passwd: in-a-test, lock_passwd: false, shell: /bin/bash, sudo: ALL=(ALL) NOPASSWD:ALL}
write_files:
- {path: /etc/vireo-seed, content: \"told by cloud-init\\n\"}
ssh_genkeytypes: [ed25519]
locale: false
";
/// The address that DHCP would give, said by cloud-init.
const NETWORK_DATA: &str = "
version: 2
ethernets:
  pod:
    match: {name: \"e*\"}
    addresses: [10.0.2.2/24]
    routes: [{to: default, via: 10.0.2.1}]
";
/// What cloud-init says last.
const SEEDED: &str = "Datasource DataSourceNoCloud [seed=/dev/vdb]";

/// qcow2 in an image, BIOS, several vCPUs, the pod's network.
fn by_bios(bench: &mut Bench) -> Result<()> {
    shell::output(["ctr", "-n", "k8s.io", "images", "import", "/guest/containerdisk.tar"])?;
    let mut spec = described(&json!({"bootloader": {"bios": {"useSerial": true}}}));
    spec["domain"]["cpu"]["cores"] = 2.into();
    spec["domain"]["devices"]["interfaces"] = json!([{"name": "default", "masquerade": {}}]);
    spec["networks"] = json!([{"name": "default", "pod": {}}]);
    spec["volumes"][0] = json!({"name": "root", "containerDisk": {"image": CONTAINER_DISK}});
    spec["volumes"][1]["cloudInitNoCloud"]["networkData"] = NETWORK_DATA.into();
    let spec = PodSpec {
        image: CONTAINER_DISK.to_owned(),
        memory_limit: 640 << 20,
        cpu_limit: 2000,
        ..PodSpec::described(&spec)
    };
    let mut pod = bench.pod(spec)?;
    pod.create(bench)?;
    pod.start(bench)?;
    let mut console = pod.attach(bench)?;
    let name = pod.name.clone();
    boot(&mut console, &name)?;
    // Who attaches comes late for the first words; the log has them.
    let shown = pod.console()?;
    ensure!(shown.contains("SeaBIOS"), "no word of SeaBIOS on the serial console:\n{shown}");
    log_in(&mut console, &name, 2)?;
    let log = format!("/var/log/containerd-{}.log", bench.containerd);
    let told = format!("container {}: guest agent 7.2", pod.container);
    until("the shim to have heard of the guest agent", || {
        let log = fs::read_to_string(&log)?;
        Ok(log.lines().any(|line| line.contains(&told) && line.contains(&format!(" on {name}: Debian GNU/Linux 12"))))
    })?;
    let greeting = eventually("the guest's sshd", LIMIT, || {
        let Ok(stream) = TcpStream::connect((pod.ip.as_str(), 22)) else { return Ok(None) };
        stream.set_read_timeout(Some(LIMIT))?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok((!line.is_empty()).then_some(line))
    })?;
    ensure!(greeting.starts_with("SSH-2.0-OpenSSH"), "{greeting}");

    pod.stop(bench, 300)?;
    let status = pod.wait_exit(bench)?;
    ensure!(status.exit_code == 0, "{}: {}", status.exit_code, status.message);
    pod.remove(bench)
}

/// Raw, EFI. Once: each second in OVMF may be an emulated node's last (`tests/README.md`).
fn by_efi(_: &mut Bench) -> Result<()> {
    let mut machine = start(&json!({"bootloader": {"efi": {}}}))?;
    let shown = boot(&mut machine, NAME)?;
    for found in ["BdsDxe: starting Boot", "efi: EFI v2.", "ACPI: FACP", "SMBIOS 3."] {
        ensure!(shown.contains(found), "no {found:?} on the serial console:\n{shown}");
    }
    log_in(&mut machine, NAME, 1)?;
    introduced(&mut machine)?;
    machine.power_off(BOOT_LIMIT)
}

/// Raw, the guest's own kernel, the command line that Vireo composes.
fn by_kernel(_: &mut Bench) -> Result<()> {
    let container = json!({"kernelPath": "/guest/vmlinuz", "initrdPath": "/guest/initrd.img"});
    let mut machine = start(&json!({"kernelBoot": {"container": container}}))?;
    let shown = boot(&mut machine, NAME)?;
    ensure!(shown.contains("Command line: console=ttyS0 root=/dev/vda1 rw"), "{shown}");
    log_in(&mut machine, NAME, 1)?;
    introduced(&mut machine)?;
    machine.power_off(BOOT_LIMIT)
}

/// The stock guest agent answers.
fn introduced(machine: &mut LocalMachine) -> Result<()> {
    let (host, system) = machine.introduced()?;
    ensure!((host.as_str(), system.as_str()) == (NAME, "debian"), "{host}: {system}");
    Ok(())
}

/// The guest on its raw disk.
fn start(firmware: &Value) -> Result<LocalMachine> {
    let mut spec = described(firmware);
    // The name of a disk may be no symbolic link.
    let disk = fs::canonicalize(DISK).context("the node has no full Debian guest")?;
    spec["volumes"][0] = json!({"name": "root", "hostDisk": {"path": disk, "type": "Disk"}});
    LocalMachine::start(NAME, &spec)
}

/// All but the root's volume.
fn described(firmware: &Value) -> Value {
    json!({
        "domain": {
            "cpu": {"cores": 1},
            "memory": {"guest": "512Mi"},
            "firmware": firmware,
            "devices": {"disks": [{"name": "root"}, {"name": "seed"}], "rng": {}},
        },
        "volumes": [{"name": "root"}, {"name": "seed", "cloudInitNoCloud": {"userData": USER_DATA}}],
    })
}

/// A guest's console.
trait Console {
    fn type_in(&mut self, text: &str) -> Result<()>;
    /// Everything up to the end of `text`, once that has come.
    fn expect(&mut self, text: &str) -> Result<String>;
}

impl Console for Attached {
    fn type_in(&mut self, text: &str) -> Result<()> {
        self.send(text)
    }
    fn expect(&mut self, text: &str) -> Result<String> {
        self.wait_for(text, BOOT_LIMIT)
    }
}

impl Console for LocalMachine {
    fn type_in(&mut self, text: &str) -> Result<()> {
        self.send(text)
    }
    fn expect(&mut self, text: &str) -> Result<String> {
        self.wait_for(text, BOOT_LIMIT)
    }
}

/// Waits until the guest is up under its name and cloud-init is done; what the console showed.
fn boot(console: &mut impl Console, name: &str) -> Result<String> {
    let mut shown = console.expect(SEEDED)?;
    let prompt = format!("{name} login:");
    if !shown.contains(&prompt) {
        shown += &console.expect(&prompt)?;
    }
    Ok(shown)
}

/// Logs in as the user whom cloud-init has made, and looks at what else it was told.
fn log_in(console: &mut impl Console, name: &str, cpus: u32) -> Result<()> {
    console.type_in("vireo\n")?;
    console.expect("Password:")?;
    console.type_in("in-a-test\n")?;
    console.expect(&format!("vireo@{name}:~$"))?;
    console.type_in("sudo tr a-z A-Z < /etc/vireo-seed; echo $(nproc) CPUs\n")?;
    console.expect("TOLD BY CLOUD-INIT")?;
    console.expect(&format!("\n{cpus} CPUs")).map(drop)
}
