//! The node's disk: a container host from Debian packages, without systemd, mounted read-only.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    archive::cpio::Cpio,
    cache,
    debian::{Kernel, Suite, resolve, unpack},
    progress,
};

const BUILDER: &str = "node 4";
/// Debian 13, for its containerd 1.7.
const PACKAGES: [&str; 38] = [
    "base-files",
    "bash",
    "bsdextrautils",
    "bsdutils",
    "busybox-static",
    "containerd",
    "containernetworking-plugins",
    "coreutils",
    "dash",
    "diffutils",
    "e2fsprogs",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "iproute2",
    "iptables",
    "iputils-ping",
    "kmod",
    "less",
    "libc-bin",
    "libgcc-s1",
    "login.defs",
    "mawk",
    "mount",
    "ncurses-base",
    "nftables",
    "openssh-client",
    "ovmf",
    "procps",
    "runc",
    "seabios",
    "sed",
    "socat",
    "strace",
    "tar",
    "tcpdump",
    "util-linux",
];
/// Other releases' containerds, each in `/opt/containerd-<version>`. They run on Debian 13's libraries: older ones may, and
/// Debian 14's containerd and runc want no newer ones (libc 2.38, libseccomp 2.5).
const OTHERS: [(&str, Suite); 2] = [("1.6", Suite::Bookworm), ("2.1", Suite::Forky)];
/// What is taken of them.
const OTHERS_PACKAGES: [&str; 2] = ["containerd", "runc"];
const INIT: &str = include_str!("../../node/init");
const INITRD_INIT: &str = include_str!("../../node/initrd-init");
const CONTAINERD: &str = include_str!("../../node/node-containerd");
/// containerd's configuration by the version of its format.
const CONTAINERD_CONFIGS: [(&str, &str); 2] =
    [("2", include_str!("../../node/containerd-2.toml")), ("3", include_str!("../../node/containerd-3.toml"))];
const CNI: &str = include_str!("../../node/cni.conflist");
const INITRD_MODULES: [&str; 5] = ["virtio_pci", "virtio_blk", "virtio_net", "ext4", "overlay"];

/// A node's files.
#[derive(Debug, Clone)]
pub struct Image {
    /// Read-only root, ext4.
    pub root: PathBuf,
    /// What mounts it.
    pub initrd: PathBuf,
}

/// Builds the node's image, or finds it in the cache.
pub fn image(kernel: &Kernel) -> Result<Image> {
    let new = resolve(Suite::Trixie, &PACKAGES)?;
    let others = OTHERS
        .map(|(version, suite)| Ok((version, resolve(suite, &OTHERS_PACKAGES)?)))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let scripts = [INIT, INITRD_INIT, CONTAINERD, CNI].into_iter().chain(CONTAINERD_CONFIGS.map(|(_, text)| text));
    let key = scripts.fold(cache::Key::default().with(BUILDER), cache::Key::with).with(kernel.key()).with(&new.text);
    let key = others.iter().fold(key, |key, (_, resolved)| key.with(&resolved.text)).finish();
    let folder = cache::entry("node", &key, |folder| {
        let debs = new.fetch()?;
        let others = others.iter().map(|(version, resolved)| Ok((version, resolved.fetch()?)));
        let others = others.collect::<Result<Vec<_>>>()?;
        progress::step("building the node image", || {
            let tree = folder.join("tree");
            fs::create_dir(&tree)?;
            unpack(&debs, &tree)?;
            for (version, debs) in others {
                let debs: Vec<_> = debs.into_iter().filter(|deb| is_one_of(deb, &OTHERS_PACKAGES)).collect();
                unpack(&debs, &make(&tree.join(format!("opt/containerd-{version}")))?)?;
            }
            furnish(&tree, kernel)?;
            fs::write(folder.join("initrd"), initrd(&tree, kernel)?)?;
            ext4(&tree, &folder.join("root.img"), 2 << 30)?;
            fs::remove_dir_all(&tree).context("remove the node's tree")
        })
    })?;
    Ok(Image { root: folder.join("root.img"), initrd: folder.join("initrd") })
}

/// QEMU for the benches, as a layer to put over the node's root.
pub fn qemu_layer() -> Result<PathBuf> {
    let resolved = resolve(Suite::Trixie, &super::emulator::PACKAGES)?;
    let key = cache::Key::default().with(BUILDER).with(&resolved.text).finish();
    let folder = cache::entry("qemu", &key, |folder| {
        let debs = resolved.fetch()?;
        progress::step("building the QEMU layer of the bench node", || {
            let tree = folder.join("tree");
            fs::create_dir(&tree)?;
            unpack(&debs, &tree)?;
            ext4(&tree, &folder.join("layer.img"), 2 << 30)?;
            fs::remove_dir_all(&tree).context("remove the layer's tree")
        })
    })?;
    Ok(folder.join("layer.img"))
}

