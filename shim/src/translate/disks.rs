//! The machine's disks: those that the spec lists, then its volumes that no disk names, each as a virtio disk. With no
//! spec, the image's containerDisk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use uuid::Uuid;
use vireo_runtimeclass::kubevirt::v1::{BlockSize as SpecBlockSize, CloudInitNoCloud, Disk, Volume};
use vireo_vmm::config::{BlockSize, CacheMode, DiskConfig, ErrorPolicy, ImageFormat, JailConfig, MAX_QUEUES};

use super::{Fds, FileSource, Place, Source, TranslateError, pod_identity};
use crate::volume::{
    ImageRoot, Purpose, Seed, VolumeError, block_sizes, claim_image, is_named_qcow2, local_scratch, open_local,
    refuse_other_formats,
};

/// Name of the disk that nobody named.
const DEFAULT_NAME: &str = "containerdisk";

pub(super) fn disks(
    source: &Source<'_>,
    files: &FileSource<'_>,
    (vcpus, uuid): (u32, Uuid),
    fds: &mut Fds,
) -> Result<Vec<DiskConfig>, TranslateError> {
    let spec = match (source.spec, files) {
        (Some(spec), _) => spec,
        (None, FileSource::Image(root)) => {
            let opened = open_container_disk(root, None, DEFAULT_NAME, false)?;
            return Ok(vec![opened.into_config(DEFAULT_NAME, fds)?]);
        }
        (None, FileSource::Local(_)) => return Ok(Vec::new()),
    };
    let listed = &spec.domain.devices.disks;
    let multi_queue = spec.domain.devices.block_multi_queue.unwrap_or(false);
    let queues = if multi_queue { u16::try_from(vcpus).unwrap_or(MAX_QUEUES).clamp(1, MAX_QUEUES) } else { 1 };
    let unlisted = spec.volumes.iter().filter(|volume| !listed.iter().any(|disk| disk.name == volume.name));
    let unlisted = unlisted.map(|volume| Disk { name: volume.name.clone(), ..Disk::default() });
    let all = listed.iter().cloned().chain(unlisted);
    all.map(|disk| {
        // Validation has joined them; a disk without a volume can't come here.
        let found = spec.volumes.iter().enumerate().find(|(_, volume)| volume.name == disk.name);
        let Some((index, volume)) = found else {
            let path = files.field(&format!("domain.devices.disks: {}", disk.name));
            return Err(TranslateError::Field { path, what: "has no volume" });
        };
        let readonly = disk.is_readonly() || volume.cloud_init_no_cloud.is_some();
        let opened = match &volume.cloud_init_no_cloud {
            Some(seed) => make_seed(seed, &volume.name, (source.name, uuid))?,
            None => open_volume((index, volume), &source.place, files, readonly)?,
        };
        let block_size = block_size(&disk, &opened.image)?;
        Ok(DiskConfig {
            readonly,
            serial: disk.serial,
            shareable: disk.shareable.unwrap_or(false),
            cache: cache(disk.cache.as_deref()),
            queues,
            block_size,
            on_error: error_policy(disk.error_policy.as_deref()),
            ring: disk.io.as_deref() != Some("threads"),
            ..opened.into_config(&disk.name, fds)?
        })
    })
    .collect()
}

/// Validation lets no other words through.
fn cache(word: Option<&str>) -> CacheMode {
    match word {
        Some("writethrough") => CacheMode::Writethrough,
        Some("writeback") => CacheMode::Writeback,
        _ => CacheMode::None,
    }
}

fn error_policy(word: Option<&str>) -> ErrorPolicy {
    match word {
        Some("ignore") => ErrorPolicy::Ignore,
        Some("report") => ErrorPolicy::Report,
        Some("enospace") => ErrorPolicy::StopOnNoSpace,
        _ => ErrorPolicy::Stop,
    }
}

fn block_size(disk: &Disk, image: &File) -> Result<BlockSize, TranslateError> {
    match &disk.block_size {
        Some(SpecBlockSize { custom: Some(custom), .. }) => {
            Ok(BlockSize { logical: custom.logical, physical: custom.physical })
        }
        Some(SpecBlockSize { match_volume: Some(state), .. }) if state.is_enabled() => {
            let (logical, physical) = block_sizes(image).map_err(|source| {
                let source = VolumeError::Open { path: disk.name.clone(), source };
                TranslateError::Disk { name: disk.name.clone(), source }
            })?;
            Ok(BlockSize { logical, physical })
        }
        _ => Ok(BlockSize::default()),
    }
}

/// What a volume became.
struct Opened {
    image: File,
    format: ImageFormat,
    /// Takes the guest's writes where the image is not to.
    overlay: Option<File>,
}

impl Opened {
    fn into_config(self, name: &str, fds: &mut Fds) -> Result<DiskConfig, TranslateError> {
        let image = fds.add(self.image)?;
        let overlay = self.overlay.map(|overlay| fds.add(overlay)).transpose()?;
        let (format, cache, on_error) = (self.format, cache(None), error_policy(None));
        Ok(DiskConfig { format, overlay, cache, on_error, ..DiskConfig::new(name, image) })
    }
}

