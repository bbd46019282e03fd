//! `vireo run`: a VirtualMachine with no containerd at all.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::{PermissionsExt as _, chown},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use super::{Bench, Scenario, eventually::LIMIT, pod::PROMPT};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::once("vireo_run_boots_a_kernel", boots),
    Scenario::once("vireo_run_refuses_a_missing_kernel", refuses),
    Scenario::once("vireo_run_refuses_what_it_may_not_open", refuses_what_it_may_not_open),
];

/// A manifest with the fast guest's kernel, and the file that it is in.
fn manifest(kernel: &str) -> Result<String> {
    let path = "/run/vireo-run.json";
    let machine = json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": "local"},
        "spec": {"runStrategy": "Always", "template": {"spec": {
            "domain": {
                "cpu": {"cores": 1},
                "memory": {"guest": "256Mi"},
                "firmware": {"kernelBoot": {
                    "kernelArgs": "console=ttyS0 quiet",
                    "container": {"kernelPath": kernel, "initrdPath": "/vireo/guest/initrd"},
                }},
                "devices": {},
            },
        }}},
    });
    // JSON is YAML.
    fs::write(path, machine.to_string())?;
    Ok(path.to_owned())
}

fn boots(_: &mut Bench) -> Result<()> {
    let path = manifest("/vireo/guest/vmlinuz")?;
    run_until(&path, PROMPT, type_poweroff, LIMIT).map(drop)
}

fn type_poweroff(vireo: &mut Child) -> Result<()> {
    Ok(vireo.stdin.as_mut().context("piped")?.write_all(b"act poweroff\n")?)
}

/// Runs the machine of a manifest, which is removed: waits for the prompt, does what powers the guest off, and checks the
/// exit code. What the console showed.
fn run_until(path: &str, prompt: &str, power_off: fn(&mut Child) -> Result<()>, limit: Duration) -> Result<String> {
    let mut vireo = Command::new("vireo")
        .args(["run", path])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run vireo")?;
    let result = talk(&mut vireo, prompt, power_off, limit);
    // A test that failed must not leave it; one that passed has waited for it.
    let _ = vireo.kill();
    let output = vireo.wait_with_output()?;
    fs::remove_file(path)?;
    result.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

fn talk(vireo: &mut Child, prompt: &str, power_off: fn(&mut Child) -> Result<()>, limit: Duration) -> Result<String> {
    let mut output = vireo.stdout.take().context("piped")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 4096];
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    let end = Instant::now() + limit;
    let mut console = Vec::new();
    let mut asked = false;
    loop {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(bytes) => console.extend(bytes),
            Err(mpsc::RecvTimeoutError::Disconnected) if asked => break,
            Err(error) => bail!("{error}; the console:\n{}", String::from_utf8_lossy(&console)),
        }
        if !asked && String::from_utf8_lossy(&console).contains(prompt) {
            power_off(vireo)?;
            asked = true;
        }
    }
    let status = vireo.wait()?;
    ensure!(status.success(), "vireo ended with {status} after the guest's power-off");
    Ok(String::from_utf8_lossy(&console).into_owned())
}

fn refuses(_: &mut Bench) -> Result<()> {
    let path = manifest("/vireo/guest/nothing")?;
    let refused = refused(Command::new("vireo").args(["run", &path]), &["/vireo/guest/nothing"]);
    fs::remove_file(path)?;
    refused
}

/// As root without the capability that passes over file modes.
fn refuses_what_it_may_not_open(_: &mut Bench) -> Result<()> {
    const SOMEBODY: Option<u32> = Some(1000);
    let run = |path: &str, words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-dac_override,-dac_read_search", "vireo", "run", path]);
        refused(&mut command, words)
    };
    let kernel = "/run/unreadable-kernel";
    fs::copy("/vireo/guest/vmlinuz", kernel)?;
    chown(kernel, SOMEBODY, None)?;
    fs::set_permissions(kernel, fs::Permissions::from_mode(0o600))?;
    let path = manifest(kernel)?;
    let unreadable = run(&path, &["kernelPath", kernel, "ermission denied"]);
    fs::remove_file(kernel)?;

    let path = manifest("/vireo/guest/vmlinuz")?;
    let mode = fs::metadata("/dev/kvm")?.permissions();
    chown("/dev/kvm", SOMEBODY, None)?;
    fs::set_permissions("/dev/kvm", fs::Permissions::from_mode(0o600))?;
    let no_permission = run(&path, &["/dev/kvm", "group kvm"]);
    chown("/dev/kvm", Some(0), None)?;
    fs::set_permissions("/dev/kvm", mode)?;
    fs::remove_file(path)?;
    unreadable.and(no_permission)
}

/// Runs what must be refused with one line that has each of `words` in it.
fn refused(command: &mut Command, words: &[&str]) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "it was taken");
    for word in words {
        ensure!(text.contains(word), "the error does not say {word:?}: {text}");
    }
    ensure!(text.trim().lines().count() == 1, "the error has more than one line: {text}");
    Ok(())
}
