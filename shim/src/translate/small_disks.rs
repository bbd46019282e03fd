//! Disks of small files, made here: what cloud-init and Windows' set-up read, and the files of ConfigMaps, Secrets and their
//! like. They hold what was mounted when the machine was made, and stay so as long as it is there (as in KubeVirt): a guest
//! that has a file system mounted would make nothing but nonsense of one that changes below it.

use std::fs::File;
use std::path::Path;

use oci_spec::runtime::Spec;
use uuid::Uuid;
use vireo_runtimeclass::kubevirt::v1::{CloudInit, LocalReference, NoBase64, SshPublicKeyPropagation, VolumeSource};
use vireo_runtimeclass::pod::{CONFIG_MAPS_DIR, DOWNWARD_API_DIR, SECRETS_DIR, SERVICE_ACCOUNT_DIR, SYSPREP_DIR};
use vireo_vmm::config::JailConfig;

use super::{Place, Source, TranslateError, pod_identity};
use crate::credentials::by_cloud_init;
use crate::volume::{DataSource, Mounted, Seed, VolumeError, config_disk, secret_value, sysprep_disk};

/// CRI's name of the pod's namespace.
const NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
/// The keys of a secret that cloud-init's data may be in.
const USER_DATA: &[&str] = &["userdata", "userData"];
const NETWORK_DATA: &[&str] = &["networkdata", "networkData"];

/// Makes the disk of the volume `name`, whose source stands at `path`.
pub(super) fn make(
    source: &Source<'_>,
    uuid: Uuid,
    (name, shown): (&str, VolumeSource<'_>),
    path: &str,
) -> Result<File, TranslateError> {
    let seed = match shown {
        VolumeSource::CloudInitNoCloud(seed) => Some((DataSource::NoCloud, seed)),
        VolumeSource::CloudInitConfigDrive(seed) => Some((DataSource::ConfigDrive, seed)),
        _ => None,
    };
    if let Some((kind, seed)) = seed {
        return cloud_init(source, uuid, (name, kind, seed), path);
    }
    let Place::Pod { oci, .. } = source.place else {
        return Err(TranslateError::Field { path: path.to_owned(), what: "vireo run has no cluster to take it from" });
    };
    let mounted = |folder: &str, name: &str, what| {
        // Without a name the folder itself; `join` would end it with a slash.
        let place = if name.is_empty() { Path::new(folder).to_owned() } else { Path::new(folder).join(name) };
        mounted(oci, &place, what)
    };
    let disk = match shown {
        VolumeSource::ConfigMap(volume) => mounted(CONFIG_MAPS_DIR, name, "config map")
            .and_then(|mounted| config_disk(&mounted, volume.volume_label.as_deref())),
        VolumeSource::Secret(volume) => mounted(SECRETS_DIR, name, "secret")
            .and_then(|mounted| config_disk(&mounted, volume.volume_label.as_deref())),
        VolumeSource::DownwardApi(volume) => mounted(DOWNWARD_API_DIR, name, "downward API")
            .and_then(|mounted| config_disk(&mounted, volume.volume_label.as_deref())),
        VolumeSource::Sysprep(_) => mounted(SYSPREP_DIR, name, "answers").and_then(|mounted| sysprep_disk(&mounted)),
        _ => mounted(SERVICE_ACCOUNT_DIR, "", "service account").and_then(|mounted| config_disk(&mounted, None)),
    };
    disk.map_err(|source| TranslateError::Volume { path: path.to_owned(), source })
}

fn mounted(oci: &Spec, place: &Path, what: &'static str) -> Result<Mounted, VolumeError> {
    let JailConfig { uid, gid } = pod_identity(oci);
    Mounted::find(oci, (uid, gid), place, what).ok_or_else(|| VolumeError::NotMounted {
        what,
        place: place.display().to_string(),
        or: String::new(),
    })
}

/// The disk that cloud-init reads.
fn cloud_init(
    source: &Source<'_>,
    uuid: Uuid,
    (name, kind, seed): (&str, DataSource, &CloudInit),
    path: &str,
) -> Result<File, TranslateError> {
    let content = |inline: Result<Option<Vec<u8>>, NoBase64>, reference: &Option<LocalReference>, field, keys| {
        let at = format!("{path}.{field}");
        if reference.as_ref().is_none_or(|reference| reference.name.is_empty()) {
            // Validation has decoded it before.
            return inline.map_err(|_| TranslateError::Field { path: at, what: "is no base64" });
        }
        let Place::Pod { oci, .. } = source.place else {
            let what = "vireo run has no cluster to take it from; say it in the manifest itself";
            return Err(TranslateError::Field { path: at, what });
        };
        let JailConfig { uid, gid } = pod_identity(oci);
        let value = secret_value(oci, (uid, gid), name, keys);
        value.map(Some).map_err(|source| TranslateError::Volume { path: at, source })
    };
    let user_data = content(seed.user_data(), &seed.secret_ref, "secretRef", USER_DATA)?.unwrap_or_default();
    let network_data =
        content(seed.network_data(), &seed.network_data_secret_ref, "networkDataSecretRef", NETWORK_DATA)?;
    let namespace = match source.place {
        Place::Pod { oci, .. } => oci.annotations().as_ref().and_then(|annotations| annotations.get(NAMESPACE)),
        Place::Local { .. } => None,
    };
    let keys = keys(source, kind)?;
    let seed = Seed {
        source: kind,
        instance: uuid,
        name: source.name,
        hostname: source.hostname.unwrap_or(source.name),
        namespace: namespace.map_or("default", String::as_str),
        user_data: &user_data,
        network_data: network_data.as_deref(),
        keys: &keys,
    };
    seed.disk().map_err(|source| TranslateError::Volume { path: path.to_owned(), source })
}

/// The SSH keys that go this way.
fn keys(source: &Source<'_>, kind: DataSource) -> Result<Vec<String>, TranslateError> {
    // `vireo run` has refused them.
    let (Some(spec), Place::Pod { oci, .. }) = (source.spec, source.place) else { return Ok(Vec::new()) };
    let JailConfig { uid, gid } = pod_identity(oci);
    let chosen = |method: &SshPublicKeyPropagation| match kind {
        DataSource::NoCloud => method.no_cloud.is_some(),
        DataSource::ConfigDrive => method.config_drive.is_some(),
    };
    Ok(by_cloud_init(spec, oci, (uid, gid), chosen)?)
}
