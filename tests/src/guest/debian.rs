//! The full Debian guest: a disk as clouds use it, with systemd, netplan, cloud-init, the guest agent and sshd, that boots by BIOS
//! and by EFI. It takes minutes to build, and is built when first needed.
//!
//! GPT: a BIOS boot partition with GRUB's core, an EFI system partition with GRUB as the default loader, the root; numbered as in
//! Debian's own cloud images, where the root is the first.
//!
//! Beside the raw disk there is a file system with its kernel and initial RAM disk, and a containerDisk image with the
//! disk as qcow2 with zlib clusters, as cloud images are published.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::fast::qemu_img;
use crate::{
    archive::{oci::Image, tar::Tar},
    cache,
    debian::{Suite, resolve},
    node::image::ext4,
    progress,
};

const BUILDER: &str = "debian guest 3";
/// The containerDisk's name.
pub const CONTAINER_DISK: &str = "docker.io/library/debian-guest:12";
const GRUB: &str = include_str!("../../guest/grub.cfg");
/// Finds the root before GRUB's configuration can be read.
const GRUB_EARLY: &str = "search.fs_label root root\nset prefix=($root)/boot/grub\n";
const GRUB_MODULES: [&str; 12] = [
    "part_gpt",
    "ext2",
    "fat",
    "normal",
    "linux",
    "search",
    "search_label",
    "configfile",
    "serial",
    "terminal",
    "echo",
    "test",
];
const PACKAGES: [&str; 25] = [
    "cloud-guest-utils",
    "cloud-init",
    "dbus",
    "e2fsprogs",
    "fdisk",
    "grub-efi-amd64-bin",
    "grub-pc-bin",
    "grub2-common",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "kmod",
    "libpam-systemd",
    "linux-image-cloud-amd64",
    "login",
    "netbase",
    "netplan.io",
    "openssh-server",
    "passwd",
    "procps",
    "qemu-guest-agent",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
];

const SECTOR: u64 = 512;
const DISK_SECTORS: u64 = 4_194_304;

struct Partition {
    number: u32,
    /// Its first sector.
    start: u64,
    sectors: u64,
    kind: &'static str,
}

const ROOT: Partition =
    Partition { number: 1, start: 135_168, sectors: 4_057_088, kind: "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709" };
const BIOS: Partition =
    Partition { number: 14, start: 2048, sectors: 2048, kind: "21686148-6449-6E6F-744E-656564454649" };
const ESP: Partition =
    Partition { number: 15, start: 4096, sectors: 131_072, kind: "C12A7328-F81F-11D2-BA4B-00A0C93EC93B" };

fn key() -> Result<String> {
    let mut packages = vec!["base-files"];
    packages.extend(PACKAGES);
    let resolved = resolve(Suite::Bookworm, &packages)?;
    Ok([BUILDER, GRUB, GRUB_EARLY, &resolved.text].iter().fold(cache::Key::default(), cache::Key::with).finish())
}

/// What was built.
#[derive(Debug, Clone)]
pub struct Debian {
    /// The disk, raw.
    pub disk: PathBuf,
    /// A file system with `vmlinuz`, `initrd.img` and `containerdisk.tar`.
    pub files: PathBuf,
}

/// The guest, built if need be. Needs root.
pub fn debian() -> Result<Debian> {
    let folder = cache::entry("debian", &key()?, |folder| {
        let tree = folder.join("tree");
        progress::step("installing the full Debian guest (takes minutes)", || install(&tree))?;
        progress::step("making its disk", || {
            let version = settle(&tree)?;
            let disk = folder.join("disk.img");
            assemble(&tree, &disk, &version)?;
            inspect(&disk)
        })?;
        progress::step("packing it", || pack(&tree, folder))?;
        fs::remove_dir_all(&tree).context("remove the guest's tree")
    })?;
    Ok(Debian { disk: folder.join("disk.img"), files: folder.join("files.img") })
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn install(tree: &Path) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--mode=root", "--variant=minbase", "--aptopt=APT::Install-Recommends \"false\""]);
    command.arg(format!("--include={}", PACKAGES.join(","))).arg("bookworm").arg(tree);
    run(command.args(Suite::Bookworm.sources()))
}

