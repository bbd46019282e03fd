//! The full Debian guest, booted by stock firmware and its own boot loader, up to its login.
//!
//! Its disk is the node's `/dev/disk/guest`, which forgets what was written when the node ends. A whole distribution takes minutes on
//! an emulated node.

use std::{fs, process::Child, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Bench, Scenario, run_command::run_until, shell};

pub(super) const SCENARIOS: &[Scenario] =
    &[Scenario::once("full_debian_boots_by_bios", by_bios), Scenario::once("full_debian_boots_by_efi", by_efi)];

const DISK: &str = "/dev/disk/guest";
const LIMIT: Duration = Duration::from_mins(9);

fn by_bios(_: &mut Bench) -> Result<()> {
    let console = boot(&json!({"bios": {"useSerial": true}}))?;
    ensure!(console.contains("SeaBIOS"), "no word of SeaBIOS on the serial console:\n{console}");
    Ok(())
}

fn by_efi(_: &mut Bench) -> Result<()> {
    let console = boot(&json!({"efi": {}}))?;
    for found in ["BdsDxe: starting Boot", "efi: EFI v2.", "ACPI: FACP", "SMBIOS 3."] {
        ensure!(console.contains(found), "no {found:?} on the serial console:\n{console}");
    }
    Ok(())
}

/// Boots to the login and powers off.
fn boot(bootloader: &Value) -> Result<String> {
    run_until(&manifest(bootloader)?, "debian login:", press_power_button, LIMIT)
}

/// SIGTERM is what Ctrl-] is on a terminal.
fn press_power_button(vireo: &mut Child) -> Result<()> {
    shell::output(["kill", "-TERM", &vireo.id().to_string()]).map(drop)
}

/// A manifest of the guest, and the file that it is in.
fn manifest(bootloader: &Value) -> Result<String> {
    // The name of a disk may be no symbolic link.
    let disk = fs::canonicalize(DISK).context("the node has no disk for the full Debian guest")?;
    let path = "/run/vireo-debian.json";
    let machine = json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": "debian"},
        "spec": {"runStrategy": "Always", "template": {"spec": {
            "domain": {
                "cpu": {"cores": 1},
                "memory": {"guest": "512Mi"},
                "firmware": {"bootloader": bootloader},
                "devices": {"disks": [{"name": "root", "bootOrder": 1}], "rng": {}},
            },
            "volumes": [{"name": "root", "hostDisk": {"path": disk, "type": "Disk"}}],
            "terminationGracePeriodSeconds": 300,
        }}},
    });
    fs::write(path, machine.to_string())?;
    Ok(path.to_owned())
}
