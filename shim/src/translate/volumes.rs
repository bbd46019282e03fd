//! From a volume to an open disk. Files of the node are opened where the kubelet has mounted them into the pod, or, by
//! `vireo run`, where its manifest says.

use std::path::Path;

use uuid::Uuid;
use vireo_runtimeclass::kubevirt::v1::{HostDisk, Volume, VolumeSource};
use vireo_runtimeclass::{Claims, Quantity};
use vireo_vmm::config::{ImageFormat, JailConfig};

use super::disks::Opened;
use super::{FileSource, Place, Source, TranslateError, pod_identity, small_disks};
use crate::volume::{
    ImageRoot, NewDisk, Purpose, VolumeError, claim_disk, host_disk, is_named_qcow2, local_scratch, open_local,
    open_or_make_local, refuse_other_formats,
};

/// Opens what a volume shows.
pub(super) fn open(
    source: &Source<'_>,
    files: &FileSource<'_>,
    uuid: Uuid,
    (index, volume): (usize, &Volume),
    readonly: bool,
) -> Result<Opened, TranslateError> {
    // Validation has seen to it that there is one.
    let Some(shown) = volume.sources().next() else {
        return Err(TranslateError::Field { path: files.field(&format!("volumes[{index}]")), what: "has no source" });
    };
    let path = files.field(&format!("volumes[{index}].{}", shown.field()));
    let refuse = |what| TranslateError::Field { path: path.clone(), what };
    let fail = |source| TranslateError::Volume { path: path.clone(), source };
    if shown.is_made() {
        let image = small_disks::make(source, uuid, (&volume.name, shown), &path)?;
        return Ok(Opened { image, format: ImageFormat::Raw, overlay: None });
    }
    match (shown, source.place, files) {
        (VolumeSource::ContainerDisk(disk), _, FileSource::Image(root)) => {
            open_container_disk(root, disk.path.as_deref(), readonly).map_err(fail)
        }
        (VolumeSource::ContainerDisk(_), ..) => {
            Err(refuse("vireo run pulls no images; use hostDisk with a file of this machine"))
        }
        (VolumeSource::EmptyDisk(disk), ..) => empty_disk(files, disk.capacity.value()).map_err(fail),
        (VolumeSource::HostDisk(disk), Place::Local { folder, ephemeral, .. }, _) => {
            let forget = ephemeral.contains(&volume.name);
            local_disk(disk, &folder.join(&disk.path), readonly, forget).map_err(fail)
        }
        (_, Place::Local { .. }, _) => {
            Err(refuse("vireo run knows no claims; use hostDisk, and vireo run --ephemeral"))
        }
        (shown, Place::Pod { oci, claims, .. }, FileSource::Image(root)) => {
            let JailConfig { uid, gid } = pod_identity(oci);
            let purpose = if readonly { Purpose::ReadOnlyDisk } else { Purpose::Disk };
            let name = volume.name.as_str();
            let open = || match shown {
                VolumeSource::HostDisk(disk) => {
                    // As KubeVirt's pods, whose mount is the folder that the file is in.
                    let file = disk.path.rsplit('/').next().unwrap_or_default();
                    let new = if readonly { None } else { new_disk(disk) };
                    let image = host_disk(oci, (uid, gid), (name, file), (purpose, new))?;
                    own(image, Path::new(file), is_named_qcow2(Path::new(file)))
                }
                VolumeSource::Ephemeral(_) => {
                    let claim = claim_disk(oci, (uid, gid), name, (Purpose::ReadOnlyDisk, None))?;
                    let overlay = if readonly { None } else { Some(root.scratch()?) };
                    let format = if claim.is_device { ImageFormat::Raw } else { ImageFormat::Detect };
                    Ok(Opened { image: claim.image, format, overlay })
                }
                _ => {
                    let new = if readonly { None } else { Some(new_image(claims, name)) };
                    own(claim_disk(oci, (uid, gid), name, (purpose, new))?.image, Path::new("disk"), false)
                }
            };
            open().map_err(fail)
        }
        (_, Place::Pod { .. }, FileSource::Local(_)) => Err(refuse("is a pod's")),
    }
}

/// A disk that the guest owns is what its name says: the guest writes to it, and could make it look like anything.
fn own(image: std::fs::File, path: &Path, qcow2: bool) -> Result<Opened, VolumeError> {
    if qcow2 {
        return Ok(Opened { image, format: ImageFormat::Qcow2, overlay: None });
    }
    refuse_other_formats(&image, path, "a guest's own disk has to be raw; qemu-img convert makes it so")?;
    Ok(Opened { image, format: ImageFormat::Raw, overlay: None })
}

/// What becomes of a host disk that isn't there; validation allows no third type.
fn new_disk(disk: &HostDisk) -> Option<NewDisk> {
    let capacity = disk.capacity.as_ref().map(Quantity::value);
    (disk.kind == "DiskOrCreate").then_some(NewDisk { capacity, preallocation: false })
}

/// What becomes of a claim without a disk image.
fn new_image(claims: &Claims, name: &str) -> NewDisk {
    let image = claims.0.get(name).cloned().unwrap_or_default();
    let capacity = image.capacity.as_ref().map(Quantity::value);
    NewDisk { capacity, preallocation: image.preallocation.unwrap_or(false) }
}

/// A new disk, of which only what the guest writes takes space.
fn empty_disk(files: &FileSource<'_>, capacity: u64) -> Result<Opened, VolumeError> {
    let (image, place) = match files {
        FileSource::Image(root) => (root.scratch()?, "the container's file system"),
        FileSource::Local(_) => (local_scratch()?, "this machine's file system"),
    };
    let size = capacity.next_multiple_of(4096);
    image.set_len(size).map_err(|source| VolumeError::Size { size, place: place.to_owned(), source })?;
    Ok(Opened { image, format: ImageFormat::Raw, overlay: None })
}

/// An admin's own file. With `forget`, what the guest writes is gone with the machine.
fn local_disk(disk: &HostDisk, path: &Path, readonly: bool, forget: bool) -> Result<Opened, VolumeError> {
    let image = match new_disk(disk) {
        Some(new) if !readonly && !forget => open_or_make_local(path, new)?,
        _ => open_local(path, if readonly || forget { Purpose::ReadOnlyDisk } else { Purpose::Disk })?,
    };
    let qcow2 = is_named_qcow2(path);
    if !qcow2 {
        refuse_other_formats(&image, path, "if it is one, let its name end in .qcow2")?;
    }
    let format = if qcow2 { ImageFormat::Qcow2 } else { ImageFormat::Raw };
    let overlay = if forget && !readonly { Some(local_scratch()?) } else { None };
    Ok(Opened { image, format, overlay })
}

/// A file of the image, which no guest ever writes to: so its content may say what it is, and what the guest writes goes
/// to an overlay.
pub(super) fn open_container_disk(root: &ImageRoot, path: Option<&str>, readonly: bool) -> Result<Opened, VolumeError> {
    let image = match path {
        Some(path) => root.file(path, Purpose::ReadOnlyDisk),
        None => root.file(&root.container_disk()?, Purpose::ReadOnlyDisk),
    }?;
    let overlay = if readonly { None } else { Some(root.scratch()?) };
    Ok(Opened { image, format: ImageFormat::Detect, overlay })
}