/// The guest's own settings; its kernel's version.
fn settle(tree: &Path) -> Result<String> {
    let version = fs::read_dir(tree.join("boot"))?
        .flatten()
        .find_map(|entry| Some(entry.file_name().to_string_lossy().strip_prefix("vmlinuz-")?.to_owned()))
        .context("the guest has no kernel")?;
    let boot = tree.join("boot/grub");
    fs::create_dir_all(&boot)?;
    fs::create_dir_all(tree.join("boot/efi"))?;
    fs::write(boot.join("grub.cfg"), GRUB.replace("@VERSION@", &version))?;
    fs::write(
        tree.join("etc/fstab"),
        "LABEL=root / ext4 errors=remount-ro 0 1\nLABEL=ESP /boot/efi vfat umask=0077 0 1\n",
    )?;
    fs::write(tree.join("etc/hostname"), "debian\n")?;
    // systemd makes a new one at the first boot.
    fs::write(tree.join("etc/machine-id"), "uninitialized\n")?;
    // The keys of the build would be every guest's.
    for entry in fs::read_dir(tree.join("etc/ssh"))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("ssh_host_") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(version)
}

fn assemble(tree: &Path, disk: &Path, version: &str) -> Result<()> {
    ensure!(tree.join("boot").join(format!("initrd.img-{version}")).is_file(), "the guest has no initrd");
    let file = File::options().read(true).write(true).create_new(true).open(disk)?;
    file.set_len(DISK_SECTORS * SECTOR)?;
    partition(disk)?;
    let core = grub_image(tree, "i386-pc", &["biosdisk"])?;
    let efi = grub_image(tree, "x86_64-efi", &["efi_gop"])?;
    install_bios_boot(&file, &fs::read(tree.join("usr/lib/grub/i386-pc/boot.img"))?, core)?;
    install_efi(&file, disk, &efi)?;
    let Partition { start, sectors, .. } = ROOT;
    run(Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-L", "root", "-E"])
        .arg(format!("offset={},root_owner=0:0", start * SECTOR))
        .arg("-d")
        .args([tree, disk])
        .arg(format!("{}k", sectors / 2)))
}

/// Makes the file system of [`Debian::files`].
fn pack(tree: &Path, folder: &Path) -> Result<()> {
    let files = folder.join("files");
    fs::create_dir(&files)?;
    for (link, kind) in [("vmlinuz", "vmlinuz-"), ("initrd.img", "initrd.img-")] {
        let found = fs::read_dir(tree.join("boot"))?
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().starts_with(kind));
        fs::copy(found.with_context(|| format!("the guest has no {kind}"))?.path(), files.join(link))?;
    }
    let qcow2 = folder.join("disk.qcow2");
    let convert = ["convert", "-f", "raw", "-O", "qcow2", "-c"].map(OsString::from);
    qemu_img(convert.into_iter().chain([folder.join("disk.img").into_os_string(), qcow2.clone().into_os_string()]))?;
    let mut layer = Tar::default();
    layer.directory("disk");
    layer.file("disk/debian.qcow2", 0o644, &fs::read(&qcow2)?);
    fs::remove_file(qcow2)?;
    let image = Image { reference: CONTAINER_DISK, entrypoint: &[], command: &["/none"], layer }.pack();
    fs::write(files.join("containerdisk.tar"), &image)?;
    ext4(&files, &folder.join("files.img"), image.len() as u64 + (256 << 20))?;
    Ok(fs::remove_dir_all(files)?)
}

fn partition(disk: &Path) -> Result<()> {
    let lines = [ROOT, BIOS, ESP].map(|partition| {
        let Partition { number, start, sectors, kind } = partition;
        format!("{number} : start={start}, size={sectors}, type={kind}")
    });
    let script = std::iter::once("label: gpt".to_owned()).chain(lines).collect::<Vec<_>>().join("\n");
    let mut sfdisk =
        Command::new("sfdisk").arg("--quiet").arg(disk).stdin(Stdio::piped()).spawn().context("run sfdisk")?;
    sfdisk.stdin.take().context("piped")?.write_all(script.as_bytes())?;
    ensure!(sfdisk.wait()?.success(), "sfdisk failed");
    Ok(())
}

/// GRUB's core for a platform, made by the guest's own tools.
fn grub_image(tree: &Path, platform: &str, more: &[&str]) -> Result<Vec<u8>> {
    fs::write(tree.join("tmp/early.cfg"), GRUB_EARLY)?;
    let image = tree.join("tmp/core");
    run(Command::new("chroot")
        .arg(tree)
        .args(["grub-mkimage", "-O", platform, "-o", "/tmp/core", "-c", "/tmp/early.cfg", "-p", "/boot/grub"])
        .args(GRUB_MODULES)
        .args(more))?;
    let bytes = fs::read(&image)?;
    fs::remove_file(&image)?;
    fs::remove_file(tree.join("tmp/early.cfg"))?;
    Ok(bytes)
}