fn open_volume(
    (index, volume): (usize, &Volume),
    place: &Place<'_>,
    files: &FileSource<'_>,
    readonly: bool,
) -> Result<Opened, TranslateError> {
    let refuse =
        |source: &str, what| TranslateError::Field { path: files.field(&format!("volumes[{index}].{source}")), what };
    let fail = |source| TranslateError::Disk { name: volume.name.clone(), source };
    match (volume, place, files) {
        (Volume { container_disk: Some(disk), .. }, _, FileSource::Image(root)) => {
            open_container_disk(root, disk.path.as_deref(), &volume.name, readonly)
        }
        (Volume { container_disk: Some(_), .. }, _, FileSource::Local(_)) => {
            Err(refuse("containerDisk", "vireo run pulls no images; use hostDisk with a file of this machine"))
        }
        (Volume { host_disk: Some(disk), .. }, Place::Local { folder, ephemeral, .. }, _) => {
            let forget = ephemeral.contains(&volume.name);
            open_host_disk(&folder.join(&disk.path), readonly, forget).map_err(fail)
        }
        // A file of the node is not for whoever may write a pod.
        (Volume { host_disk: Some(_), .. }, ..) => {
            Err(refuse("hostDisk", "not supported by vireo in a pod; vireo run takes it"))
        }
        (Volume { empty_disk: Some(disk), .. }, ..) => empty_disk(files, disk.capacity.value()).map_err(fail),
        (_, Place::Pod { oci, .. }, FileSource::Image(root)) => {
            let JailConfig { uid, gid } = pod_identity(oci);
            let open = || {
                let image = claim_image(oci, (uid, gid), &volume.name, Purpose::ReadOnlyDisk)?;
                let overlay = if readonly { None } else { Some(root.scratch()?) };
                Ok(Opened { image, format: ImageFormat::Detect, overlay })
            };
            open().map_err(fail)
        }
        _ => Err(refuse("ephemeral", "vireo run knows no claims; use hostDisk, and vireo run --ephemeral")),
    }
}

/// The disk that cloud-init reads: made here, and written to by nobody.
fn make_seed(seed: &CloudInitNoCloud, volume: &str, (name, instance): (&str, Uuid)) -> Result<Opened, TranslateError> {
    let failed = |error: io::Error| TranslateError::Disk { name: volume.to_owned(), source: VolumeError::Made(error) };
    // Validation has decoded them before.
    let user_data = seed.user_data().map_err(io::Error::other).map_err(failed)?.unwrap_or_default();
    let network_data = seed.network_data().map_err(io::Error::other).map_err(failed)?;
    let seed = Seed { instance, name, user_data: &user_data, network_data: network_data.as_deref() };
    Ok(Opened { image: seed.disk().map_err(failed)?, format: ImageFormat::Raw, overlay: None })
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

/// An admin's own file, raw unless its name says qcow2: a guest writes to it, and could make it look like either. With
/// `forget`, what the guest writes is gone with the machine.
fn open_host_disk(path: &Path, readonly: bool, forget: bool) -> Result<Opened, VolumeError> {
    let image = open_local(path, if readonly || forget { Purpose::ReadOnlyDisk } else { Purpose::Disk })?;
    let format = if is_named_qcow2(path) { ImageFormat::Qcow2 } else { ImageFormat::Raw };
    if format == ImageFormat::Raw {
        refuse_other_formats(&image, path)?;
    }
    let overlay = if forget && !readonly { Some(local_scratch()?) } else { None };
    Ok(Opened { image, format, overlay })
}

/// A file of the image, which no guest ever writes to: so its content may say what it is, and what the guest writes goes
/// to an overlay.
fn open_container_disk(
    root: &ImageRoot,
    path: Option<&str>,
    name: &str,
    readonly: bool,
) -> Result<Opened, TranslateError> {
    let open = || {
        let image = match path {
            Some(path) => root.file(path, Purpose::ReadOnlyDisk),
            None => root.file(&root.container_disk()?, Purpose::ReadOnlyDisk),
        }?;
        let overlay = if readonly { None } else { Some(root.scratch()?) };
        Ok(Opened { image, format: ImageFormat::Detect, overlay })
    };
    open().map_err(|source| TranslateError::Disk { name: name.to_owned(), source })
}

/// Whether a disk's first sectors hold a partition table: a GPT header, or an MBR whose entries make sense (a file
/// system's boot sector carries the same signature). A qcow2 image, which is not read here, is taken to have one: what is
/// published as qcow2 does.
pub(super) fn is_partitioned(fds: &Fds, disk: &DiskConfig) -> bool {
    let Some(fd) = fds.0.get(usize::from(disk.image.0)) else { return false };
    let mut sectors = [0; 1024];
    let read = fd.try_clone().and_then(|fd| File::from(fd).read_at(&mut sectors, 0));
    let qcow2 = disk.format != ImageFormat::Raw && sectors.starts_with(b"QFI\xfb");
    read.is_ok() && (qcow2 || has_partition_table(&sectors))
}

fn has_partition_table(sectors: &[u8; 1024]) -> bool {
    if &sectors[512..520] == b"EFI PART" {
        return true;
    }
    let mut entries = sectors[446..510].chunks_exact(16);
    let sane = entries.clone().all(|entry| matches!(entry[0], 0 | 0x80));
    sectors[510..512] == [0x55, 0xaa] && sane && entries.any(|entry| entry[4] != 0)
}
