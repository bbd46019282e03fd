//! Disks with the files of a ConfigMap, a Secret, the downward API, a service account, or with answers for Windows' set-up.

use std::fs::File;

use super::iso9660::{IsoFile, image};
use super::made::sealed;
use super::small_files::{SmallFile, small_files};
use super::{ImageRoot, Mounted, VolumeError};

/// What a file system is called that nobody named (KubeVirt's word).
const LABEL: &str = "cfgdata";
/// What sysprep's is called (KubeVirt's word); Windows looks for its files on every drive.
const SYSPREP_LABEL: &str = "unattendCD";
/// One of these Windows needs, in whatever case.
const ANSWERS: [&str; 2] = ["autounattend.xml", "unattend.xml"];

/// A disk with the files of the folder that is mounted, called `label`.
pub fn config_disk(mounted: &Mounted, label: Option<&str>) -> Result<File, VolumeError> {
    disk(&mounted.folder(small_files)?, label.filter(|label| !label.is_empty()).unwrap_or(LABEL))
}

/// A disk with the files of the folder that is mounted, one of which is Windows' answer file.
pub fn sysprep_disk(mounted: &Mounted) -> Result<File, VolumeError> {
    let files = mounted.folder(|root: &ImageRoot| {
        let files = small_files(root)?;
        let is_answer = |file: &SmallFile| ANSWERS.iter().any(|name| file.path.eq_ignore_ascii_case(name));
        if files.iter().any(is_answer) { Ok(files) } else { Err(VolumeError::NoKey { keys: &ANSWERS }) }
    })?;
    disk(&files, SYSPREP_LABEL)
}

fn disk(files: &[SmallFile], label: &str) -> Result<File, VolumeError> {
    let files: Vec<_> =
        files.iter().map(|file| IsoFile { path: &file.path, content: &file.content, mode: file.mode }).collect();
    sealed(&image(label, &files)?).map_err(VolumeError::Made)
}
