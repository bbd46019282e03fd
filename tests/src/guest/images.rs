//! The container images: a containerDisk around the fast guest, and what ordinary pods need.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::payload;
use crate::{
    archive::{oci::Image, tar::Tar},
    cache,
    debian::Kernel,
    progress,
};

const BUILDER: &str = "images 5, with a payload";

/// The containerDisk's name.
pub const CONTAINER_DISK: &str = "docker.io/library/vireo-guest:1";
/// Its disk once more, as qcow2 with zstd clusters.
pub const QCOW2_DISK: &str = "/qcow2/disk.qcow2";
/// In it, a guest that is up at once, costs next to nothing, and stays: see [`payload`].
pub const PAYLOAD: &str = "/boot/payload";
/// An ordinary image.
pub const BUSYBOX: &str = "docker.io/library/busybox:1";
const PAUSE: &str = "docker.io/library/pause:1";

/// A folder with the images' tars.
pub fn images(kernel: &Kernel, fast: &Path, agent: &Path) -> Result<PathBuf> {
    let parts = [fast, agent].map(|path| path.as_os_str().as_encoded_bytes());
    let key = cache::Key::default().with(BUILDER).with(kernel.key());
    let key = parts.iter().fold(key, cache::Key::with).finish();
    cache::entry("images", &key, |folder| {
        progress::step("packing container images", || {
            let busybox = fs::read(fast.join("busybox"))?;
            fs::write(folder.join("pause.tar"), {
                Image {
                    reference: PAUSE,
                    entrypoint: &[],
                    command: &["/bin/sleep", "2147483647"],
                    layer: busybox_root(&busybox),
                }
                .pack()
            })?;
            fs::write(folder.join("busybox.tar"), {
                Image { reference: BUSYBOX, entrypoint: &[], command: &["/bin/sh"], layer: busybox_root(&busybox) }
                    .pack()
            })?;
            let mut layer = Tar::default();
            layer.directory("disk");
            layer.file("disk/disk.img", 0o644, &fs::read(fast.join("disk.img"))?);
            layer.directory("qcow2");
            layer.file(&QCOW2_DISK[1..], 0o644, &fs::read(fast.join("disk.qcow2"))?);
            layer.directory("boot");
            layer.file("boot/vmlinuz", 0o644, &fs::read(kernel.vmlinuz())?);
            layer.file("boot/initrd.img", 0o644, &fs::read(fast.join("initrd"))?);
            layer.file(&PAYLOAD[1..], 0o644, &payload::elf());
            layer.directory("agent");
            layer.file("agent/initrd", 0o644, &fs::read(agent)?);
            let disk = Image { reference: CONTAINER_DISK, entrypoint: &[], command: &["/none"], layer };
            Ok(fs::write(folder.join("containerdisk.tar"), disk.pack())?)
        })
    })
}

fn busybox_root(busybox: &[u8]) -> Tar {
    let mut tar = Tar::default();
    for directory in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
        tar.directory(directory);
    }
    tar.file("bin/busybox", 0o755, busybox);
    for applet in ["sh", "ls", "cat", "echo", "sleep", "uname", "ip", "ping", "wget", "nc", "ps", "id", "env", "true"] {
        tar.symlink(&format!("bin/{applet}"), "busybox");
    }
    tar
}
