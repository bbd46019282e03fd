//! The fast guest: Debian's cloud kernel with a busybox initramfs, at its prompt in about a second of its own time.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    archive::cpio::Cpio,
    cache,
    debian::{Kernel, Suite, resolve, unpack},
    node::image::{add_modules, ext4},
    progress,
};

const BUILDER: &str = "fast guest 5, with qcow2";
const INIT: &str = include_str!("../../guest/fast-init");
const ACT: &str = include_str!("../../guest/act");
const UDHCPC: &str = include_str!("../../guest/udhcpc-script");
const MODULES: [&str; 10] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio-rng",
    "virtio_console",
    "virtio_balloon",
    "ext4",
    "button",
    "evdev",
    "pvpanic-mmio",
];

/// An empty qcow2 image of 16 MiB.
pub const BLANK_QCOW2: &str = "blank.qcow2";

/// A folder with `initrd`, `busybox`, `disk.img`, a 32 MiB ext4 file system, the same as `disk.qcow2`, and [`BLANK_QCOW2`].
pub fn fast(kernel: &Kernel) -> Result<PathBuf> {
    let resolved = resolve(Suite::Bookworm, &["busybox-static"])?;
    let key = [BUILDER, INIT, ACT, UDHCPC, &kernel.key(), &resolved.text]
        .iter()
        .fold(cache::Key::default(), cache::Key::with)
        .finish();
    cache::entry("guest", &key, |folder| {
        let debs = resolved.fetch()?;
        progress::step("building the fast guest", || build(&debs, kernel, folder))
    })
}

fn build(debs: &[PathBuf], kernel: &Kernel, folder: &Path) -> Result<()> {
    let tree = folder.join("tree");
    fs::create_dir(&tree)?;
    unpack(debs, &tree)?;
    let busybox = fs::read(tree.join("bin/busybox")).context("the package has no bin/busybox")?;
    fs::remove_dir_all(&tree)?;
    fs::write(folder.join("busybox"), &busybox)?;

    let mut cpio = Cpio::default();
    for directory in ["bin", "dev", "proc", "sys", "modules", "mnt", "tmp", "www"] {
        cpio.directory(directory);
    }
    cpio.char_device("dev/console", 5, 1);
    cpio.file("bin/busybox", 0o755, &busybox);
    cpio.symlink("bin/sh", "busybox");
    cpio.file("init", 0o755, INIT.as_bytes());
    cpio.file("bin/act", 0o755, ACT.as_bytes());
    cpio.file("bin/udhcpc-script", 0o755, UDHCPC.as_bytes());
    add_modules(&mut cpio, kernel, &MODULES)?;
    fs::write(folder.join("initrd"), cpio.finish())?;

    for directory in ["bin", "etc", "dev", "proc", "sys"] {
        fs::create_dir_all(tree.join(directory))?;
    }
    fs::write(tree.join("bin/busybox"), &busybox)?;
    fs::write(tree.join("etc/vireo-disk"), "the fast guest's disk\n")?;
    let disk = folder.join("disk.img");
    ext4(&tree, &disk, 32 << 20)?;
    fs::remove_dir_all(&tree)?;
    let qcow2 = |name: &str| folder.join(name).into_os_string();
    let zstd = ["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd"].map(OsString::from);
    qemu_img(zstd.into_iter().chain([disk.into_os_string(), qcow2("disk.qcow2")]))?;
    let create = ["create", "-q", "-f", "qcow2"].map(OsString::from);
    qemu_img(create.into_iter().chain([qcow2(BLANK_QCOW2), "16M".into()]))
}

/// Runs qemu-img.
pub(super) fn qemu_img(arguments: impl Iterator<Item = OsString>) -> Result<()> {
    let status = Command::new("qemu-img").args(arguments).status().context("run qemu-img (package qemu-utils)")?;
    ensure!(status.success(), "qemu-img: {status}");
    Ok(())
}
