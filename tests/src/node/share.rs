//! What a node gets from this build: binaries, guests, images, as one small read-only disk at `/vireo`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::image::{copy_tree, ext4};
use crate::guest;

/// The product's binaries.
const PRODUCT: [&str; 3] = ["containerd-shim-vireo-v2", "vireo-vmm", "vireo"];
/// What benched guests run; only a release build of it, and only if it's there.
const LOAD: &str = "vireo-load";
/// The tests' own, which run in the node.
const TOOLS: [&str; 4] = ["vireo-node-agent", "vireo-bench", "vireo-scenarios", "examples/jail_probe"];

/// Which build of the product goes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// The release build; it must be there.
    Release,
    /// Per binary the newer of debug and release; a missing one is left out and said.
    Newest,
}

impl Build {
    /// A binary of it, if it's there.
    pub fn find(self, name: &str) -> Result<Option<PathBuf>> {
        let choices: &[&str] = match self {
            Self::Release => &["release"],
            Self::Newest => &["release", "debug"],
        };
        let builds = builds_folder()?;
        let found = choices.iter().map(|profile| builds.join(profile).join(name)).filter(|path| path.is_file());
        Ok(found.max_by_key(|path| fs::metadata(path).and_then(|data| data.modified()).ok()))
    }
}

/// The folder that becomes the disk.
#[derive(Debug)]
pub struct Share {
    tree: PathBuf,
}

impl Share {
    /// Collects everything into `folder`, which is replaced.
    pub fn collect(folder: &Path, build: Build, guests: &guest::Images) -> Result<Self> {
        let tree = folder.join("share");
        if tree.exists() {
            fs::remove_dir_all(&tree).with_context(|| format!("remove {}", tree.display()))?;
        }
        let bin = tree.join("bin");
        fs::create_dir_all(&bin)?;
        let builds = builds_folder()?;
        for name in TOOLS {
            let path = std::env::current_exe()?.with_file_name(name);
            ensure!(path.is_file(), "{} is missing: make tools builds it", path.display());
            fs::copy(&path, bin.join(path.file_name().context("a tool has a name")?))?;
        }
        for name in PRODUCT {
            match build.find(name)? {
                Some(path) => drop(fs::copy(&path, bin.join(name))?),
                None if build == Build::Newest => crate::progress::note(&format!("{name}: not built, left out")),
                None => anyhow::bail!("{name}: not built: run cargo build --release"),
            }
        }
        let load = builds.join("release").join(LOAD);
        if load.is_file() {
            fs::copy(load, bin.join(LOAD))?;
        }
        let setup = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node-setup");
        copy_tree(&setup, &tree).context("share node-setup")?;
        for (folder, files) in [("guest", guests.guest_files()), ("images", guests.image_files())] {
            fs::create_dir(tree.join(folder))?;
            for file in files {
                let name = file.file_name().context("a file has a name")?;
                fs::copy(&file, tree.join(folder).join(name)).with_context(|| format!("share {}", file.display()))?;
            }
        }
        Ok(Self { tree })
    }

    /// Writes the disk.
    pub fn pack(self, image: &Path) -> Result<()> {
        let output = std::process::Command::new("du").args(["-sk", "--apparent-size"]).arg(&self.tree).output()?;
        let text = String::from_utf8(output.stdout)?;
        let kib: u64 = text.split_whitespace().next().context("du says nothing")?.parse()?;
        ext4(&self.tree, image, (kib + kib / 8 + (16 << 10)) << 10)?;
        fs::remove_dir_all(&self.tree).context("remove the share's tree")
    }
}

/// The folder of `debug` and `release`, from where this program itself is.
pub fn builds_folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    // target/<triple>/<profile>/[deps/]<program>
    let profile = program.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).context("where am I?")?;
    Ok(profile.parent().context("a build folder is in target/")?.to_owned())
}
