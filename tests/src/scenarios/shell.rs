//! Commands of the node.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Runs a command that must succeed and returns what it printed.
pub fn output<const N: usize>(argv: [&str; N]) -> Result<String> {
    let what = argv.join(" ");
    let output = Command::new(argv[0]).args(&argv[1..]).stdin(Stdio::null()).output().context(what.clone())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{what}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// The node's containerd: `configure`, `start`, `stop`, `restart` or `upgrade`.
pub fn containerd(action: &str, version: &str) -> Result<()> {
    // Its output is a file's: the daemon inherits it, and a pipe would stay open as long as it runs.
    let status = Command::new("node-containerd")
        .args([action, version])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("run node-containerd")?;
    ensure!(status.success(), "node-containerd {action} {version}: {status}");
    Ok(())
}
