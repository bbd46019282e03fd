//! What a kubelet asks of the controller and of the operator: `/healthz` (200 from a process that answers) and `/readyz` (200
//! once its work can be done, 503 before).
//!
//! It is plain HTTP on a port of its own: a process that waits for its certificate is well, and so is one whose API server is down
//! or whose connections are all taken, which a restart would make no better.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// Connections at a time.
const CONNECTIONS: usize = 64;
/// How long each may last: it is one request's.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a process is; clones are the same one's.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<AtomicBool>);

impl Health {
    /// From now on its work can be done.
    pub fn set_ready(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether its work can be done.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn router(&self) -> Router {
        let health = self.clone();
        let ready = async move || {
            if health.is_ready() { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") }
        };
        Router::new().route("/healthz", get(async || "ok")).route("/readyz", get(ready))
    }

    /// Answers at `listen`, if that is given, for as long as it is polled.
    ///
    /// # Errors
    /// Where `listen` can't be listened on.
    pub async fn answer(self, listen: Option<SocketAddr>) -> std::io::Result<()> {
        let Some(listen) = listen else { return std::future::pending().await };
        self.accept(TcpListener::bind(listen).await?).await
    }

    async fn accept(self, listener: TcpListener) -> std::io::Result<()> {
        let (router, connections) = (self.router(), Arc::new(Semaphore::new(CONNECTIONS)));
        loop {
            // Never closed.
            let permit = Arc::clone(&connections).acquire_owned().await;
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!("can't accept a probe's connection: {error}");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let service = TowerToHyperService::new(router.clone());
            tokio::spawn(async move {
                let _permit = permit;
                let mut http = auto::Builder::new(TokioExecutor::new()).http1_only();
                http.http1().keep_alive(false);
                match timeout(PATIENCE, http.serve_connection(TokioIo::new(stream), service)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!("a probe's connection failed: {error}"),
                    Err(_) => debug!("a probe's connection took too long"),
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn a_process_is_well_before_it_is_ready() {
        let health = Health::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(health.clone().accept(listener));
        assert_eq!((ask(address, "/healthz").await, ask(address, "/readyz").await), ("200".into(), "503".into()));
        health.set_ready();
        assert_eq!((ask(address, "/healthz").await, ask(address, "/readyz").await), ("200".into(), "200".into()));
        assert_eq!(ask(address, "/").await, "404");
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert!(Health::default().answer(Some(listener.local_addr().unwrap())).await.is_err());
    }
}
