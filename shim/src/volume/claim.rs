//! Claims: volumes that a pod shares with others, mounted into its container.
//!
//! The kubelet has chosen where a claim is; what lies in it is whoever's. So the claim's root is taken by the kubelet's
//! word, and everything below it opened as an image's files are, and with the rights of the pod's user.

use std::fs::File;
use std::path::Path;

use oci_spec::runtime::{Process, Spec};
use vireo_runtimeclass::pod::{CLAIM_IMAGE, CLAIMS_DIR};

use super::{ImageRoot, Purpose, VolumeError};
use crate::launch::Identity;

/// Opens the disk image in the claim that is mounted for the volume `name`, as `uid` and `gid`.
pub fn claim_image(oci: &Spec, (uid, gid): (u32, u32), name: &str, purpose: Purpose) -> Result<File, VolumeError> {
    let place = Path::new(CLAIMS_DIR).join(name);
    let mounts = oci.mounts().iter().flatten();
    let source =
        mounts.filter(|mount| *mount.destination() == place).filter_map(|mount| mount.source().as_deref()).next_back();
    let source = source.ok_or_else(|| VolumeError::NoClaim { place: place.display().to_string() })?;
    let root = ImageRoot::open(source)?;
    let user = oci.process().as_ref().map(Process::user);
    let groups = user.and_then(|user| user.additional_gids().clone()).unwrap_or_default();
    let identity = Identity { uid, gid, groups };
    let opened = identity.with(|| root.file(CLAIM_IMAGE, purpose));
    let opened = opened.map_err(|source| VolumeError::Open { path: place.display().to_string(), source })?;
    opened.map_err(|error| VolumeError::Claim { place: place.display().to_string(), source: Box::new(error) })
}