/// Boot code into the MBR, the core into its partition, each told where the next is: what `grub-bios-setup` does, which
/// wants a block device. Places as in GRUB's `include/grub/offsets.h`.
fn install_bios_boot(disk: &File, boot: &[u8], mut core: Vec<u8>) -> Result<()> {
    const BOOT_CODE: usize = 440;
    /// In the boot sector: the core's first sector.
    const KERNEL_SECTOR: usize = 0x5c;
    /// In the core's first sector: where the rest begins.
    const BLOCK_LIST: usize = 0x1f4;
    let Partition { start, sectors, .. } = BIOS;
    ensure!(core.len() as u64 <= sectors * SECTOR, "GRUB's core has {} bytes, its partition less", core.len());
    let mut record = boot.get(..BOOT_CODE).context("GRUB's boot.img is cut short")?.to_vec();
    record[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&start.to_le_bytes());
    core.get_mut(BLOCK_LIST..BLOCK_LIST + 8)
        .context("GRUB's core is cut short")?
        .copy_from_slice(&(start + 1).to_le_bytes());
    disk.write_all_at(&record, 0)?;
    Ok(disk.write_all_at(&core, start * SECTOR)?)
}

fn install_efi(disk: &File, path: &Path, grub: &[u8]) -> Result<()> {
    let Partition { start, sectors, .. } = ESP;
    let scratch = path.with_extension("esp");
    run(Command::new("mkfs.vfat").args(["-n", "ESP", "-C"]).arg(&scratch).arg((sectors / 2).to_string()))?;
    let loader = path.with_extension("efi");
    fs::write(&loader, grub)?;
    run(Command::new("mmd").arg("-i").arg(&scratch).args(["::/EFI", "::/EFI/BOOT"]))?;
    run(Command::new("mcopy").arg("-i").arg(&scratch).arg(&loader).arg("::/EFI/BOOT/BOOTX64.EFI"))?;
    let mut disk = disk;
    disk.seek(SeekFrom::Start(start * SECTOR))?;
    std::io::copy(&mut File::open(&scratch)?, &mut disk)?;
    fs::remove_file(loader)?;
    Ok(fs::remove_file(scratch)?)
}

/// Looks whether everything is in the disk that should be.
pub fn inspect(disk: &Path) -> Result<()> {
    let output = Command::new("sfdisk").arg("--json").arg(disk).output().context("run sfdisk")?;
    let table: Value = serde_json::from_slice(&output.stdout).context("read the partition table")?;
    let partitions = table["partitiontable"]["partitions"].as_array().context("a disk has partitions")?;
    ensure!(partitions.len() == 3, "{} partitions", partitions.len());
    for (found, expected) in partitions.iter().zip([ROOT, BIOS, ESP]) {
        let number = found["node"].as_str().is_some_and(|node| node.ends_with(&expected.number.to_string()));
        let same = number && found["start"] == expected.start && found["type"] == expected.kind;
        ensure!(same, "unexpected partition {found}");
    }
    let file = File::open(disk)?;
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, 0)?;
    ensure!(sector[0] == 0xeb && sector[510..] == [0x55, 0xaa], "no boot code in the MBR");
    file.read_exact_at(&mut sector, BIOS.start * SECTOR)?;
    ensure!(sector.iter().any(|&byte| byte != 0), "no GRUB in the BIOS boot partition");

    let esp = format!("{}@@{}", disk.display(), ESP.start * SECTOR);
    run(Command::new("mdir").args(["-i", &esp, "::/EFI/BOOT/BOOTX64.EFI"])).context("no EFI loader")?;

    let root = format!("{}?offset={}", disk.display(), ROOT.start * SECTOR);
    for path in [
        "/sbin/init",
        "/usr/bin/cloud-init",
        "/usr/sbin/qemu-ga",
        "/usr/sbin/sshd",
        "/boot/grub/grub.cfg",
        "/etc/fstab",
    ] {
        let output =
            Command::new("debugfs").args(["-R", &format!("stat {path}"), &root]).output().context("run debugfs")?;
        if !String::from_utf8_lossy(&output.stdout).contains("Inode:") {
            bail!("{path} is not in the guest: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    Ok(())
}
