//! The full Debian guest: booted by stock firmware and its own boot loader, and by its kernel; set up by cloud-init; answering
//! through its own guest agent.
//!
//! Its disk is the node's `/dev/disk/guest`, which forgets what was written when the node ends; `/guest` has its kernel, and a
//! containerDisk with the disk as qcow2. A whole distribution takes minutes on an emulated node.

mod efi;
mod life;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Bench, Scenario, local_machine::LocalMachine};
use crate::cri::attach::Attached;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::once("full_debian_lives_in_a_pod", life::life),
    Scenario::once("full_debian_boots_by_efi", efi::by_efi),
    Scenario::once("full_debian_boots_by_kernel", by_kernel),
];

const DISK: &str = "/dev/disk/guest";
/// For one step of a boot, on a node that does other work as well.
const BOOT_LIMIT: Duration = Duration::from_mins(15);
const NAME: &str = "seeded";
const USER_DATA: &str = "#cloud-config
users:
- default
- {name: vireo, plain_text_passwd: in-a-test, lock_passwd: false, shell: /bin/bash, sudo: ALL=(ALL) NOPASSWD:ALL}
write_files:
- {path: /etc/vireo-seed, content: \"told by cloud-init\\n\"}
ssh_genkeytypes: [ed25519]
locale: false
";
/// What cloud-init says last.
const SEEDED: &str = "Datasource DataSourceNoCloud [seed=/dev/vdb]";

/// Raw, outside of a pod, the guest's own kernel, the command line that Vireo composes.
fn by_kernel(_: &mut Bench) -> Result<()> {
    let container = json!({"kernelPath": "/guest/vmlinuz", "initrdPath": "/guest/initrd.img"});
    let mut spec = described(&json!({"kernelBoot": {"container": container}}));
    spec["volumes"][0] = json!({"name": "root", "hostDisk": {"path": disk()?, "type": "Disk"}});
    let mut machine = LocalMachine::start(NAME, &spec)?;
    let shown = boot(&mut machine, NAME)?;
    ensure!(shown.contains("Command line: console=ttyS0 root=/dev/vda1 rw"), "{shown}");
    log_in(&mut machine, NAME, 1)?;
    let (host, system) = machine.introduced()?;
    ensure!((host.as_str(), system.as_str()) == (NAME, "debian"), "{host}: {system}");
    machine.power_off(BOOT_LIMIT)
}

/// The guest's raw disk; the name of a disk may be no symbolic link.
fn disk() -> Result<PathBuf> {
    fs::canonicalize(DISK).context("the node has no full Debian guest")
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
