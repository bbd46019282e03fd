//! What a pod is called, and what it tells: labels by which KubeVirt's users find it, annotations that its shim reads.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource as _;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use vireo_runtimeclass::cluster::{PodSettings, VirtualMachineInstance};
use vireo_runtimeclass::kubevirt::v1::VirtualMachineInstanceSpec;
use vireo_runtimeclass::pod::{
    ANNOTATION_CLAIMS, ANNOTATION_CONTROLLER_KEY, ANNOTATION_PREFIX, ANNOTATION_RATE_LIMITS, ANNOTATION_VMI,
};

use super::{PodError, Source, hex, networks, volumes};

/// What KubeVirt's pods are labelled with, and those of machines have there.
pub const APP_LABEL: &str = "kubevirt.io";
/// The value of [`APP_LABEL`], and what names of pods start with.
pub const LAUNCHER: &str = "virt-launcher";
/// The label with the uid of a pod's instance.
pub const CREATED_BY_LABEL: &str = "kubevirt.io/created-by";
/// The label with the node of a pod or instance.
pub const NODE_NAME_LABEL: &str = "kubevirt.io/nodeName";
const NAME_LABEL: &str = "vm.kubevirt.io/name";
const ID_LABEL: &str = "vmi.kubevirt.io/id";
const DOMAIN: &str = "kubevirt.io/domain";
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
const UNIX_TRANSPORT: &str = "kubevirt.io/migrationTransportUnix";
/// Tells a descheduler that an eviction is a request, and not the pod's end.
const EVICT_ONLY: &str = "descheduler.alpha.kubernetes.io/request-evict-only";
const ISTIO: &str = "sidecar.istio.io/inject";
/// Annotations of an instance that are not its pod's: what kubectl notes of the object, and what KubeVirt does.
const ITS_OWN: [&str; 3] =
    ["kubectl.kubernetes.io", "kubevirt.io/storage-observed-api-version", "kubevirt.io/latest-observed-api-version"];

