//! The unmodified cloud kernel of Debian 12, for the node and for its guests.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use super::{Suite, resolve, unpack};
use crate::{cache, progress};

const BUILDER: &str = "kernel 1";

/// A kernel's files.
#[derive(Debug, Clone)]
pub struct Kernel {
    folder: PathBuf,
    /// As in `uname -r`.
    pub version: String,
}

impl Kernel {
    /// The bzImage.
    pub fn vmlinuz(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// The ELF inside it, which has a PVH entry.
    pub fn vmlinux(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// A folder with `lib/modules/<version>`, `modules.dep` made.
    pub fn modules_root(&self) -> PathBuf {
        self.folder.join("modules")
    }

    /// Identifies the content.
    pub fn key(&self) -> String {
        self.folder.display().to_string()
    }

    /// The files of modules and of those that they need, in the order of loading. A module built into the kernel has
    /// none.
    pub fn module_files(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let base = self.modules_root().join("lib/modules").join(&self.version);
        let dependencies = fs::read_to_string(base.join("modules.dep"))?;
        let builtin = fs::read_to_string(base.join("modules.builtin"))?;
        let stem = |path: &str| {
            let name = path.rsplit('/').next().unwrap_or(path);
            name.trim_end_matches(".xz").trim_end_matches(".ko").replace('-', "_")
        };
        let mut files = Vec::new();
        for name in names {
            let wanted = name.replace('-', "_");
            let line = dependencies.lines().find_map(|line| {
                let (file, needs) = line.split_once(':')?;
                (stem(file) == wanted).then_some((file, needs))
            });
            let Some((file, needs)) = line else {
                ensure!(
                    builtin.lines().any(|line| stem(line) == wanted),
                    "kernel {} has no module {name}",
                    self.version
                );
                continue;
            };
            // modules.dep names the nearest need first: loading goes the other way.
            for path in needs.split_whitespace().rev().chain([file]) {
                let path = base.join(path);
                if !files.contains(&path) {
                    files.push(path);
                }
            }
        }
        Ok(files)
    }
}

/// Fetches the kernel and prepares its files, once per version.
pub fn kernel() -> Result<Kernel> {
    let resolved = resolve(Suite::Bookworm, &["linux-image-cloud-amd64", "kmod"])?;
    let key = cache::Key::default().with(BUILDER).with(&resolved.text).finish();
    let folder = cache::entry("kernel", &key, |folder| {
        let debs = resolved.fetch()?;
        progress::step("preparing the Debian kernel", || prepare(&debs, folder))
    })?;
    let version = fs::read_to_string(folder.join("version"))?;
    Ok(Kernel { folder, version })
}

fn prepare(debs: &[PathBuf], folder: &Path) -> Result<()> {
    let tree = folder.join("tree");
    fs::create_dir(&tree)?;
    let image = debs.iter().find(|deb| is_kernel_image(deb)).context("no kernel image among the packages")?;
    unpack(std::slice::from_ref(image), &tree)?;
    let name = fs::read_dir(tree.join("boot"))?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| name.starts_with("vmlinuz-"))
        .context("the kernel package has no vmlinuz")?;
    let version = name.trim_start_matches("vmlinuz-").to_owned();
    fs::rename(tree.join("boot").join(&name), folder.join("vmlinuz"))?;
    fs::write(folder.join("vmlinux"), elf_of(&fs::read(folder.join("vmlinuz"))?)?)?;
    let modules = folder.join("modules/lib/modules");
    fs::create_dir_all(&modules)?;
    let source = ["lib/modules", "usr/lib/modules"].map(|path| tree.join(path)).into_iter().find(|path| path.is_dir());
    fs::rename(source.context("the kernel package has no modules")?.join(&version), modules.join(&version))?;
    fs::remove_dir_all(&tree)?;

    // The package leaves modules.dep to its install script.
    let tools = folder.join("tools");
    fs::create_dir(&tools)?;
    let rest: Vec<PathBuf> = debs.iter().filter(|deb| *deb != image).cloned().collect();
    unpack(&rest, &tools)?;
    let libraries =
        ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map(|path| tools.join(path).display().to_string());
    let status = Command::new(tools.join("lib64/ld-linux-x86-64.so.2"))
        .args(["--library-path", &libraries.join(":"), "--argv0", "depmod"])
        .arg(tools.join("bin/kmod"))
        .arg("-b")
        .arg(folder.join("modules"))
        .arg(&version)
        .status()
        .context("run depmod")?;
    ensure!(status.success(), "depmod failed");
    fs::remove_dir_all(&tools)?;
    fs::write(folder.join("version"), version)?;
    Ok(())
}

fn is_kernel_image(deb: &Path) -> bool {
    let name = deb.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("linux-image-6") || name.starts_with("linux-image-7")
}

/// The ELF that a bzImage carries packed (Documentation/arch/x86/boot.rst: `payload_offset`, `payload_length`).
fn elf_of(image: &[u8]) -> Result<Vec<u8>> {
    let word = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).context("the kernel image is cut short")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    let setup_sectors = usize::from(*image.get(0x1f1).context("the kernel image is cut short")?);
    let begin = (setup_sectors + 1) * 512 + word(0x248)?;
    let payload = image.get(begin..begin + word(0x24c)?).context("the kernel image's payload is cut short")?;
    let tool = match payload {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [0x1f, 0x8b, ..] => "gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        _ => bail!("the kernel image is packed in a way not known here"),
    };
    let mut unpacker = Command::new(tool)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("run {tool}"))?;
    let mut input = unpacker.stdin.take().context("no pipe to the unpacker")?;
    let payload = payload.to_vec();
    // The unpacker stops at the end of its stream; the length that follows (a kernel habit) may break the pipe.
    let feeder = std::thread::spawn(move || drop(input.write_all(&payload)));
    let output = unpacker.wait_with_output()?;
    drop(feeder.join());
    ensure!(output.stdout.starts_with(b"\x7fELF"), "the kernel image's payload is no ELF");
    Ok(output.stdout)
}
