//! Where an instancetype or a preference is: in the ControllerRevision that was made of it when it was first used, else in the
//! cluster.

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};
use serde_json::json;
use vireo_runtimeclass::cluster::{
    InstancetypeRef, InstancetypeSpec, Kind, Matcher, Object, PreferenceSpec, VirtualMachineClusterInstancetype,
    VirtualMachineClusterPreference, VirtualMachineInstancetype, VirtualMachinePreference, kind,
};

use super::revision::{self, NAME_LABEL};
use crate::admission::dns_name;

/// Which of the two.
pub(super) trait Shape: Kind {
    /// In a namespace, and in the cluster.
    fn resources() -> [ApiResource; 2];
    /// What an error about it is called.
    const NOT_FOUND: &'static str;
    /// Its field in a guest's spec.
    const FIELD: &'static str;
}

impl Shape for kind::VirtualMachineInstancetype {
    fn resources() -> [ApiResource; 2] {
        [
            ApiResource::erase::<VirtualMachineInstancetype>(&()),
            ApiResource::erase::<VirtualMachineClusterInstancetype>(&()),
        ]
    }
    const NOT_FOUND: &'static str = "FailedFindInstancetype";
    const FIELD: &'static str = "instancetype";
}

impl Shape for kind::VirtualMachinePreference {
    fn resources() -> [ApiResource; 2] {
        [
            ApiResource::erase::<VirtualMachinePreference>(&()),
            ApiResource::erase::<VirtualMachineClusterPreference>(&()),
        ]
    }
    const NOT_FOUND: &'static str = "FailedFindPreference";
    const FIELD: &'static str = "preference";
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FindError {
    /// In a word: `FailedFindInstancetype`, for one.
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
    /// It may be there soon: the API server couldn't say.
    pub is_transient: bool,
}

/// The instancetype that a guest of `namespace` names, as it was when it was first used (`used`); none where it names none.
///
/// # Errors
/// It isn't there, or can't be read.
pub async fn instancetype(
    client: &Client,
    namespace: &str,
    named: Option<&Matcher>,
    used: Option<&InstancetypeRef>,
) -> Result<Option<InstancetypeSpec>, FindError> {
    Ok(find::<kind::VirtualMachineInstancetype>(client, namespace, named, used).await?.map(|found| found.spec))
}

/// The preference likewise.
///
/// # Errors
/// It isn't there, or can't be read.
pub async fn preference(
    client: &Client,
    namespace: &str,
    named: Option<&Matcher>,
    used: Option<&InstancetypeRef>,
) -> Result<Option<PreferenceSpec>, FindError> {
    Ok(find::<kind::VirtualMachinePreference>(client, namespace, named, used).await?.map(|found| found.spec))
}

/// What was found.
pub(super) struct Found<S> {
    pub(super) spec: S,
    /// The object that it was read from, where that is no revision.
    pub(super) object: Option<DynamicObject>,
}

pub(super) async fn find<K: Shape>(
    client: &Client,
    namespace: &str,
    named: Option<&Matcher>,
    used: Option<&InstancetypeRef>,
) -> Result<Option<Found<K::Spec>>, FindError> {
    let Some(named) = named else { return Ok(None) };
    if let Some(revision) = revision_of::<K>(client, namespace, named, used).await? {
        let what = format!("ControllerRevision {}", revision.metadata.name.clone().unwrap_or_default());
        let object = revision.data.map(|data| data.0).unwrap_or_default();
        let spec = read::<K>(object, &what)?;
        return Ok(Some(Found { spec, object: None }));
    }
    let name = named.name.as_deref().unwrap_or_default();
    is_name::<K>(name, "name")?;
    let resource = resource::<K>(named)?;
    let api: Api<DynamicObject> = if resource.plural.contains("cluster") {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, &resource)
    };
    let mut object = api.get(name).await.map_err(|error| failed::<K>(&format!("{} {name}", resource.kind), &error))?;
    object.types = Some(kube::core::TypeMeta { api_version: resource.api_version, kind: resource.kind });
    let spec = read::<K>(json!(object), name)?;
    Ok(Some(Found { spec, object: Some(object) }))
}

/// The kind that a guest names, in any case, singular or plural; the cluster's where it names none.
fn resource<K: Shape>(named: &Matcher) -> Result<ApiResource, FindError> {
    let [own, cluster] = K::resources();
    let kind = named.kind.as_deref().unwrap_or_default().to_ascii_lowercase();
    let is = |resource: &ApiResource| kind == resource.plural || kind == resource.kind.to_ascii_lowercase();
    if kind.is_empty() || is(&cluster) {
        Ok(cluster)
    } else if is(&own) {
        Ok(own)
    } else {
        let message =
            format!("got unexpected kind in spec.{}.kind: {kind}; {} and {} are", K::FIELD, own.kind, cluster.kind);
        Err(FindError { reason: K::NOT_FOUND, message, is_transient: false })
    }
}

async fn revision_of<K: Shape>(
    client: &Client,
    namespace: &str,
    named: &Matcher,
    used: Option<&InstancetypeRef>,
) -> Result<Option<ControllerRevision>, FindError> {
    let revisions: Api<ControllerRevision> = Api::namespaced(client.clone(), namespace);
    let get = async |name: &str| {
        is_name::<K>(name, "revisionName")?;
        revisions.get(name).await.map_err(|error| failed::<K>(&format!("ControllerRevision {name}"), &error))
    };
    if let Some(name) = &named.revision_name {
        return get(name).await.map(Some);
    }
    let Some(name) = used.and_then(revision::name) else { return Ok(None) };
    let revision = get(name).await?;
    // Another one may be named by now.
    let of = revision.metadata.labels.as_ref().and_then(|labels| labels.get(NAME_LABEL));
    Ok((of == named.name.as_ref()).then_some(revision))
}

/// A name becomes a part of a path, which anything else could lead elsewhere with the controller's rights.
fn is_name<K: Shape>(name: &str, field: &str) -> Result<(), FindError> {
    let Some(wrong) = dns_name(name) else { return Ok(()) };
    Err(FindError { reason: K::NOT_FOUND, message: format!("spec.{}.{field}: {wrong}", K::FIELD), is_transient: false })
}

fn read<K: Shape>(object: serde_json::Value, what: &str) -> Result<K::Spec, FindError> {
    let unreadable = |problem: String| FindError {
        reason: K::NOT_FOUND,
        message: format!("{what} can't be used as {}: {problem}", K::FIELD),
        is_transient: false,
    };
    let object: Object<K> = serde_json::from_value(object).map_err(|error| unreadable(error.to_string()))?;
    object.spec().map_err(|problems| unreadable(problems.to_string()))
}

fn failed<K: Shape>(what: &str, error: &kube::Error) -> FindError {
    let is_transient = !matches!(error, kube::Error::Api(status) if status.code == 404);
    FindError { reason: K::NOT_FOUND, message: format!("can't get {what}: {error}"), is_transient }
}
