//! HTTPS for the API server: webhooks and the aggregated API.
//!
//! A client need not have a certificate; whoever has one that a trusted authority signed is told to the handlers as
//! [`Peer`]. Which authority is trusted, and the server's own certificate, come with each connection's [`ServerConfig`], so
//! that they change without a restart.
//!
//! [`front_proxy`] says whose word on users is taken.
//!
//! What a client can make the server hold is bounded: connections, headers, bodies, requests under way on a connection, and
//! the time that it may take to say what it wants.

mod front_proxy;
#[cfg(test)]
mod samples;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
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

/// Answers `listener` with `router` until `stop`, then lets what is under way end.
pub async fn serve(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    router: Router,
    stop: CancellationToken,
) {
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let router = router.layer(DefaultBodyLimit::max(BODY));
    loop {
        let accept = async {
            // Never closed.
            let permit = Arc::clone(&connections).acquire_owned().await;
            listener.accept().await.map(|(stream, _)| (stream, permit))
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
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
