//! The QEMU that runs nodes: Debian 13's, whatever this machine runs.
//!
//! Debian 12 has 7.2, which may lose a node or a guest in it (`tests/README.md`). The packages, C library included, are
//! unpacked into the cache and run from there by their own dynamic linker; nothing is installed. Faults that end nodes and
//! guests are mended there ([`mends`]).

mod mends;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    cache,
    debian::{Suite, resolve, unpack},
    progress,
};

const BUILDER: &str = "emulator 2";
/// The same as the bench node's layer has: one download.
pub(super) const PACKAGES: [&str; 2] = ["base-files", "qemu-system-x86"];
/// Where QEMU looks for firmware and option ROMs, as Debian builds it.
const DATA: [&str; 3] = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];

/// The emulator itself.
const PROGRAM: &str = "usr/bin/qemu-system-x86_64";

/// The unpacked packages.
#[derive(Debug, Clone)]
pub struct Emulator {
    tree: PathBuf,
}

impl Emulator {
    /// Unpacks them, or finds them in the cache.
    pub fn prepare() -> Result<Self> {
        let resolved = resolve(Suite::Trixie, &PACKAGES)?;
        let key = cache::Key::default().with(BUILDER).with(&resolved.text).finish();
        let tree = cache::entry("emulator", &key, |folder| {
            let debs = resolved.fetch()?;
            progress::step("unpacking QEMU for the nodes", || unpack(&debs, folder))?;
            mend(&folder.join(PROGRAM))
        })?;
        Ok(Self { tree })
    }

    /// Adds the program, and where its data are, to a command that runs what its arguments say.
    pub(super) fn add_to(&self, command: &mut Command) {
        command.arg(self.tree.join("usr/lib64/ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(self.tree.join("usr/lib/x86_64-linux-gnu"));
        command.arg(self.tree.join(PROGRAM));
        for data in DATA {
            command.arg("-L").arg(self.tree.join(data));
        }
    }
}

/// Mends the program, or says what is left in it.
fn mend(program: &Path) -> Result<()> {
    let mut bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    for fault in mends::mend(&mut bytes) {
        println!("    this build of QEMU keeps a fault: {fault}");
    }
    fs::write(program, bytes).with_context(|| format!("write {}", program.display()))
}
