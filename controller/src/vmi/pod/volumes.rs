//! What a pod mounts: each volume of its instance where the shim looks for it, which is where KubeVirt's pods have it.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource, HostPathVolumeSource, PersistentVolumeClaim,
    PersistentVolumeClaimVolumeSource, SecretVolumeSource, Volume, VolumeDevice, VolumeMount,
};
use vireo_runtimeclass::Claims;
use vireo_runtimeclass::claims::NewImage;
use vireo_runtimeclass::kubevirt::v1::{
    AccessCredential, CloudInit, HostDisk, LocalReference, VirtualMachineInstanceSpec, VolumeSource,
};
use vireo_runtimeclass::pod::{
    CLAIMS_DIR, CONFIG_MAPS_DIR, CREDENTIALS_SUFFIX, DOWNWARD_API_DIR, SECRETS_DIR, SYSPREP_DIR,
};

use super::{PodError, Source};

/// The longest name of a pod's volume.
const MAX_NAME: usize = 63;
/// CDI's note on a claim all of whose space is to be taken.
const PREALLOCATED: &str = "cdi.kubevirt.io/storage.preallocation";
/// The keys of a secret that cloud-init's data may be in.
const USER_DATA: [&str; 2] = ["userdata", "userData"];
const NETWORK_DATA: [&str; 2] = ["networkdata", "networkData"];

/// A pod's volumes, and where its container has them.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    pub(super) all: Vec<Volume>,
    pub(super) mounts: Vec<VolumeMount>,
    pub(super) devices: Vec<VolumeDevice>,
}

pub(super) fn volumes(source: &Source<'_>) -> Result<Volumes, PodError> {
    let machine = &source.spec.machine;
    let mut all = Volumes::default();
    for (index, volume) in machine.volumes.iter().enumerate() {
        for shown in volume.sources() {
            let path = || format!("spec.volumes[{index}].{}", shown.field());
            all.add(source, &volume.name, &shown, &path)?;
        }
    }
    all.credentials(&machine.access_credentials);
    let firmware = machine.domain.firmware.as_ref();
    let efi = firmware.and_then(|firmware| firmware.bootloader.as_ref()?.efi.as_ref());
    if efi.and_then(|efi| efi.persistent) == Some(true) {
        let what = "true is not supported by vireo's controller yet: nothing makes the claim for the variables";
        return Err(PodError::unsupported("spec.domain.firmware.bootloader.efi.persistent", what));
    }
    Ok(all)
}

/// Whom a pod acts as because of a volume.
pub(super) fn service_account(machine: &VirtualMachineInstanceSpec) -> Option<&str> {
    let mut accounts = machine.volumes.iter().filter_map(|volume| volume.service_account.as_ref());
    accounts.next().map(|account| account.service_account_name.as_str())
}

/// The name of the claim that a volume is, and whether the guest may write to it.
pub(in crate::vmi) fn claim<'a>(source: &VolumeSource<'a>) -> Option<(&'a str, bool)> {
    match source {
        VolumeSource::PersistentVolumeClaim(claim) => Some((&claim.claim_name, claim.read_only != Some(true))),
        VolumeSource::DataVolume(volume) => Some((&volume.name, true)),
        VolumeSource::Ephemeral(ephemeral) => {
            ephemeral.persistent_volume_claim.as_ref().map(|claim| (claim.claim_name.as_str(), false))
        }
        _ => None,
    }
}

/// What is to become of claims that have no disk image yet.
pub(super) fn new_images(source: &Source<'_>) -> Claims {
    let volumes = source.spec.machine.volumes.iter();
    let images =
        volumes.flat_map(|volume| volume.sources().map(move |shown| (volume, shown))).filter_map(|(volume, shown)| {
            let (name, writes) = claim(&shown)?;
            let claim = source.claims.get(name)?;
            let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
            let capacity = requests.get("storage")?.0.parse().ok()?;
            let annotations = claim.metadata.annotations.as_ref();
            let preallocation = annotations.and_then(|annotations| annotations.get(PREALLOCATED));
            let preallocation = preallocation.is_some_and(|word| word == "true").then_some(true);
            let image = NewImage { capacity: Some(capacity), preallocation };
            (writes && !is_block(claim)).then(|| (volume.name.clone(), image))
        });
    Claims(images.collect())
}

fn is_block(claim: &PersistentVolumeClaim) -> bool {
    claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()) == Some("Block")
}

impl Volumes {
    fn add(
        &mut self,
        source: &Source<'_>,
        name: &str,
        shown: &VolumeSource<'_>,
        path: &dyn Fn() -> String,
    ) -> Result<(), PodError> {
        if let Some((claim, _)) = claim(shown) {
            return self.claim(source, name, claim, shown);
        }
        match shown {
            VolumeSource::HostDisk(disk) => self.host_disk(name, disk),
            VolumeSource::ConfigMap(map) => {
                let volume = config_map(name, &map.name, map.optional);
                self.mount(volume, CONFIG_MAPS_DIR, name);
            }
            VolumeSource::Secret(wanted) => {
                self.mount(secret(name, &wanted.secret_name, wanted.optional), SECRETS_DIR, name);
            }
            VolumeSource::DownwardApi(wanted) => {
                let items = wanted.fields.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>();
                let items = items.and_then(|items| serde_json::from_value::<Vec<DownwardAPIVolumeFile>>(items.into()));
                let items = items.map_err(|error| PodError::unsupported(path(), error.to_string()))?;
                let downward_api = Some(DownwardAPIVolumeSource { items: Some(items), default_mode: None });
                self.mount(Volume { downward_api, ..named(name) }, DOWNWARD_API_DIR, name);
            }
            VolumeSource::Sysprep(wanted) => {
                let given = |reference: &Option<LocalReference>| {
                    reference.as_ref().map(|one| one.name.clone()).filter(|name| !name.is_empty())
                };
                let volume = match (given(&wanted.secret), given(&wanted.config_map)) {
                    (Some(wanted), _) => secret(name, &wanted, None),
                    (None, map) => config_map(name, &map.unwrap_or_default(), None),
                };
                self.mount(volume, SYSPREP_DIR, name);
            }
            VolumeSource::CloudInitNoCloud(seed) | VolumeSource::CloudInitConfigDrive(seed) => self.seed(name, seed),
            // Files of the image, of the container's own writable layer, and what the kubelet mounts in every pod.
            _ => {}
        }
        Ok(())
    }

