//! By UEFI, on a claim in block mode; what the guest keeps in the firmware's variables stays, through its reboot and beyond its pod.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, chown},
};

use anyhow::{Result, ensure};
use serde_json::json;
use vireo_runtimeclass::pod::VARIABLES_DIR;

use super::{
    super::{
        Bench,
        eventually::{LIMIT, eventually},
        pod::PodSpec,
        volumes::USER,
    },
    Console as _, boot, described, disk, log_in,
};

/// A variable of the guest's, where Linux shows it.
const VARIABLE: &str = "/sys/firmware/efi/efivars/Vireo-5d307ca9-b3ef-428c-8861-06e72d69f223";

/// Non-volatile, for boot and run time (7); then its value.
const VALUE: &[u8] = b"\x07\0\0\0kept-by-the-guest";
/// What OVMF says when it has found what to boot.
const FOUND: &str = "BdsDxe: starting Boot";

pub(super) fn by_efi(bench: &mut Bench) -> Result<()> {
    let variables = tempfile::tempdir_in("/run")?;
    fs::set_permissions(variables.path(), Permissions::from_mode(0o700))?;
    chown(variables.path(), Some(USER), Some(USER))?;
    let mut spec = described(&json!({"bootloader": {"efi": {"persistent": true}}}));
    spec["volumes"][0] = json!({"name": "root", "persistentVolumeClaim": {"claimName": "root"}});
    let spec = PodSpec {
        memory_limit: 640 << 20,
        writes: true,
        devices: vec![("/dev/root".to_owned(), disk()?.display().to_string())],
        mounts: vec![(VARIABLES_DIR.to_owned(), variables.path().display().to_string())],
        ..PodSpec::described(&spec)
    };

    let mut pod = bench.pod(spec.clone())?;
    pod.create(bench)?;
    pod.start(bench)?;
    let mut console = pod.attach(bench)?;
    let name = pod.name.clone();
    boot(&mut console, &name)?;
    // Who attaches comes late for the first words; the log has them.
    let shown = pod.console()?;
    for found in [FOUND, "efi: EFI v2.", "ACPI: FACP", "SMBIOS 3."] {
        ensure!(shown.contains(found), "no {found:?} on the serial console:\n{shown}");
    }
    log_in(&mut console, &name, 1)?;
    let write = format!("printf '\\7\\0\\0\\0kept-by-the-guest' > {VARIABLE}");
    let written = pod.exec(bench, &["sh", "-c", &write], 60)?;
    ensure!(written.exit_code == 0, "{}", String::from_utf8_lossy(&written.stderr));

    let vmm = pod.vmm()?;
    console.type_in("sudo reboot\n")?;
    console.expect(FOUND)?;
    console.expect(&format!("{name} login:"))?;
    ensure!(pod.vmm()? == vmm, "the VMM is another process after the guest's reboot");
    let read = eventually("the guest's agent", 2 * LIMIT, || Ok(pod.exec(bench, &["cat", VARIABLE], 60).ok()))?;
    ensure!(read.stdout == VALUE, "{read:?}");
    pod.stop(bench, 300)?;
    let status = pod.wait_exit(bench)?;
    ensure!(status.exit_code == 0, "{}: {}", status.exit_code, status.message);
    pod.remove(bench)?;

    // The next pod's firmware finds its variables as they are, the guest's among them.
    let mut pod = bench.pod(spec)?;
    pod.create(bench)?;
    pod.start(bench)?;
    pod.attach(bench)?.expect(FOUND)?;
    pod.remove(bench)?;
    let file = fs::read(variables.path().join("VARS.fd"))?;
    ensure!(
        file.windows(VALUE.len() - 4).any(|bytes| bytes == &VALUE[4..]),
        "the guest's variable is not in the claim"
    );
    Ok(())
}
