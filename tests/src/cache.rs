//! Built things, kept by the content of what they were built from.
//!
//! An entry is a folder `<kind>-<key>`, where the key is a hash of every input. It appears complete or not at all: it
//! is built beside its place and renamed. One lock file per kind keeps two builders from doing the same work.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

/// The cache's folder: `$VIREO_CACHE`, or `vireo` in the user's cache folder.
pub fn root() -> Result<PathBuf> {
    let path = std::env::var_os("VIREO_CACHE")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("XDG_CACHE_HOME").map(|cache| Path::new(&cache).join("vireo")))
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/vireo")))
        .context("neither VIREO_CACHE nor HOME is set: there is no place for built images")?;
    fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
    Ok(path)
}

/// A hash of inputs, in order.
#[derive(Debug, Default, Clone)]
pub struct Key(Sha256);

impl Key {
    /// Adds an input. Its length goes in too, so that two inputs can't pass for one.
    #[must_use]
    pub fn with(mut self, input: impl AsRef<[u8]>) -> Self {
        let input = input.as_ref();
        self.0.update((input.len() as u64).to_le_bytes());
        self.0.update(input);
        self
    }

    /// 16 hex digits.
    pub fn finish(self) -> String {
        let mut text = hex(&self.0.finalize());
        text.truncate(16);
        text
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// An exclusive lock that other processes see, held until dropped.
pub fn lock(name: &str) -> Result<Flock<File>> {
    let path = root()?.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| anyhow::anyhow!("lock {}: {errno}", path.display()))
}

/// The entry's folder, built by `build` (which gets an empty folder to fill) if it isn't there.
pub fn entry(kind: &str, key: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let root = root()?;
    let place = root.join(format!("{kind}-{key}"));
    if place.is_dir() {
        return Ok(place);
    }
    let _lock = lock(kind)?;
    if place.is_dir() {
        return Ok(place);
    }
    let beside = root.join(format!("{kind}.building"));
    if beside.exists() {
        fs::remove_dir_all(&beside).with_context(|| format!("remove {}", beside.display()))?;
    }
    fs::create_dir(&beside).with_context(|| format!("create {}", beside.display()))?;
    build(&beside)?;
    fs::rename(&beside, &place).with_context(|| format!("rename to {}", place.display()))?;
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn a_key_tells_apart_how_inputs_are_split() {
        let one = Key::default().with("ab").with("c").finish();
        let other = Key::default().with("a").with("bc").finish();
        assert_ne!(one, other);
        assert_eq!(one.len(), 16);
        assert_eq!(one, Key::default().with("ab").with("c").finish());
    }
}
