//! Whether whoever asks may.

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use tracing::warn;

use super::{Refusal, Server};
use crate::admission::dns_name;
use crate::serve::{Peer, User};

/// Lets through who is known and may.
pub(super) async fn authorize(
    State(server): State<Server>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let front_proxy = server.front_proxy.borrow().clone();
    let Some(user) = front_proxy.user(&peer, request.headers()) else { return Refusal::unauthorized().into_response() };
    let Some(attributes) = attributes(request.method(), request.uri().path()) else {
        let path = request.uri().path();
        return Refusal::bad_request(format!("{path}: not a path of subresources.kubevirt.io")).into_response();
    };
    match review(&server, &user, attributes).await {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

async fn review(server: &Server, user: &User, attributes: ResourceAttributes) -> Result<(), Refusal> {
    let asked = said(user, &attributes);
    let spec = SubjectAccessReviewSpec {
        user: Some(user.name.clone()),
        groups: Some(user.groups.clone()),
        extra: Some(user.extra.clone()),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(server.context.client.clone());
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let review = reviews.create(&PostParams::default(), &review).await.map_err(|error| {
        warn!("can't ask whether {} may: {error}", user.name);
        Refusal::internal(&error)
    })?;
    let status = review.status.unwrap_or_default();
    if status.allowed {
        return Ok(());
    }
    let why = status.reason.filter(|reason| !reason.is_empty()).map(|reason| format!(": {reason}")).unwrap_or_default();
    Err(Refusal::denied(format!("{asked}{why}")))
}

/// As the API server itself says it.
fn said(user: &User, attributes: &ResourceAttributes) -> String {
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    let resource = match &attributes.subresource {
        Some(subresource) => format!("{}/{subresource}", text(&attributes.resource)),
        None => text(&attributes.resource),
    };
    format!(
        "User {:?} cannot {} resource {resource:?} in API group {:?} in the namespace {:?}",
        user.name,
        text(&attributes.verb),
        text(&attributes.group),
        text(&attributes.namespace),
    )
}

/// What a request is for, in RBAC's words. A port and its protocol are no part of it. Paths that would mean something else
/// decoded than as they are, and names that Kubernetes has none of, are of no kind: what is reviewed is what is done.
fn attributes(method: &Method, path: &str) -> Option<ResourceAttributes> {
    let parts: Vec<_> = path.strip_prefix('/')?.split('/').collect();
    if parts.iter().any(|part| dns_name(part).is_some()) {
        return None;
    }
    let verb = match *method {
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        _ => return None,
    };
    let ["apis", group, version, "namespaces", namespace, resource, rest @ ..] = &parts[..] else { return None };
    let (name, subresource) = match rest {
        [] if *resource == "expand-vm-spec" => (None, None),
        [name, "portforward", ..] => (Some((*name).to_owned()), Some("portforward".to_owned())),
        [name, subresource @ ..] if !subresource.is_empty() => (Some((*name).to_owned()), Some(subresource.join("/"))),
        _ => return None,
    };
    if name.is_some() && !["virtualmachines", "virtualmachineinstances"].contains(resource) {
        return None;
    }
    Some(ResourceAttributes {
        group: Some((*group).to_owned()),
        version: Some((*version).to_owned()),
        namespace: Some((*namespace).to_owned()),
        resource: Some((*resource).to_owned()),
        verb: Some(verb.to_owned()),
        name,
        subresource,
        ..ResourceAttributes::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &Method, rest: &str) -> Option<String> {
        let attributes = attributes(method, &format!("/apis/subresources.kubevirt.io/v1/namespaces/{rest}"))?;
        let text = |part: Option<String>| part.unwrap_or_else(|| "-".to_owned());
        assert_eq!(attributes.group.as_deref(), Some("subresources.kubevirt.io"));
        Some(
            [attributes.verb, attributes.namespace, attributes.resource, attributes.subresource, attributes.name]
                .map(text)
                .join(" "),
        )
    }

    #[test]
    fn a_path_is_a_right() {
        let told = |method: &Method, rest: &str| asked(method, rest).unwrap();
        assert_eq!(told(&Method::PUT, "shop/virtualmachines/a/start"), "update shop virtualmachines start a");
        assert_eq!(
            told(&Method::GET, "shop/virtualmachineinstances/a.b/console"),
            "get shop virtualmachineinstances console a.b"
        );
        assert_eq!(
            told(&Method::PUT, "shop/virtualmachineinstances/a/sev/setupsession"),
            "update shop virtualmachineinstances sev/setupsession a"
        );
        for port in ["", "/22", "/22/udp"] {
            assert_eq!(
                told(&Method::GET, &format!("shop/virtualmachines/a/portforward{port}")),
                "get shop virtualmachines portforward a"
            );
        }
        assert_eq!(told(&Method::PUT, "shop/expand-vm-spec"), "update shop expand-vm-spec - -");
    }

    #[test]
    fn what_could_mean_something_else_is_no_right() {
        for rest in [
            "shop/virtualmachines/a%2Fb/start",
            "shop/virtualmachines/../start",
            "shop//a/start",
            "shop/virtualmachines/A/start",
            "shop/virtualmachines/-a/start",
            "shop/pods/a/exec",
            "shop/virtualmachines/a",
            "shop/virtualmachines",
            "",
        ] {
            assert_eq!(asked(&Method::PUT, rest), None, "{rest}");
        }
        assert_eq!(asked(&Method::DELETE, "shop/virtualmachines/a/start"), None);
    }
}
