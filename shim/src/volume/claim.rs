//! Claims: volumes that a pod shares with others, mounted into its container.
//!
//! The kubelet has chosen where a claim is; what lies in it is whoever's. So the claim's root is taken by the kubelet's
//! word, and everything below it opened as an image's files are, and with the rights of the pod's user.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use oci_spec::runtime::{Process, Spec};
use vireo_runtimeclass::pod::{CLAIM_IMAGE, CLAIMS_DIR, VARIABLES_DIR, VARIABLES_FILE};
use vireo_vmm::disk::lock::lock;

use super::{ImageRoot, Purpose, VolumeError};
use crate::launch::Identity;

/// No file of variables is larger: a flash has 16 MiB at most.
pub const MAX_VARIABLES: u64 = 16 << 20;
/// Bytes of a file of variables without which it isn't one: a firmware volume's header is among them.
const BEGINNING: usize = 64;

/// Opens the disk image in the claim that is mounted for the volume `name`, as `uid` and `gid`.
pub fn claim_image(oci: &Spec, ids: (u32, u32), name: &str, purpose: Purpose) -> Result<File, VolumeError> {
    in_claim(oci, ids, &Path::new(CLAIMS_DIR).join(name), |root| root.file(CLAIM_IMAGE, purpose))
}

/// Opens the EFI variables in the claim with the machine's state, as `uid` and `gid`; made of `template` where there are none.
/// They are locked as long as the file is open.
pub fn claim_variables(oci: &Spec, ids: (u32, u32), template: &File) -> Result<File, VolumeError> {
    in_claim(oci, ids, Path::new(VARIABLES_DIR), |root| {
        let path = || VARIABLES_FILE.to_owned();
        let file = root.state(VARIABLES_FILE)?;
        lock(&file, false).map_err(|source| VolumeError::Locked { path: path(), source })?;
        fill(&file, template).map_err(|source| VolumeError::Open { path: path(), source })?;
        Ok(file)
    })
}

/// Does `open` in the claim that is mounted at `place`.
fn in_claim(
    oci: &Spec,
    (uid, gid): (u32, u32),
    place: &Path,
    open: impl FnOnce(&ImageRoot) -> Result<File, VolumeError> + Send,
) -> Result<File, VolumeError> {
    let mounts = oci.mounts().iter().flatten();
    let source =
        mounts.filter(|mount| *mount.destination() == place).filter_map(|mount| mount.source().as_deref()).next_back();
    let source = source.ok_or_else(|| VolumeError::NoClaim { place: place.display().to_string() })?;
    let root = ImageRoot::open(source)?;
    let user = oci.process().as_ref().map(Process::user);
    let groups = user.and_then(|user| user.additional_gids().clone()).unwrap_or_default();
    let opened = Identity { uid, gid, groups }.with(|| open(&root));
    let opened = opened.map_err(|source| VolumeError::Open { path: place.display().to_string(), source })?;
    opened.map_err(|error| VolumeError::Claim { place: place.display().to_string(), source: Box::new(error) })
}

/// Makes `file` a copy of `template`, unless it has a beginning: that is written last, so that a copy which was cut short is
/// made again.
fn fill(file: &File, template: &File) -> io::Result<()> {
    let mut start = [0; BEGINNING];
    if file.read_at(&mut start, 0)? > 0 && start != [0; BEGINNING] {
        return Ok(());
    }
    let size = template.metadata()?.len();
    let mut content = Vec::new();
    template.take(MAX_VARIABLES + 1).read_to_end(&mut content)?;
    if content.len() as u64 != size || size > MAX_VARIABLES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "the node's EFI variables are more than any flash has",
        ));
    }
    let (start, rest) = content.split_at(content.len().min(BEGINNING));
    file.set_len(size)?;
    file.write_all_at(rest, start.len() as u64)?;
    file.sync_all()?;
    file.write_all_at(start, 0)?;
    file.sync_all()
}
