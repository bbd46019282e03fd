//! A volume's one source, told apart.

use super::{
    ClaimSource, CloudInit, ConfigMapVolume, ContainerDiskSource, DataVolumeSource, DownwardApiVolume, EmptyDiskSource,
    EphemeralSource, HostDisk, SecretVolume, ServiceAccountVolume, SysprepVolume, Volume,
};

/// What a volume shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of Volume say what they are")]
pub enum VolumeSource<'a> {
    ContainerDisk(&'a ContainerDiskSource),
    HostDisk(&'a HostDisk),
    PersistentVolumeClaim(&'a ClaimSource),
    DataVolume(&'a DataVolumeSource),
    Ephemeral(&'a EphemeralSource),
    EmptyDisk(&'a EmptyDiskSource),
    CloudInitNoCloud(&'a CloudInit),
    CloudInitConfigDrive(&'a CloudInit),
    ConfigMap(&'a ConfigMapVolume),
    Secret(&'a SecretVolume),
    DownwardApi(&'a DownwardApiVolume),
    ServiceAccount(&'a ServiceAccountVolume),
    Sysprep(&'a SysprepVolume),
}

impl VolumeSource<'_> {
    /// The field's name.
    pub fn field(&self) -> &'static str {
        match self {
            Self::ContainerDisk(_) => "containerDisk",
            Self::HostDisk(_) => "hostDisk",
            Self::PersistentVolumeClaim(_) => "persistentVolumeClaim",
            Self::DataVolume(_) => "dataVolume",
            Self::Ephemeral(_) => "ephemeral",
            Self::EmptyDisk(_) => "emptyDisk",
            Self::CloudInitNoCloud(_) => "cloudInitNoCloud",
            Self::CloudInitConfigDrive(_) => "cloudInitConfigDrive",
            Self::ConfigMap(_) => "configMap",
            Self::Secret(_) => "secret",
            Self::DownwardApi(_) => "downwardAPI",
            Self::ServiceAccount(_) => "serviceAccount",
            Self::Sysprep(_) => "sysprep",
        }
    }

    /// Whether its disk is made here of small files: nobody writes to it.
    pub fn is_made(&self) -> bool {
        matches!(
            self,
            Self::CloudInitNoCloud(_)
                | Self::CloudInitConfigDrive(_)
                | Self::ConfigMap(_)
                | Self::Secret(_)
                | Self::DownwardApi(_)
                | Self::ServiceAccount(_)
                | Self::Sysprep(_)
        )
    }
}

impl Volume {
    /// Its sources; a valid volume has one.
    pub fn sources(&self) -> impl Iterator<Item = VolumeSource<'_>> {
        let Self {
            name: _,
            container_disk,
            host_disk,
            persistent_volume_claim,
            data_volume,
            ephemeral,
            empty_disk,
            cloud_init_no_cloud,
            cloud_init_config_drive,
            config_map,
            secret,
            downward_api,
            service_account,
            sysprep,
        } = self;
        [
            container_disk.as_ref().map(VolumeSource::ContainerDisk),
            host_disk.as_ref().map(VolumeSource::HostDisk),
            persistent_volume_claim.as_ref().map(VolumeSource::PersistentVolumeClaim),
            data_volume.as_ref().map(VolumeSource::DataVolume),
            ephemeral.as_ref().map(VolumeSource::Ephemeral),
            empty_disk.as_ref().map(VolumeSource::EmptyDisk),
            cloud_init_no_cloud.as_ref().map(VolumeSource::CloudInitNoCloud),
            cloud_init_config_drive.as_ref().map(VolumeSource::CloudInitConfigDrive),
            config_map.as_ref().map(VolumeSource::ConfigMap),
            secret.as_ref().map(VolumeSource::Secret),
            downward_api.as_ref().map(VolumeSource::DownwardApi),
            service_account.as_ref().map(VolumeSource::ServiceAccount),
            sysprep.as_ref().map(VolumeSource::Sysprep),
        ]
        .into_iter()
        .flatten()
    }
}
