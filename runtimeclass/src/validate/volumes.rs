//! Rules on volumes.

use std::collections::HashSet;

use super::storage::{MAX_DISKS, name};
use super::{Rules, cloud_init};
use crate::kubevirt::v1::{HostDisk, LocalReference, SysprepVolume, VirtualMachineInstanceSpec, Volume, VolumeSource};

/// Sizes that a disk which is made may have, bytes: what guests find room on, and what file systems can hold.
pub(crate) const DISK_SIZE: std::ops::RangeInclusive<u64> = 1 << 20..=64 << 40;
/// The longest name of a file system, bytes (ECMA-119 8.4.7).
const MAX_LABEL: usize = 32;

pub(super) fn check(spec: &VirtualMachineInstanceSpec, rules: &mut Rules<'_>) {
    let mut names = HashSet::new();
    for (index, volume) in spec.volumes.iter().enumerate() {
        let at = format!("volumes[{index}]");
        name(&volume.name, &at, &mut names, rules);
        sources(volume, &at, rules);
    }
    if spec.volumes.len() > MAX_DISKS {
        rules.refuse("volumes", format!("{} volumes; a machine has room for {MAX_DISKS}", spec.volumes.len()));
    }
    if spec.volumes.iter().filter(|volume| volume.service_account.is_some()).count() > 1 {
        rules.refuse("volumes", "more than one is a serviceAccount; a pod has one");
    }
}

/// A volume has one source, and that is sound.
fn sources(volume: &Volume, at: &str, rules: &mut Rules<'_>) {
    match volume.sources().count() {
        0 => rules.refuse(at, "has no source; persistentVolumeClaim, for one"),
        1 => {}
        _ => rules.refuse(at, "has more than one source"),
    }
    // Some names of volumes are names of folders and devices.
    if volume.name.contains('/') || matches!(volume.name.as_str(), "." | "..") {
        rules.refuse(format_args!("{at}.name"), format!("{:?} can't be the name of a volume", volume.name));
    }
    for source in volume.sources() {
        self::source(source, &format!("{at}.{}", source.field()), rules);
    }
}

fn source(source: VolumeSource<'_>, at: &str, rules: &mut Rules<'_>) {
    let mut given = |name: &str, field: &str| {
        if name.is_empty() {
            rules.refuse(format_args!("{at}.{field}"), "empty");
        }
    };
    match source {
        VolumeSource::ContainerDisk(disk) => {
            if disk.path.as_deref().is_some_and(|path| !path.starts_with('/')) {
                rules.refuse(format_args!("{at}.path"), "must be absolute");
            }
        }
        VolumeSource::HostDisk(disk) => host_disk(disk, at, rules),
        VolumeSource::PersistentVolumeClaim(claim) => given(&claim.claim_name, "claimName"),
        VolumeSource::DataVolume(volume) => given(&volume.name, "name"),
        VolumeSource::Ephemeral(ephemeral) => match &ephemeral.persistent_volume_claim {
            None => rules.refuse(format_args!("{at}.persistentVolumeClaim"), "missing"),
            Some(claim) => given(&claim.claim_name, "persistentVolumeClaim.claimName"),
        },
        VolumeSource::EmptyDisk(disk) => {
            if !DISK_SIZE.contains(&disk.capacity.value()) {
                let what = format!("{} bytes; an empty disk has 1Mi to 64Ti", disk.capacity.value());
                rules.refuse(format_args!("{at}.capacity"), what);
            }
        }
        VolumeSource::CloudInitNoCloud(seed) | VolumeSource::CloudInitConfigDrive(seed) => {
            cloud_init::check(seed, at, rules);
        }
        VolumeSource::ConfigMap(volume) => {
            given(&volume.name, "name");
            label(volume.volume_label.as_deref(), at, rules);
        }
        VolumeSource::Secret(volume) => {
            given(&volume.secret_name, "secretName");
            label(volume.volume_label.as_deref(), at, rules);
        }
        VolumeSource::DownwardApi(volume) => label(volume.volume_label.as_deref(), at, rules),
        VolumeSource::ServiceAccount(volume) => given(&volume.service_account_name, "serviceAccountName"),
        VolumeSource::Sysprep(SysprepVolume { secret, config_map }) => {
            let named = |reference: &Option<LocalReference>| reference.as_ref().is_some_and(|one| !one.name.is_empty());
            if named(secret) == named(config_map) {
                rules.refuse(at, "needs the name of a configMap or of a secret, one of the two");
            }
        }
    }
}

fn host_disk(disk: &HostDisk, at: &str, rules: &mut Rules<'_>) {
    if disk.path.rsplit('/').next().is_none_or(|name| matches!(name, "" | "." | "..")) {
        rules.refuse(format_args!("{at}.path"), format!("{:?} names no file", disk.path));
    }
    match (disk.kind.as_str(), &disk.capacity) {
        ("Disk" | "DiskOrCreate", None) => {}
        ("Disk", Some(_)) => rules.refuse(format_args!("{at}.capacity"), "is for type DiskOrCreate; leave it out"),
        ("DiskOrCreate", Some(capacity)) if DISK_SIZE.contains(&capacity.value()) => {}
        ("DiskOrCreate", Some(capacity)) => {
            rules.refuse(format_args!("{at}.capacity"), format!("{} bytes; a disk has 1Mi to 64Ti", capacity.value()));
        }
        (other, _) => {
            let what = format!("{other:?} is not supported by vireo; Disk and DiskOrCreate are");
            rules.refuse(format_args!("{at}.type"), what);
        }
    }
}

/// The name of a file system, as a guest is to find it.
fn label(label: Option<&str>, at: &str, rules: &mut Rules<'_>) {
    let Some(label) = label else { return };
    if label.len() > MAX_LABEL || !label.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        let what = format!("{label:?} is not supported by vireo; at most {MAX_LABEL} characters of ASCII are");
        rules.refuse(format_args!("{at}.volumeLabel"), what);
    }
}