/// A program for `/usr/bin`, as a layer to put over the node's root. Its path tells its content: it is the cache's.
pub fn program_layer(program: &Path) -> Result<PathBuf> {
    let name = program.file_name().context("a program has a name")?;
    let key = cache::Key::default().with(BUILDER).with(program.as_os_str().as_encoded_bytes()).finish();
    let folder = cache::entry("program", &key, |folder| {
        let tree = folder.join("tree");
        let bin = make(&tree.join("usr/bin"))?;
        fs::copy(program, bin.join(name)).with_context(|| format!("copy {}", program.display()))?;
        ext4(&tree, &folder.join("layer.img"), fs::metadata(program)?.len() + (16 << 20))?;
        fs::remove_dir_all(&tree).context("remove the layer's tree")
    })?;
    Ok(folder.join("layer.img"))
}

fn is_one_of(deb: &Path, packages: &[&str]) -> bool {
    let name = deb.file_name().unwrap_or_default().to_string_lossy();
    packages.iter().any(|package| name.split('_').next() == Some(package))
}

/// What install scripts would have done, and the node's own files.
fn furnish(tree: &Path, kernel: &Kernel) -> Result<()> {
    for folder in ["proc", "sys", "dev", "run", "tmp", "root", "vireo", "var/log", "var/tmp", "var/lib/cni", "opt/cni"]
    {
        make(&tree.join(folder))?;
    }
    write(&tree.join("usr/sbin/node-init"), INIT, 0o755)?;
    write(&tree.join("usr/local/bin/node-containerd"), CONTAINERD, 0o755)?;
    // The package's; node-containerd puts one of these there.
    fs::remove_file(tree.join("etc/containerd/config.toml")).context("the package's configuration of containerd")?;
    for (version, text) in CONTAINERD_CONFIGS {
        write(&tree.join(format!("usr/share/node-containerd/{version}.toml")), text, 0o644)?;
    }
    write(&tree.join("etc/cni/net.d/10-pods.conflist"), CNI, 0o644)?;
    write(&tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/bash\n", 0o644)?;
    write(&tree.join("etc/group"), "root:x:0:\ntty:x:5:\n", 0o644)?;
    write(&tree.join("etc/nsswitch.conf"), "passwd: files\ngroup: files\nhosts: files\n", 0o644)?;
    // containerd copies it into every pod.
    write(&tree.join("etc/resolv.conf"), "nameserver 192.168.76.3\n", 0o644)?;
    write(&tree.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n", 0o644)?;
    link("/usr/lib/cni", &tree.join("opt/cni/bin"))?;
    link("dash", &tree.join("usr/bin/sh"))?;
    link("mawk", &tree.join("usr/bin/awk"))?;
    for name in ["iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"] {
        link("xtables-nft-multi", &tree.join("usr/sbin").join(name))?;
    }
    let modules = make(&tree.join("usr/lib/modules"))?;
    copy_tree(&kernel.modules_root().join("lib/modules").join(&kernel.version), &modules)?;
    let status = Command::new("ldconfig").arg("-r").arg(tree).status().context("run ldconfig")?;
    ensure!(status.success(), "ldconfig failed");
    Ok(())
}

fn initrd(tree: &Path, kernel: &Kernel) -> Result<Vec<u8>> {
    let mut cpio = Cpio::default();
    for folder in ["bin", "dev", "proc", "sys", "modules", "lower", "upper", "root"] {
        cpio.directory(folder);
    }
    cpio.char_device("dev/console", 5, 1);
    cpio.file("bin/busybox", 0o755, &fs::read(tree.join("usr/bin/busybox")).context("read busybox")?);
    cpio.file("init", 0o755, INITRD_INIT.as_bytes());
    add_modules(&mut cpio, kernel, &INITRD_MODULES)?;
    Ok(cpio.finish())
}

/// Puts modules and the order to load them in (`modules/order`) into an initramfs.
pub fn add_modules(cpio: &mut Cpio, kernel: &Kernel, names: &[&str]) -> Result<()> {
    let mut order = String::new();
    for file in kernel.module_files(names)? {
        let name = file.file_name().context("a module has a name")?.to_string_lossy().into_owned();
        cpio.file(&format!("modules/{name}"), 0o644, &fs::read(&file)?);
        order = order + &name + "\n";
    }
    cpio.file("modules/order", 0o644, order.as_bytes());
    Ok(())
}

/// Makes a file system image of `size` bytes (sparse) from a folder.
pub fn ext4(tree: &Path, image: &Path, size: u64) -> Result<()> {
    let file = fs::File::create(image).with_context(|| format!("create {}", image.display()))?;
    file.set_len(size)?;
    let output = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "root_owner=0:0", "-d"])
        .args([tree, image])
        .output()
        .context("run mke2fs")?;
    ensure!(output.status.success(), "mke2fs: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn make(folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder.to_owned())
}

fn write(path: &Path, content: &str, mode: u32) -> Result<()> {
    make(path.parent().context("a file has a folder")?)?;
    fs::write(path, content).with_context(|| format!("write {}", path.display()))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

fn link(target: &str, path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    symlink(target, path).with_context(|| format!("link {}", path.display()))
}

/// Copies a folder into another, with everything that a file is.
pub fn copy_tree(source: &Path, into: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").args([source, into]).status().context("run cp")?;
    ensure!(status.success(), "can't copy {} into {}", source.display(), into.display());
    Ok(())
}
