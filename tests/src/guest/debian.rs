//! The full Debian guest: a disk as clouds use it, with systemd, cloud-init, the guest agent and sshd, that boots by BIOS
//! and by EFI. It takes minutes to build, and is built when first needed.
//!
//! GPT: a BIOS boot partition with GRUB's core, an EFI system partition with GRUB as the default loader, the root.

use std::{
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    cache,
    debian::{Suite, resolve},
    progress,
};

const BUILDER: &str = "debian guest 1";
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
    "ifupdown",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "isc-dhcp-client",
    "kmod",
    "libpam-systemd",
    "linux-image-cloud-amd64",
    "login",
    "netbase",
    "openssh-server",
    "passwd",
    "procps",
    "qemu-guest-agent",
    "sudo",
    "systemd-sysv",
    "udev",
];

const SECTOR: u64 = 512;
/// First sector and number of sectors of each partition: BIOS boot, EFI system, root.
const PARTITIONS: [(u64, u64); 3] = [(2048, 2048), (4096, 131_072), (135_168, 4_057_088)];
const DISK_SECTORS: u64 = 4_194_304;
const TYPES: [&str; 3] = [
    "21686148-6449-6E6F-744E-656564454649",
    "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
];

fn key() -> Result<String> {
    let mut packages = vec!["base-files"];
    packages.extend(PACKAGES);
    let resolved = resolve(Suite::Bookworm, &packages)?;
    Ok([BUILDER, GRUB, GRUB_EARLY, &resolved.text].iter().fold(cache::Key::default(), cache::Key::with).finish())
}

/// The disk's raw image, built if need be. Needs root.
pub fn debian() -> Result<PathBuf> {
    let folder = cache::entry("debian", &key()?, |folder| {
        let tree = folder.join("tree");
        progress::step("installing the full Debian guest (takes minutes)", || install(&tree))?;
        progress::step("making its disk", || {
            let version = settle(&tree)?;
            let disk = folder.join("disk.img");
            assemble(&tree, &disk, &version)?;
            inspect(&disk)?;
            fs::remove_dir_all(&tree).context("remove the guest's tree")
        })
    })?;
    Ok(folder.join("disk.img"))
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
    fs::write(tree.join("etc/cloud/cloud.cfg.d/90-sources.cfg"), "datasource_list: [NoCloud, ConfigDrive, None]\n")?;
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
    let (start, sectors) = PARTITIONS[2];
    run(Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-L", "root", "-E"])
        .arg(format!("offset={},root_owner=0:0", start * SECTOR))
        .arg("-d")
        .args([tree, disk])
        .arg(format!("{}k", sectors / 2)))
}

fn partition(disk: &Path) -> Result<()> {
    let lines =
        PARTITIONS.iter().zip(TYPES).map(|((start, size), kind)| format!("start={start}, size={size}, type={kind}"));
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
    let (start, sectors) = PARTITIONS[0];
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
    let (start, sectors) = PARTITIONS[1];
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
    ensure!(partitions.len() == PARTITIONS.len(), "{} partitions", partitions.len());
    for ((partition, (start, _)), kind) in partitions.iter().zip(PARTITIONS).zip(TYPES) {
        ensure!(partition["start"] == start && partition["type"] == kind, "unexpected partition {partition}");
    }
    let file = File::open(disk)?;
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, 0)?;
    ensure!(sector[0] == 0xeb && sector[510..] == [0x55, 0xaa], "no boot code in the MBR");
    file.read_exact_at(&mut sector, PARTITIONS[0].0 * SECTOR)?;
    ensure!(sector.iter().any(|&byte| byte != 0), "no GRUB in the BIOS boot partition");

    let esp = format!("{}@@{}", disk.display(), PARTITIONS[1].0 * SECTOR);
    run(Command::new("mdir").args(["-i", &esp, "::/EFI/BOOT/BOOTX64.EFI"])).context("no EFI loader")?;

    let root = format!("{}?offset={}", disk.display(), PARTITIONS[2].0 * SECTOR);
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
