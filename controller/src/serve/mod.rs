//! HTTPS for the API server: webhooks and the aggregated API.
//!
//! A client need not have a certificate; whoever has one that a trusted authority signed is told to the handlers as
//! [`Peer`]. Which authority is trusted, and the server's own certificate, come with each connection's [`ServerConfig`], so
//! that they change without a restart.
//!
//! [`front_proxy`] says whose word on users is taken.
//!
//! An end is told before it comes ([`End`]), so that no request is lost to it.
//!
//! What a client can make the server hold is bounded: connections, headers, bodies, requests under way on a connection, and
//! the time that it may take to say what it wants.

mod front_proxy;
#[cfg(test)]
mod samples;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, Version, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub use front_proxy::{FrontProxy, User};

/// A client that says nothing is left.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a request's head may take, and how long a connection may do nothing.
const SILENCE: Duration = Duration::from_mins(1);
/// Connections at a time: API servers keep a few each. More wait to be accepted.
const CONNECTIONS: usize = 512;
/// Requests at a time on one connection of HTTP/2.
const STREAMS: u32 = 128;
/// Bytes of a request's head.
const HEAD: u16 = 32 << 10;
/// Bytes of a request's body, where its handler doesn't say: two objects of etcd's largest, and what is around them.
const BODY: usize = 4 << 20;
/// What requests have to end when the server does.
const DRAIN: Duration = Duration::from_secs(10);

/// The client's certificate, verified; none for a client without.
#[derive(Debug, Clone)]
pub struct Peer(pub Option<CertificateDer<'static>>);

/// When a server ends.
#[derive(Debug, Clone, Default)]
pub struct End {
    /// It will: from now on each answer over HTTP/1.1 is its connection's last. Who sends a request while the server closes a connection that
    /// did nothing gets no answer, and may not repeat one that changes something: API servers, which keep such connections to webhooks, don't.
    pub soon: CancellationToken,
    /// It does.
    pub now: CancellationToken,
}

impl From<CancellationToken> for End {
    /// Without notice.
    fn from(now: CancellationToken) -> Self {
        Self { now, ..Self::default() }
    }
}

/// Answers `listener` with `router` until `end`, then lets what is under way end.
pub async fn serve(listener: TcpListener, tls: watch::Receiver<Arc<ServerConfig>>, router: Router, end: End) {
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let router = router.layer(DefaultBodyLimit::max(BODY)).layer(from_fn_with_state(end.soon, last_of_its_connection));
    loop {
        let accept = async {
            // Never closed.
            let permit = Arc::clone(&connections).acquire_owned().await;
            listener.accept().await.map(|(stream, _)| (stream, permit))
        };
        let accepted = tokio::select! {
            () = end.now.cancelled() => break,
            accepted = accept => accepted,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: those that are served have to end first.
                warn!("can't accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, router, watcher) =
            (TlsAcceptor::from(Arc::clone(&tls.borrow())), router.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _permit = permit;
            let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return debug!("a client's TLS handshake failed: {error}"),
                Err(_) => return debug!("a client didn't finish its TLS handshake"),
            };
            let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let peer = Peer(certificate.map(|certificate| certificate.clone().into_owned()));
            let service = TowerToHyperService::new(router.layer(Extension(peer)));
            let connection = http().serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
            if let Err(error) = watcher.watch(connection).await {
                debug!("a client's connection failed: {error}");
            }
        });
    }
    drop(listener);
    if timeout(DRAIN, graceful.shutdown()).await.is_err() {
        warn!("some requests didn't end in time");
    }
}

/// Says so in the answer, once the server will end. HTTP/2 has its own way, which loses nothing.
async fn last_of_its_connection(State(soon): State<CancellationToken>, request: Request, next: Next) -> Response {
    let version = request.version();
    let mut response = next.run(request).await;
    if soon.is_cancelled() && version < Version::HTTP_2 && !response.status().is_informational() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// How it speaks HTTP.
fn http() -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(SILENCE).max_buf_size(HEAD.into());
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(SILENCE)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD.into());
    http
}

#[cfg(test)]
mod tests;
