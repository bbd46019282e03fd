//! Whether a guest may have a copy of somebody's disk: its service account has to have the right to `create` the source's
//! `datavolumes/source`, or a pod beside it, as CDI itself asks of users.

use std::collections::BTreeMap;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// `pvc` or `snapshot`.
    kind: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Source {
    /// As a DataVolume's spec says it.
    pub(super) fn field(&self) -> Value {
        json!({ self.kind: {"namespace": self.namespace, "name": self.name} })
    }

    pub(super) fn is_claim(&self) -> bool {
        self.kind == "pvc"
    }
}

/// What a DataVolume of `namespace` with this spec copies; nothing where it is filled otherwise.
pub(super) async fn source(client: &Client, spec: &Value, namespace: &str) -> kube::Result<Option<Source>> {
    if let Some(source) = spec.get("source").filter(|source| source.is_object()) {
        return Ok(copied(source, namespace));
    }
    let Some(reference) = spec.get("sourceRef").filter(|reference| reference["kind"] == "DataSource") else {
        return Ok(None);
    };
    let at = text(reference, "namespace").unwrap_or(namespace);
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("cdi.kubevirt.io", "v1beta1", "DataSource"));
    let sources: Api<DynamicObject> = Api::namespaced_with(client.clone(), at, &resource);
    let source = sources.get(text(reference, "name").unwrap_or_default()).await?;
    // One that names another says in its status where that leads.
    let path = if source.data.pointer("/spec/source/dataSource").is_some() { "/status/source" } else { "/spec/source" };
    Ok(source.data.pointer(path).and_then(|source| copied(source, at)))
}

fn copied(source: &Value, namespace: &str) -> Option<Source> {
    ["pvc", "snapshot"].into_iter().find_map(|kind| {
        let of = source.get(kind).filter(|of| of.is_object())?;
        let namespace = text(of, "namespace").unwrap_or(namespace).to_owned();
        Some(Source { kind, namespace, name: text(of, "name").unwrap_or_default().to_owned() })
    })
}

/// Whether a service account may copy it.
pub(super) async fn may(client: &Client, source: &Source, namespace: &str, account: &str) -> kube::Result<bool> {
    if source.namespace == namespace {
        return Ok(true);
    }
    // Any of them is enough.
    for rights in sufficient(source) {
        let mut has_all = true;
        for right in rights {
            has_all = has_all && is_allowed(client, right, namespace, account).await?;
        }
        if has_all {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn is_allowed(client: &Client, right: ResourceAttributes, namespace: &str, account: &str) -> kube::Result<bool> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{namespace}:{account}")),
            groups: Some(vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ]),
            extra: Some(BTreeMap::new()),
            resource_attributes: Some(right),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
}

/// Sets of rights, each of which is enough.
fn sufficient(source: &Source) -> Vec<Vec<ResourceAttributes>> {
    let right = |group: &str, resource: &str, subresource: Option<&str>| ResourceAttributes {
        namespace: Some(source.namespace.clone()),
        name: Some(source.name.clone()),
        verb: Some("create".to_owned()),
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource: subresource.map(str::to_owned),
        ..ResourceAttributes::default()
    };
    let explicit = vec![right("cdi.kubevirt.io", "datavolumes", Some("source"))];
    if source.is_claim() {
        return vec![explicit, vec![right("", "pods", None)]];
    }
    vec![explicit, vec![right("", "pods", None), right("", "persistentvolumeclaims", None)]]
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field).and_then(Value::as_str).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied() {
        let found =
            |kind, namespace: &str| Some(Source { kind, namespace: namespace.to_owned(), name: "x".to_owned() });
        assert_eq!(copied(&json!({"pvc": {"name": "x", "namespace": "other"}}), "n"), found("pvc", "other"));
        assert_eq!(copied(&json!({"pvc": {"name": "x"}}), "n"), found("pvc", "n"));
        assert_eq!(copied(&json!({"snapshot": {"name": "x", "namespace": ""}}), "n"), found("snapshot", "n"));
        assert_eq!(copied(&json!({"http": {"url": "x"}}), "n"), None);
        assert_eq!(copied(&json!({"pvc": null}), "n"), None);
    }

    #[test]
    fn rights_that_are_enough() {
        let of = |kind| {
            let source = Source { kind, namespace: "other".to_owned(), name: "x".to_owned() };
            let names = |right: ResourceAttributes| {
                assert_eq!((right.verb.as_deref(), right.namespace.as_deref()), (Some("create"), Some("other")));
                (right.resource.unwrap(), right.subresource.unwrap_or_default())
            };
            sufficient(&source)
                .into_iter()
                .map(|rights| rights.into_iter().map(names).collect())
                .collect::<Vec<Vec<_>>>()
        };
        let right = |resource: &str, subresource: &str| (resource.to_owned(), subresource.to_owned());
        assert_eq!(of("pvc"), [vec![right("datavolumes", "source")], vec![right("pods", "")]]);
        let both = vec![right("pods", ""), right("persistentvolumeclaims", "")];
        assert_eq!(of("snapshot"), [vec![right("datavolumes", "source")], both]);
    }
}
