//! Packages' files, without their maintainer scripts.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// What no test reads, as tar patterns.
const LEFT_OUT: [&str; 6] = [
    "./usr/share/doc/*",
    "./usr/share/man/*",
    "./usr/share/locale/*",
    "./usr/share/info/*",
    "./usr/share/lintian/*",
    "./usr/share/bash-completion/*",
];

/// Unpacks `.deb` files into a folder, in order. A merged `/usr` (its links come with base-files) stays merged.
pub fn unpack(debs: &[PathBuf], root: &Path) -> Result<()> {
    // base-files first: the links /bin -> usr/bin must be there before a package brings /bin/foo.
    let (first, rest): (Vec<_>, Vec<_>) = debs
        .iter()
        .partition(|deb| deb.file_name().is_some_and(|name| name.to_string_lossy().starts_with("base-files_")));
    for deb in first.into_iter().chain(rest) {
        let mut data = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(deb)
            .stdout(Stdio::piped())
            .spawn()
            .context("run dpkg-deb")?;
        let pipe = data.stdout.take().context("dpkg-deb has no output")?;
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--keep-directory-symlink", "--preserve-permissions", "--same-owner", "--directory"]);
        tar.arg(root).args(LEFT_OUT.map(|pattern| format!("--exclude={pattern}")));
        let status = tar.stdin(pipe).status().context("run tar")?;
        ensure!(status.success() && data.wait()?.success(), "{}: can't be unpacked", deb.display());
    }
    Ok(())
}
