//! Objects of any kind.

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::Value;

/// The objects of an object's kind where that is: in its own namespace, in `namespace` where it says none, or in no namespace where it
/// says an empty one.
pub(super) fn beside(client: Client, object: &DynamicObject, namespace: Option<&str>) -> Api<DynamicObject> {
    let types = object.types.clone().unwrap_or_default();
    let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
    match object.metadata.namespace.as_deref().or(namespace) {
        Some("") | None => Api::all_with(client, &resource),
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
    }
}

/// Makes an object, or makes it what it should be.
pub(super) async fn apply(client: &Client, object: Value) -> Result<DynamicObject, kube::Error> {
    let object: DynamicObject = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
    let name = object.metadata.name.clone().unwrap_or_default();
    let how = PatchParams::apply("tests").force();
    beside(client.clone(), &object, None).patch(&name, &how, &Patch::Apply(&object)).await
}
