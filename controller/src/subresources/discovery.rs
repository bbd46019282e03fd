//! What everybody may ask: which group and calls there are, the version, and whether the server is well.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tracing::debug;

use super::endpoints::{ENDPOINTS, GROUP, VERSIONS};
use super::{Refusal, Server, openapi};

/// KubeVirt's version whose API this is, as clients compare it with their own.
const VERSION: &str = "v1.9.0";

/// What is below a version of the group.
pub(super) fn router(base: &str, version: &'static str) -> Router<Server> {
    Router::new()
        .route(base, get(move || std::future::ready(Json(resources(version)))))
        .route(&format!("{base}/version"), get(|| std::future::ready(Json(version_info()))))
        .route(&format!("{base}/guestfs"), get(|| std::future::ready(no_guestfs())))
        .route(&format!("{base}/healthz"), get(health))
        .route(
            &format!("/openapi/v3/apis/{GROUP}/{version}"),
            get(move || std::future::ready(Json(openapi::v3(version)))),
        )
}

/// What is above.
pub(super) fn root() -> Router<Server> {
    Router::new()
        .route("/", get(|| std::future::ready(Json(paths()))))
        .route("/apis", get(|| std::future::ready(Json(groups()))))
        .route(&format!("/apis/{GROUP}"), get(|| std::future::ready(Json(group()))))
        .route("/openapi/v2", get(|| std::future::ready(Json(openapi::v2()))))
        .route("/openapi/v3", get(|| std::future::ready(Json(openapi::v3_versions()))))
        .route("/healthz", get(health))
}

/// Well while the API server answers.
async fn health(State(server): State<Server>) -> Result<Json<Value>, Refusal> {
    match server.context.client.apiserver_version().await {
        Ok(_) => Ok(Json(json!({"apiserver": {"connectivity": "ok"}}))),
        Err(error) => {
            debug!("not well: {error}");
            Err(Refusal::internal(&error))
        }
    }
}

fn paths() -> Value {
    let versions = VERSIONS.map(|version| format!("/apis/{GROUP}/{version}"));
    let above = ["/apis", "/openapi/v2", "/openapi/v3", "/healthz"].map(str::to_owned);
    let all: Vec<_> = above.into_iter().chain([format!("/apis/{GROUP}")]).chain(versions).collect();
    json!({ "paths": all })
}

fn group() -> Value {
    let version = |version: &str| json!({"groupVersion": format!("{GROUP}/{version}"), "version": version});
    json!({
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": GROUP,
        "versions": VERSIONS.map(version),
        "preferredVersion": version(VERSIONS[0]),
    })
}

fn groups() -> Value {
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group()]})
}

/// Kinds and verbs aren't KubeVirt's, which says neither; clients leave out what has no verbs.
fn resources(version: &str) -> Value {
    let resource = |endpoint: &super::endpoints::Endpoint| {
        json!({
            "name": endpoint.resource(),
            "singularName": "",
            "namespaced": true,
            "kind": "",
            "verbs": [endpoint.verb()],
        })
    };
    let all: Vec<_> = ENDPOINTS.iter().map(resource).collect();
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{GROUP}/{version}"),
        "resources": all,
    })
}

/// What `virtctl version` reads.
fn version_info() -> Value {
    json!({
        "gitVersion": VERSION,
        "gitCommit": concat!("vireo-", env!("CARGO_PKG_VERSION")),
        "gitTreeState": "clean",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": concat!("linux/", "amd64"),
    })
}

/// Which image `virtctl guestfs` runs: none is made here, and KubeVirt's wants KubeVirt's registry.
fn no_guestfs() -> Refusal {
    Refusal::not_built("guestfs", "there is no image with libguestfs: name one with virtctl guestfs --image")
}
