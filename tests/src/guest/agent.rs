//! The stock guest agent for the fast guest: a second initramfs, unpacked over the first.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    archive::cpio::Cpio,
    cache,
    debian::{Kernel, Suite, resolve, unpack},
    progress,
};

const BUILDER: &str = "guest agent 2, with isofs";
const START: &str = include_str!("../../guest/agent-start");
/// What `qemu-ga` is linked with, and where in the guest its loader is.
const LIBRARIES: [&str; 9] = [
    "libudev.so.1",
    "libnuma.so.1",
    "liburing.so.2",
    "libglib-2.0.so.0",
    "libgmodule-2.0.so.0",
    "libpcre2-8.so.0",
    "libm.so.6",
    "libc.so.6",
    LOADER,
];
const LOADER: &str = "ld-linux-x86-64.so.2";
const PACKAGES: [&str; 7] =
    ["qemu-guest-agent", "libudev1", "libnuma1", "liburing2", "libglib2.0-0", "libpcre2-8-0", "libc6"];
const MODULES: [&str; 2] = ["vmw_vsock_virtio_transport", "isofs"];

/// An initramfs: the fast guest's with the agent in `/agent`, where `start` starts it.
pub fn agent(kernel: &Kernel, fast: &Path) -> Result<PathBuf> {
    let resolved = resolve(Suite::Bookworm, &PACKAGES)?;
    let key = [BUILDER, START, &kernel.key(), &resolved.text].iter().fold(cache::Key::default(), cache::Key::with);
    let key = key.with(fast.as_os_str().as_encoded_bytes()).finish();
    let folder = cache::entry("agent", &key, |folder| {
        let debs = resolved.fetch()?;
        progress::step("adding the guest agent to the fast guest", || build(&debs, kernel, fast, folder))
    })?;
    Ok(folder.join("initrd"))
}

fn build(debs: &[PathBuf], kernel: &Kernel, fast: &Path, folder: &Path) -> Result<()> {
    let tree = folder.join("tree");
    fs::create_dir(&tree)?;
    unpack(debs, &tree)?;
    let mut cpio = Cpio::default();
    for directory in ["agent", "agent/modules", "etc", "lib", "lib64", "lib/x86_64-linux-gnu", "var"] {
        cpio.directory(directory);
    }
    cpio.file("agent/start", 0o755, START.as_bytes());
    cpio.file("agent/qemu-ga", 0o755, &fs::read(tree.join("usr/sbin/qemu-ga")).context("usr/sbin/qemu-ga")?);
    cpio.file("etc/os-release", 0o644, b"ID=vireo\nNAME=\"Vireo\"\nPRETTY_NAME=\"Vireo's fast guest\"\n");
    for library in LIBRARIES {
        let places = ["lib", "usr/lib"].map(|root| tree.join(root).join("x86_64-linux-gnu").join(library));
        let content = places.iter().find_map(|place| fs::read(place).ok());
        let content = content.with_context(|| format!("no package has {library}"))?;
        cpio.file(&format!("lib/x86_64-linux-gnu/{library}"), 0o755, &content);
    }
    cpio.symlink(&format!("lib64/{LOADER}"), &format!("../lib/x86_64-linux-gnu/{LOADER}"));
    // In the order in which they load.
    for (number, file) in (10..).zip(kernel.module_files(&MODULES)?) {
        let name = file.file_name().context("a module has a name")?.to_string_lossy().into_owned();
        cpio.file(&format!("agent/modules/{number}-{name}"), 0o644, &fs::read(&file)?);
    }
    fs::remove_dir_all(&tree)?;
    let mut initrd = fs::read(fast.join("initrd"))?;
    // Archives follow each other, each from a multiple of four bytes on.
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    initrd.extend(cpio.finish());
    Ok(fs::write(folder.join("initrd"), initrd)?)
}
