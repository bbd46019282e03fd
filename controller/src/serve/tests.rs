//! The server over real sockets.

use std::net::SocketAddr;

use axum::routing::{get, post};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;

use super::samples::Authority;
use super::*;
use crate::certificates::{Pair, server_config};

struct Server {
    address: SocketAddr,
    authority: Authority,
    clients: Authority,
    config: watch::Sender<Arc<ServerConfig>>,
    end: End,
    task: tokio::task::JoinHandle<()>,
}

/// Says whose certificate the client has.
async fn whose(Extension(peer): Extension<Peer>) -> String {
    peer.0.map_or("nobody's".to_owned(), |certificate| format!("{} bytes", certificate.len()))
}

impl Server {
    async fn start(router: Router) -> Self {
        let (authority, clients) = (Authority::new(), Authority::new());
        let config = server_config(&authority.server(), Some(&clients.pem), None).unwrap();
        let (config, served) = watch::channel(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, end) = (listener.local_addr().unwrap(), End::default());
        let task = tokio::spawn(serve(listener, served, router.route("/", get(whose)), end.clone()));
        Self { address, authority, clients, config, end, task }
    }

    async fn connect(&self, client: Option<Pair>) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots);
        let config = match client {
            None => config.with_no_client_auth(),
            Some(pair) => {
                let chain = vec![pair.certificate_der().unwrap()];
                config.with_client_auth_cert(chain, pair.key_der().unwrap()).unwrap()
            }
        };
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
    }

    /// Sends a request and returns all that comes.
    async fn ask(&self, client: Option<Pair>, request: &str) -> std::io::Result<String> {
        let mut stream = self.connect(client).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8(answer).unwrap())
    }
}

const ROOT: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_client_is_told_by_its_certificate_which_it_need_not_have() {
    let server = Server::start(Router::new()).await;
    let answer = server.ask(None, ROOT).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("nobody's"), "{answer}");
    let answer = server.ask(Some(server.clients.client("front-proxy-client")), ROOT).await.unwrap();
    assert!(answer.ends_with(" bytes"), "{answer}");
    let other = Authority::new().client("front-proxy-client");
    assert!(server.ask(Some(other), ROOT).await.is_err(), "another authority signed it");
    assert!(server.ask(Some(server.clients.server()), ROOT).await.is_err(), "it is a server's");
}

#[tokio::test]
async fn another_certificate_is_served_without_a_restart() {
    let server = Server::start(Router::new()).await;
    let shown = async || server.connect(None).await.unwrap().get_ref().1.peer_certificates().unwrap()[0].clone();
    let first = shown().await;
    assert_eq!(shown().await, first);
    let new = server.authority.server();
    server.config.send_replace(Arc::new(server_config(&new, None, None).unwrap()));
    let new = new.certificate_der().unwrap();
    let changed = async {
        while shown().await != new {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), changed).await.unwrap();
}

#[tokio::test]
async fn heads_and_bodies_are_bounded() {
    let router = Router::new().route("/", post(async |body: axum::body::Bytes| body.len().to_string()));
    let server = Server::start(router).await;
    let head = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(usize::from(HEAD)));
    let answer = server.ask(None, &head).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let body = |bytes: usize| {
        format!("POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {bytes}\r\n\r\n")
    };
    let answer = server.ask(None, &(body(BODY + 1) + &"x".repeat(BODY + 1))).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let answer = server.ask(None, &(body(BODY) + &"x".repeat(BODY))).await.unwrap();
    assert!(answer.ends_with(&BODY.to_string()), "{}", answer.len());
}

#[tokio::test]
async fn what_is_under_way_ends_before_the_server_does() {
    let (began, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (began, go_on) = (Arc::clone(&began), Arc::clone(&go_on));
        async move || {
            began.notify_one();
            go_on.notified().await;
            "done"
        }
    };
    let server = Server::start(Router::new().route("/slow", get(slow))).await;
    let request = ROOT.replace("GET /", "GET /slow");
    let asked = server.ask(None, &request);
    let ended = async {
        began.notified().await;
        server.end.now.cancel();
        go_on.notify_one();
    };
    let (answer, ()) = tokio::join!(asked, ended);
    assert!(answer.unwrap().ends_with("done"));
    timeout(Duration::from_secs(5), server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_that_is_kept_is_let_go_before_the_server_ends() {
    let server = Server::start(Router::new()).await;
    let mut stream = server.connect(None).await.unwrap();
    let kept = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(kept.as_bytes()).await.unwrap();
    let mut answer = [0; 1024];
    let read = stream.read(&mut answer).await.unwrap();
    assert!(!String::from_utf8_lossy(&answer[..read]).contains("connection: close"));
    server.end.soon.cancel();
    stream.write_all(kept.as_bytes()).await.unwrap();
    let mut last = String::new();
    timeout(Duration::from_secs(5), stream.read_to_string(&mut last)).await.unwrap().unwrap();
    assert!(last.starts_with("HTTP/1.1 200") && last.contains("connection: close"), "{last}");
    // It is there still, for whoever comes meanwhile.
    let answer = server.ask(None, kept).await.unwrap();
    assert!(answer.ends_with("nobody's"), "{answer}");
}