    fn claim(
        &mut self,
        source: &Source<'_>,
        name: &str,
        claim_name: &str,
        shown: &VolumeSource<'_>,
    ) -> Result<(), PodError> {
        let claim = source.claims.get(claim_name).ok_or_else(|| PodError::NoClaim(claim_name.to_owned()))?;
        let read_only = match shown {
            VolumeSource::PersistentVolumeClaim(claim) => claim.read_only,
            VolumeSource::Ephemeral(ephemeral) => {
                ephemeral.persistent_volume_claim.as_ref().and_then(|claim| claim.read_only)
            }
            _ => None,
        };
        let of = PersistentVolumeClaimVolumeSource { claim_name: claim_name.to_owned(), read_only };
        self.all.push(Volume { persistent_volume_claim: Some(of), ..named(name) });
        if is_block(claim) {
            self.devices.push(VolumeDevice { name: name.to_owned(), device_path: format!("/dev/{name}") });
        } else {
            let mount_path = format!("{CLAIMS_DIR}/{name}");
            self.mounts.push(VolumeMount { name: name.to_owned(), mount_path, ..VolumeMount::default() });
        }
        Ok(())
    }

    fn host_disk(&mut self, name: &str, disk: &HostDisk) {
        let folder = disk.path.rsplit_once('/').map_or("/", |(folder, _)| if folder.is_empty() { "/" } else { folder });
        let type_ = if disk.kind == "DiskOrCreate" { "DirectoryOrCreate" } else { "Directory" };
        let of = HostPathVolumeSource { path: folder.to_owned(), type_: Some(type_.to_owned()) };
        self.all.push(Volume { host_path: Some(of), ..named(name) });
        let mount_path = format!("{CLAIMS_DIR}/{name}");
        self.mounts.push(VolumeMount { name: name.to_owned(), mount_path, ..VolumeMount::default() });
    }

    /// Mounts a volume of small files below `folder`.
    fn mount(&mut self, volume: Volume, folder: &str, below: &str) {
        let mount_path = format!("{folder}/{below}");
        let name = volume.name.clone();
        self.mounts.push(VolumeMount { name, mount_path, read_only: Some(true), ..VolumeMount::default() });
        self.all.push(volume);
    }

    /// Mounts what of a seed is in secrets: each key that it may be under as a file, since both secrets have one folder.
    fn seed(&mut self, name: &str, seed: &CloudInit) {
        for (reference, suffix, keys) in
            [(&seed.secret_ref, "-udata", USER_DATA), (&seed.network_data_secret_ref, "-ndata", NETWORK_DATA)]
        {
            let Some(reference) = reference.as_ref().filter(|reference| !reference.name.is_empty()) else { continue };
            let volume = volume_name(name, suffix, self.all.len());
            self.mounts.extend(keys.map(|key| VolumeMount {
                name: volume.clone(),
                mount_path: format!("{SECRETS_DIR}/{name}/{key}"),
                sub_path: Some(key.to_owned()),
                read_only: Some(true),
                ..VolumeMount::default()
            }));
            self.all.push(secret(&volume, &reference.name, None));
        }
    }

    fn credentials(&mut self, credentials: &[AccessCredential]) {
        let secrets = credentials.iter().filter_map(|credential| {
            let keys = credential.ssh_public_key.as_ref().map(|keys| &keys.source);
            let source = keys.or(credential.user_password.as_ref().map(|passwords| &passwords.source))?;
            source.secret.as_ref().map(|secret| secret.secret_name.as_str())
        });
        for wanted in secrets.collect::<BTreeSet<_>>() {
            let volume = volume_name(wanted, CREDENTIALS_SUFFIX, self.all.len());
            self.mount(secret(&volume, wanted, None), SECRETS_DIR, &format!("{wanted}{CREDENTIALS_SUFFIX}"));
        }
    }
}

/// KubeVirt's name of a pod's volume, where a volume can be called that.
fn volume_name(of: &str, suffix: &str, index: usize) -> String {
    let name = format!("{of}{suffix}");
    if name.len() <= MAX_NAME && !name.contains('.') { name } else { format!("volume-{index}{suffix}") }
}

fn named(name: &str) -> Volume {
    Volume { name: name.to_owned(), ..Volume::default() }
}

fn secret(name: &str, of: &str, optional: Option<bool>) -> Volume {
    let of = SecretVolumeSource { secret_name: Some(of.to_owned()), optional, ..SecretVolumeSource::default() };
    Volume { secret: Some(of), ..named(name) }
}

fn config_map(name: &str, of: &str, optional: Option<bool>) -> Volume {
    let of = ConfigMapVolumeSource { name: of.to_owned(), optional, ..ConfigMapVolumeSource::default() };
    Volume { config_map: Some(of), ..named(name) }
}
