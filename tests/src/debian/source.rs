//! A source package of Debian 12's, fetched and unpacked with Debian's own changes.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::apt::{apt_in, mirrors, private};
use crate::{cache, progress};

/// Fetches a source package and unpacks it into `tree`, which must not be there yet.
pub fn unpack_source(package: &str, tree: &Path) -> Result<()> {
    let _lock = cache::lock("apt-source")?;
    let state = private("bookworm-source", &[format!("deb-src {} bookworm main", mirrors().0)])?;
    let files = state.join("files");
    if files.exists() {
        fs::remove_dir_all(&files).with_context(|| format!("remove {}", files.display()))?;
    }
    fs::create_dir_all(&files).with_context(|| format!("create {}", files.display()))?;
    progress::step(&format!("fetching Debian's source of {package}"), || {
        for arguments in [vec!["update"], vec!["source", "--download-only", package]] {
            let output = apt_in(&state).args(&arguments).current_dir(&files).output().context("run apt-get")?;
            ensure!(
                output.status.success(),
                "apt-get {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        anyhow::Ok(())
    })?;
    let description = fs::read_dir(&files)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "dsc"))
        .with_context(|| format!("no .dsc of {package} in {}", files.display()))?;
    // apt has checked the signatures down to these files.
    let output = Command::new("dpkg-source")
        .args(["--no-check", "--extract"])
        .args([&description, tree])
        .stdin(Stdio::null())
        .output()
        .context("run dpkg-source (package dpkg-dev)")?;
    ensure!(output.status.success(), "dpkg-source: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
