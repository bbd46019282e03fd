//! `GET /metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use kube::Client;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::Metrics;
use super::readers::{PATH, Readers, Verdict};

/// Pages that are made at a time: each is as long as there are objects. More wait, and are refused in the end.
const AT_A_TIME: usize = 2;
/// How long a client waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// Prometheus' text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Debug, Clone)]
struct Server {
    metrics: Metrics,
    readers: Arc<Readers>,
    turns: Arc<Semaphore>,
}

/// Answers `/metrics` to whoever may read, by the API server's word.
pub fn router(metrics: Metrics, client: Client) -> Router {
    let turns = Arc::new(Semaphore::new(AT_A_TIME));
    Router::new().route(PATH, get(answer)).with_state(Server {
        metrics,
        readers: Arc::new(Readers::new(client)),
        turns,
    })
}

async fn answer(State(server): State<Server>, headers: HeaderMap) -> Response {
    match server.readers.judge(token(&headers)).await {
        Ok(Verdict::Reads) => {}
        Ok(Verdict::Unknown) => {
            let scheme = [(header::WWW_AUTHENTICATE, "Bearer")];
            let what = "a bearer token of the cluster's is needed, of somebody who may get /metrics\n";
            return (StatusCode::UNAUTHORIZED, scheme, what).into_response();
        }
        Ok(Verdict::Refused) => {
            return (StatusCode::FORBIDDEN, "the token's user may not get /metrics (nonResourceURLs)\n")
                .into_response();
        }
        Err(error) => {
            warn!("nobody reads metrics: {error}");
            return (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response();
        }
    }
    let Ok(Ok(turn)) = timeout(PATIENCE, Arc::clone(&server.turns).acquire_owned()).await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "others are reading: try again later\n").into_response();
    };
    let metrics = server.metrics.clone();
    // As long as there are objects: others are answered meanwhile.
    let made = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        metrics.page()
    });
    match made.await {
        Ok(page) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response(),
        Err(error) => {
            debug!("a page of metrics wasn't made: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The token that a client shows.
fn token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}
