//! The machine's disks: those that the spec lists, then its volumes that no disk names, each as a virtio disk. With no
//! spec, the image's containerDisk.

use std::fs::File;
use std::os::unix::fs::FileExt;

use vireo_runtimeclass::kubevirt::v1::{Disk, VirtualMachineInstanceSpec, Volume};
use vireo_vmm::config::DiskConfig;

use super::{Fds, FileSource, TranslateError};
use crate::volume::{ImageRoot, Purpose, open_local};

/// Name of the disk that nobody named.
const DEFAULT_NAME: &str = "containerdisk";

pub(super) fn disks(
    spec: Option<&VirtualMachineInstanceSpec>,
    files: &FileSource<'_>,
    fds: &mut Fds,
) -> Result<Vec<DiskConfig>, TranslateError> {
    let spec = match (spec, files) {
        (Some(spec), _) => spec,
        (None, FileSource::Image(root)) => {
            let image = fds.add(open_container_disk(root, None, DEFAULT_NAME, Purpose::Disk)?)?;
            return Ok(vec![DiskConfig { name: DEFAULT_NAME.to_owned(), image, readonly: false, serial: None }]);
        }
        (None, FileSource::Local(_)) => return Ok(Vec::new()),
    };
    let listed = &spec.domain.devices.disks;
    let unlisted = spec.volumes.iter().filter(|volume| !listed.iter().any(|disk| disk.name == volume.name));
    let unlisted = unlisted.map(|volume| Disk { name: volume.name.clone(), ..Disk::default() });
    let all = listed.iter().cloned().chain(unlisted);
    all.map(|disk| {
        let readonly = disk.disk.as_ref().and_then(|target| target.readonly).unwrap_or(false);
        let purpose = if readonly { Purpose::ReadOnlyDisk } else { Purpose::Disk };
        // Validation has joined them; a disk without a volume can't come here.
        let found = spec.volumes.iter().enumerate().find(|(_, volume)| volume.name == disk.name);
        let Some((index, volume)) = found else {
            let path = files.field(&format!("domain.devices.disks: {}", disk.name));
            return Err(TranslateError::Field { path, what: "has no volume" });
        };
        let image = open_volume(index, volume, files, purpose)?;
        Ok(DiskConfig { image: fds.add(image)?, name: disk.name, readonly, serial: disk.serial })
    })
    .collect()
}

fn open_volume(
    index: usize,
    volume: &Volume,
    files: &FileSource<'_>,
    purpose: Purpose,
) -> Result<File, TranslateError> {
    let refuse =
        |source: &str, what| TranslateError::Field { path: files.field(&format!("volumes[{index}].{source}")), what };
    match (volume, files) {
        (Volume { container_disk: Some(disk), .. }, FileSource::Image(root)) => {
            open_container_disk(root, disk.path.as_deref(), &volume.name, purpose)
        }
        (Volume { host_disk: Some(disk), .. }, FileSource::Local(folder)) => {
            open_local(&folder.join(&disk.path), purpose)
                .map_err(|source| TranslateError::Disk { name: volume.name.clone(), source })
        }
        (Volume { container_disk: Some(_), .. }, FileSource::Local(_)) => {
            Err(refuse("containerDisk", "vireo run pulls no images; use hostDisk with a file of this machine"))
        }
        // A file of the node is not for whoever may write a pod.
        _ => Err(refuse("hostDisk", "not supported by vireo in a pod; vireo run takes it")),
    }
}

fn open_container_disk(
    root: &ImageRoot,
    path: Option<&str>,
    name: &str,
    purpose: Purpose,
) -> Result<File, TranslateError> {
    let open = || match path {
        Some(path) => root.file(path, purpose),
        None => root.file(&root.container_disk()?, purpose),
    };
    open().map_err(|source| TranslateError::Disk { name: name.to_owned(), source })
}

/// Whether a disk's first sectors hold a partition table: a GPT header, or an MBR whose entries make sense (a file
/// system's boot sector carries the same signature).
pub(super) fn is_partitioned(fds: &Fds, disk: &DiskConfig) -> bool {
    let Some(fd) = fds.0.get(usize::from(disk.image.0)) else { return false };
    let mut sectors = [0; 1024];
    let read = fd.try_clone().and_then(|fd| File::from(fd).read_at(&mut sectors, 0));
    read.is_ok() && has_partition_table(&sectors)
}

fn has_partition_table(sectors: &[u8; 1024]) -> bool {
    if &sectors[512..520] == b"EFI PART" {
        return true;
    }
    let mut entries = sectors[446..510].chunks_exact(16);
    let sane = entries.clone().all(|entry| matches!(entry[0], 0 | 0x80));
    sectors[510..512] == [0x55, 0xaa] && sane && entries.any(|entry| entry[4] != 0)
}
