//! The files of a ConfigMap, a Secret or their like, as the kubelet mounts them.
//!
//! The kubelet writes all of them into a new folder and then turns the link `..data` to it, so that they change at once; the
//! names beside it are links into it. Here that one link is followed, inside of the mount, and none below it: what is
//! read belongs together, however often it changes meanwhile. A folder without `..data` is read as it is.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;

use super::{ImageRoot, Purpose, VolumeError};

/// Files and folders together.
const MAX_FILES: usize = 1024;
/// Bytes of all files together: Kubernetes' own bound for a ConfigMap or Secret.
pub(super) const MAX_CONTENT: u64 = 1 << 20;

/// A file, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmallFile {
    /// Its path, relative.
    pub path: String,
    /// What is in it.
    pub content: Vec<u8>,
    /// Who may read it.
    pub mode: u32,
}

/// Reads them, sorted by path.
pub fn small_files(mount: &ImageRoot) -> Result<Vec<SmallFile>, VolumeError> {
    let current = mount.current()?;
    let root = current.as_ref().unwrap_or(mount);
    let (mut folders, mut files) = (vec![String::new()], Vec::new());
    let (mut entries, mut left) = (0, MAX_CONTENT);
    while let Some(folder) = folders.pop() {
        for name in root.names(&folder, MAX_FILES + 1 - entries)? {
            entries += 1;
            if entries > MAX_FILES {
                return Err(VolumeError::ManyFiles { limit: MAX_FILES });
            }
            let lossy = name.to_string_lossy();
            let path = if folder.is_empty() { lossy.into_owned() } else { format!("{folder}/{lossy}") };
            // What is no UTF-8 isn't found by this path.
            if root.is_folder(&path)? {
                folders.push(path);
                continue;
            }
            let file = root.file(&path, Purpose::Content)?;
            let mode = file.metadata().map_err(|source| VolumeError::Open { path: path.clone(), source })?;
            let content = read(&file, &path, left)?;
            left -= content.len() as u64;
            files.push(SmallFile { path, content, mode: mode.permissions().mode() & 0o444 });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Reads a file of at most `limit` bytes.
pub(super) fn read(file: &File, path: &str, limit: u64) -> Result<Vec<u8>, VolumeError> {
    let mut content = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut content)
        .map_err(|source| VolumeError::Open { path: path.to_owned(), source })?;
    if content.len() as u64 > limit {
        return Err(VolumeError::Large { path: path.to_owned(), limit: MAX_CONTENT });
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A mount as the kubelet makes it.
    fn mount(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let version = dir.path().join("..2026_11_24");
        fs::create_dir(&version).unwrap();
        symlink("..2026_11_24", dir.path().join("..data")).unwrap();
        for (path, content) in files {
            let first = path.split('/').next().unwrap();
            fs::create_dir_all(version.join(path).parent().unwrap()).unwrap();
            fs::write(version.join(path), content).unwrap();
            let _ = symlink(format!("..data/{first}"), dir.path().join(first));
        }
        dir
    }

    fn read_all(dir: &tempfile::TempDir) -> Result<Vec<(String, String)>, String> {
        let root = ImageRoot::open(dir.path()).unwrap();
        let files = small_files(&root).map_err(|error| error.to_string())?;
        Ok(files.into_iter().map(|file| (file.path, String::from_utf8(file.content).unwrap())).collect())
    }

    fn pairs(files: &[(&str, &str)]) -> Vec<(String, String)> {
        files.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect()
    }

    #[test]
    fn the_kubelets_links_are_followed_and_no_others() {
        let files = [(".hidden", "1"), ("a", ""), ("b/c", "2")];
        let dir = mount(&files);
        assert_eq!(read_all(&dir).unwrap(), pairs(&files));
        symlink("/etc/passwd", dir.path().join("..data/d")).unwrap();
        assert!(read_all(&dir).unwrap_err().starts_with("d is a symbolic link"));
    }

    #[test]
    fn the_kubelets_own_link_stays_in_the_mount() {
        let (dir, elsewhere) = (mount(&[]), mount(&[("secret", "x")]));
        fs::remove_file(dir.path().join("..data")).unwrap();
        symlink(elsewhere.path(), dir.path().join("..data")).unwrap();
        assert_eq!(read_all(&dir).unwrap_err(), "..data leaves the mount");
        fs::remove_file(dir.path().join("..data")).unwrap();
        symlink("../../../../..", dir.path().join("..data")).unwrap();
        assert_eq!(read_all(&dir).unwrap_err(), "..data leaves the mount");
    }

    #[test]
    fn a_folder_that_the_kubelet_did_not_write_is_read_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "1").unwrap();
        assert_eq!(read_all(&dir).unwrap(), pairs(&[("a", "1")]));
        symlink("a", dir.path().join("b")).unwrap();
        assert!(read_all(&dir).unwrap_err().starts_with("b is a symbolic link"));
        fs::remove_file(dir.path().join("b")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("c"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read_all(&dir).unwrap_err(), "c is a FIFO; a regular file is needed");
    }

    #[test]
    fn there_are_bounds() {
        let half = "x".repeat(1 << 19);
        let dir = mount(&[("a", &half), ("b", &half)]);
        assert_eq!(read_all(&dir).unwrap().len(), 2);
        fs::write(dir.path().join("..data/c"), "x").unwrap();
        assert!(read_all(&dir).unwrap_err().contains(" is too large: "));
        let dir = mount(&[]);
        for number in 0..=MAX_FILES {
            fs::write(dir.path().join(format!("..data/{number}")), "").unwrap();
        }
        assert_eq!(read_all(&dir).unwrap_err(), "more than 1024 files; fewer are needed");
    }
}
