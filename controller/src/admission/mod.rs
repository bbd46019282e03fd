//! Admission: what is written to the API server passes here first. It is given its defaults, then judged; who drains a node
//! asks here for each machine's pod.
//!
//! ```text
//!   review          what the API server asks, and its answer
//!   mutate          defaults, as a patch: `defaults` are pure functions on specs
//!   judge           right or wrong: `rules` are pure functions that tell every problem by its path
//!   lookups         what it takes a look at other objects for
//!   eviction        whether a machine's pod may be evicted now
//!   configurations  what makes the API server ask
//! ```
//!
//! What nobody can tell here isn't refused here: whether a claim or a secret exists is said by the instance that lacks it.

mod accounts;
pub mod configurations;
mod defaults;
mod eviction;
mod judge;
mod lookups;
mod mutate;
mod review;
mod rules;
#[cfg(test)]
#[allow(dead_code, reason = "only a real API server has a schema, and something to change")]
pub(crate) mod table;
#[cfg(test)]
mod tests;
mod verdict;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use kube::Client;
use kube::core::admission::Operation;
use tracing::warn;

pub use accounts::Accounts;
pub use judge::judge;
pub use mutate::mutate;
pub use review::{MAX_REVIEW, Request, ReviewError};
pub(crate) use rules::{dns_name, gate};
pub use verdict::{Found, Verdict};

use crate::Settings;
use crate::metrics::Metrics;

/// What the webhooks work with; clones are the same.
#[derive(Clone)]
struct Webhooks {
    client: Client,
    settings: Settings,
    accounts: Accounts,
    metrics: Metrics,
}

/// The webhooks: `/mutate/RESOURCE`, `/validate/RESOURCE`, `/validate/RESOURCE/status` and `/validate/pods/eviction`, by POST.
pub fn router(client: Client, settings: Settings, accounts: Accounts, metrics: Metrics) -> Router {
    Router::new()
        .route("/mutate/{resource}", post(mutates))
        .route("/validate/{resource}", post(validates))
        .route("/validate/{resource}/status", post(guards_status))
        .route("/validate/pods/eviction", post(evicts))
        .layer(DefaultBodyLimit::max(MAX_REVIEW))
        .with_state(Webhooks { client, settings, accounts, metrics })
}

/// A review of another resource than the path's, or none at all.
fn read(resource: &str, body: &[u8]) -> Result<Request, Box<Response>> {
    let refuse = |why: String| Box::new((StatusCode::BAD_REQUEST, why).into_response());
    let request = Request::read(body).map_err(|error| refuse(error.to_string()))?;
    if request.resource.resource == resource {
        Ok(request)
    } else {
        Err(refuse(format!("the request is for {:?}, not for {resource:?}", request.resource.resource)))
    }
}

async fn mutates(State(hooks): State<Webhooks>, Path(resource): Path<String>, body: Bytes) -> Response {
    let request = match read(&resource, &body) {
        Ok(request) => request,
        Err(response) => return *response,
    };
    match request.patched(mutate(&request, &hooks.settings.now())) {
        Ok(review) => Json(review).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn validates(State(hooks): State<Webhooks>, Path(resource): Path<String>, body: Bytes) -> Response {
    let request = match read(&resource, &body) {
        Ok(request) => request,
        Err(response) => return *response,
    };
    let is_own = hooks.accounts.is_own(request.user());
    let verdict = match request.operation {
        Operation::Create | Operation::Update => judge(&request, is_own, &hooks.settings.now()),
        Operation::Delete | Operation::Connect => Verdict::Admit(Vec::new()),
    };
    let verdict = match verdict {
        Verdict::Admit(warnings) => match lookups::look(&request, &hooks.client).await {
            Ok(None) => Verdict::Admit(warnings),
            Ok(Some(verdict)) => verdict,
            Err(error) => {
                warn!("can't judge {resource} {:?}: {error}", request.name);
                Verdict::refuse(
                    500,
                    "InternalError",
                    format_args!("can't look at what it takes to judge this: {error}"),
                )
            }
        },
        refused @ Verdict::Refuse(_) => refused,
    };
    let is_new = request.operation == Operation::Create && !request.dry_run && resource == "virtualmachines";
    if let (true, Verdict::Admit(_), Some(namespace)) = (is_new, &verdict, &request.namespace) {
        hooks.metrics.created_vm(namespace);
    }
    Json(request.answer(verdict)).into_response()
}

/// Statuses are the controller's: what they say, others act on.
async fn guards_status(State(hooks): State<Webhooks>, Path(resource): Path<String>, body: Bytes) -> Response {
    let request = match read(&resource, &body) {
        Ok(request) => request,
        Err(response) => return *response,
    };
    let verdict = if hooks.accounts.is_own(request.user()) {
        Verdict::Admit(Vec::new())
    } else {
        Verdict::forbid(format_args!("the status of {resource} is written only by vireo's own service accounts"))
    };
    Json(request.answer(verdict)).into_response()
}

async fn evicts(State(hooks): State<Webhooks>, body: Bytes) -> Response {
    let request = match read("pods", &body) {
        Ok(request) => request,
        Err(response) => return *response,
    };
    let verdict = eviction::evict(&request, &hooks.client, &hooks.settings.now()).await;
    Json(request.answer(verdict)).into_response()
}
