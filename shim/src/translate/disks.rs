//! The machine's disks: those that the spec lists, then its volumes that no disk names, each as a virtio disk. With no
//! spec, the image's containerDisk.

use std::fs::File;
use std::os::unix::fs::FileExt;

use uuid::Uuid;
use vireo_runtimeclass::kubevirt::v1::{BlockSize as SpecBlockSize, Disk, Volume};
use vireo_vmm::config::{BlockSize, CacheMode, DiskConfig, ErrorPolicy, ImageFormat, MAX_QUEUES};

use super::volumes::{self, open_container_disk};
use super::{Fds, FileSource, Place, Source, TranslateError};
use crate::volume::{VolumeError, block_sizes};

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
            let opened = open_container_disk(root, None, false);
            let opened = opened.map_err(|source| TranslateError::Disk { name: DEFAULT_NAME.to_owned(), source })?;
            return Ok(vec![opened.into_config(DEFAULT_NAME, fds)?]);
        }
        (None, FileSource::Local(_)) => return Ok(Vec::new()),
    };
    if let Place::Pod { claims, .. } = source.place {
        let is_claim = |volume: &Volume| volume.persistent_volume_claim.is_some() || volume.data_volume.is_some();
        let known = |name: &&String| spec.volumes.iter().any(|volume| volume.name == **name && is_claim(volume));
        if let Some(unknown) = claims.0.keys().find(|name| !known(name)) {
            return Err(TranslateError::NoSuchClaim(unknown.clone()));
        }
    }
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
        let made = volume.sources().any(|source| source.is_made());
        let readonly = disk.is_readonly() || made || is_readonly(volume);
        let opened = volumes::open(source, files, uuid, (index, volume), readonly)?;
        // As guests look for it: /dev/disk/by-id/virtio-<name>.
        let serial = disk.serial.clone().or_else(|| made.then(|| serial(&volume.name)));
        let block_size = block_size(&disk, &opened.image)?;
        Ok(DiskConfig {
            readonly,
            serial,
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

/// Whether the claim itself is for reading.
fn is_readonly(volume: &Volume) -> bool {
    volume.persistent_volume_claim.as_ref().and_then(|claim| claim.read_only) == Some(true)
}

/// As much of a volume's name as a serial has room for (virtio 1.3 §5.2.6).
fn serial(name: &str) -> String {
    name.chars().filter(char::is_ascii_graphic).take(20).collect()
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
pub(super) struct Opened {
    pub(super) image: File,
    pub(super) format: ImageFormat,
    /// Takes the guest's writes where the image is not to.
    pub(super) overlay: Option<File>,
}

impl Opened {
    fn into_config(self, name: &str, fds: &mut Fds) -> Result<DiskConfig, TranslateError> {
        let image = fds.add(self.image)?;
        let overlay = self.overlay.map(|overlay| fds.add(overlay)).transpose()?;
        let (format, cache, on_error) = (self.format, cache(None), error_policy(None));
        Ok(DiskConfig { format, overlay, cache, on_error, ..DiskConfig::new(name, image) })
    }
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