/// The longest label, and the longest name that the API server makes.
const MAX_NAME: usize = 63;
/// The longest text that the API server takes for the beginning of a name.
const MAX_PREFIX: usize = 253;
/// What the API server ends names with that it makes: so many of these.
const SUFFIX: usize = 5;
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Hexadecimal digits of a hash that stand for the rest of a long name (KubeVirt's).
const HASH: usize = 8;

pub(super) fn metadata(source: &Source<'_>) -> Result<ObjectMeta, PodError> {
    let vmi = source.vmi;
    Ok(ObjectMeta {
        name: Some(pod_name(vmi)),
        generate_name: Some(base_name(vmi, MAX_PREFIX)),
        namespace: vmi.metadata.namespace.clone(),
        labels: Some(labels(source)),
        annotations: Some(annotations(source)?),
        owner_references: Some(vec![owner(vmi)]),
        ..ObjectMeta::default()
    })
}

fn name(vmi: &VirtualMachineInstance) -> &str {
    vmi.metadata.name.as_deref().unwrap_or_default()
}

fn uid(vmi: &VirtualMachineInstance) -> &str {
    vmi.metadata.uid.as_deref().unwrap_or_default()
}

/// The name of an instance's pod: as the API server would make it of [`LAUNCHER`] and the instance's name, but always the same.
pub fn pod_name(vmi: &VirtualMachineInstance) -> String {
    let hash = Sha256::digest(uid(vmi));
    let suffix = hash.iter().take(SUFFIX).map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
    base_name(vmi, MAX_NAME - SUFFIX).chars().chain(suffix).collect()
}

/// What names of an instance's pods begin with, in `letters` at most.
fn base_name(vmi: &VirtualMachineInstance, letters: usize) -> String {
    let base = format!("{LAUNCHER}-{}-", name(vmi));
    base.char_indices().take_while(|(at, _)| *at < letters).map(|(_, char)| char).collect()
}

fn owner(vmi: &VirtualMachineInstance) -> OwnerReference {
    OwnerReference {
        api_version: VirtualMachineInstance::api_version(&()).into_owned(),
        kind: VirtualMachineInstance::kind(&()).into_owned(),
        name: name(vmi).to_owned(),
        uid: uid(vmi).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What the guest is called.
pub fn host_name(vmi: &VirtualMachineInstance, settings: &PodSettings) -> String {
    if let Some(name) = settings.hostname.as_ref().filter(|name| !name.is_empty()) {
        return name.clone();
    }
    let first = name(vmi).split('.').next().unwrap_or_default();
    first.chars().take(MAX_NAME).collect::<String>().trim_end_matches('-').to_owned()
}

fn labels(source: &Source<'_>) -> BTreeMap<String, String> {
    let vmi = source.vmi;
    let mut labels = vmi.metadata.labels.clone().unwrap_or_default();
    labels.extend(
        [
            (APP_LABEL, LAUNCHER.to_owned()),
            (CREATED_BY_LABEL, uid(vmi).to_owned()),
            (NAME_LABEL, host_name(vmi, &source.spec.pod)),
            (ID_LABEL, id(name(vmi))),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    if let Some(inject) = vmi.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ISTIO)) {
        labels.insert(ISTIO.to_owned(), inject.clone());
    }
    labels
}

/// A name that is a label's value: its beginning and a hash where it is too long. virtctl makes the same of it, and so with SHA-1.
fn id(name: &str) -> String {
    if name.len() <= MAX_NAME {
        return name.to_owned();
    }
    let start: String = name.chars().take(MAX_NAME - HASH - 1).collect();
    format!("{start}-{}", hex(&Sha1::digest(name), HASH))
}

/// Istio's proxy is to be put beside the machine.
pub(super) fn has_istio(vmi: &VirtualMachineInstance) -> bool {
    let annotations = vmi.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(ISTIO)).is_some_and(|inject| inject == "true")
}

fn annotations(source: &Source<'_>) -> Result<BTreeMap<String, String>, PodError> {
    let mut annotations = source.vmi.metadata.annotations.clone().unwrap_or_default();
    // Of Vireo's own, users have the rate limits: the others are the controller's word.
    annotations.retain(|name, _| {
        !ITS_OWN.iter().any(|own| name.starts_with(own))
            && (!name.starts_with(ANNOTATION_PREFIX) || name == ANNOTATION_RATE_LIMITS)
    });
    let machine = serde_json::to_string(&machine(source));
    let machine = machine.map_err(|error| PodError::unsupported("spec", error.to_string()))?;
    annotations.extend(
        [
            (DOMAIN, name(source.vmi).to_owned()),
            (DEFAULT_CONTAINER, vireo_runtimeclass::pod::MACHINE_CONTAINER.to_owned()),
            (UNIX_TRANSPORT, "true".to_owned()),
            (EVICT_ONLY, String::new()),
            (ANNOTATION_VMI, machine),
            (ANNOTATION_CONTROLLER_KEY, source.controller_key.to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    let claims = volumes::new_images(source);
    if !claims.0.is_empty() {
        let claims = serde_json::to_string(&claims);
        let claims = claims.map_err(|error| PodError::unsupported("spec.volumes", error.to_string()))?;
        annotations.insert(ANNOTATION_CLAIMS.to_owned(), claims);
    }
    annotations.extend(networks::annotations(source));
    Ok(annotations)
}

/// The machine as the shim reads it. Without a UUID of its own it has its instance's, which all of that one's pods share.
fn machine(source: &Source<'_>) -> VirtualMachineInstanceSpec {
    let mut machine = source.spec.machine.clone();
    let uuid = &mut machine.domain.firmware.get_or_insert_default().uuid;
    if uuid.as_ref().is_none_or(String::is_empty) {
        *uuid = Some(uid(source.vmi).to_owned());
    }
    machine
}
