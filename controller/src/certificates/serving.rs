//! The TLS configuration of the controller's server, as it is now.

use std::pin::pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, version};
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};
use vireo_runtimeclass::cluster::{TlsConfiguration, TlsVersion};

use super::{CertificateError, Pair, SERVER, store};
use crate::Settings;

/// Where the API server says by which authority it signs what it forwards.
const FRONT_PROXY: (&str, &str) = ("kube-system", "extension-apiserver-authentication");
const FRONT_PROXY_KEY: &str = "requestheader-client-ca-file";

/// What keeps the server from speaking TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Its own certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A cipher suite that isn't one of TLS 1.2, or not a safe one.
    #[error(
        "spec.configuration.tlsConfiguration.ciphers: {0} is not supported; of TLS 1.2 there are {names}",
        names = supported().join(", ")
    )]
    Cipher(String),
    /// Cipher suites are those of TLS 1.2; 1.3 has but safe ones.
    #[error("spec.configuration.tlsConfiguration.ciphers: can be chosen only with minTLSVersion: VersionTLS12")]
    NoChoice,
    /// Everything else.
    #[error("the controller's TLS configuration: {0}")]
    Rustls(#[from] rustls::Error),
    /// The API server's authority.
    #[error("ConfigMap kube-system/extension-apiserver-authentication: {0}")]
    FrontProxy(String),
}

/// Whether TLS and certificates are made by a module that is in FIPS mode: the feature `fips` builds one.
pub fn is_fips() -> bool {
    aws_lc_rs::default_provider().fips()
}

fn supported() -> Vec<&'static str> {
    let suites = aws_lc_rs::default_provider().cipher_suites.into_iter();
    suites.filter(|suite| suite.tls13().is_none()).filter_map(|suite| suite.suite().as_str()).collect()
}

/// A server's configuration: its certificate, the authority of clients (PEM), and what the cluster says of TLS. A client need not
/// have a certificate.
pub fn server_config(
    pair: &Pair,
    clients: Option<&str>,
    tls: Option<&TlsConfiguration>,
) -> Result<ServerConfig, TlsError> {
    let mut provider = aws_lc_rs::default_provider();
    let oldest = tls.and_then(|tls| tls.min_tls_version).unwrap_or(TlsVersion::Tls13);
    if let Some(ciphers) = tls.map(|tls| &tls.ciphers).filter(|ciphers| !ciphers.is_empty()) {
        if oldest != TlsVersion::Tls12 {
            return Err(TlsError::NoChoice);
        }
        if let Some(unknown) = ciphers.iter().find(|cipher| !supported().contains(&cipher.as_str())) {
            return Err(TlsError::Cipher(unknown.clone()));
        }
        let is_chosen = |name: &str| ciphers.iter().any(|cipher| cipher == name);
        provider.cipher_suites.retain(|suite| suite.tls13().is_some() || suite.suite().as_str().is_some_and(is_chosen));
    }
    let provider = Arc::new(provider);
    let versions: &[_] = match oldest {
        TlsVersion::Tls12 => &[&version::TLS12, &version::TLS13],
        TlsVersion::Tls13 => &[&version::TLS13],
    };
    let verifier = match clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(authorities) => verifier(authorities, &provider)?,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![pair.certificate_der()?], pair.key_der()?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn verifier(
    authorities: &str,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(certificate.map_err(|error| TlsError::FrontProxy(error.to_string()))?)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::FrontProxy(error.to_string()))
}

/// The configuration as it is now.
pub type Serving = watch::Receiver<Arc<ServerConfig>>;

/// Waits for the operator's certificate and the API server's authority, then keeps to what they are and to what `settings` say of
/// TLS, for as long as somebody listens. A configuration that is wrong (which admission refuses) changes nothing.
pub async fn serving(client: Client, namespace: &str, settings: Settings) -> Serving {
    let certificates: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let front_proxy: Api<ConfigMap> = Api::namespaced(client, FRONT_PROXY.0);
    keeping(one(certificates, SERVER), one(front_proxy, FRONT_PROXY.1), settings).await
}

/// The same, of a server that asks no client for a certificate.
pub async fn serving_anybody(client: Client, namespace: &str, settings: Settings) -> Serving {
    let certificates: Api<Secret> = Api::namespaced(client, namespace);
    let nobody = stream::once(std::future::ready(None)).chain(stream::pending());
    keeping(one(certificates, SERVER), nobody, settings).await
}

async fn keeping(
    certificates: impl Stream<Item = Option<Secret>> + Send + 'static,
    front_proxy: impl Stream<Item = Option<ConfigMap>> + Send + 'static,
    settings: Settings,
) -> Serving {
    let (ready, first) = oneshot::channel();
    tokio::spawn(keep(certificates, front_proxy, settings, ready));
    match first.await {
        Ok(serving) => serving,
        // The runtime ends, and this with it.
        Err(_) => std::future::pending().await,
    }
}

/// The one object of a name, each time that it changes; None where there is none.
fn one<K>(api: Api<K>, name: &'static str) -> impl Stream<Item = Option<K>> + Send
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    watcher(api, config).default_backoff().filter_map(move |event| async move {
        match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => Some(Some(object)),
            Ok(watcher::Event::Delete(_)) => Some(None),
            Ok(watcher::Event::Init | watcher::Event::InitDone) => None,
            Err(error) => {
                warn!("can't watch {} {name}: {error}", K::kind(&()));
                None
            }
        }
    })
}

async fn keep(
    certificates: impl Stream<Item = Option<Secret>>,
    front_proxy: impl Stream<Item = Option<ConfigMap>>,
    mut settings: Settings,
    ready: oneshot::Sender<Serving>,
) {
    let (mut certificates, mut front_proxy) = (pin!(certificates), pin!(front_proxy));
    let (mut pair, mut clients) = (None, None::<Option<String>>);
    let (mut ready, mut sender) = (Some(ready), None::<watch::Sender<Arc<ServerConfig>>>);
    loop {
        tokio::select! {
            Some(secret) = certificates.next() => {
                let read = secret.as_ref().and_then(store::pair);
                if read.is_none() {
                    warn!("Secret {SERVER} has no certificate: the operator makes it");
                }
                pair = read.or(pair);
            }
            Some(map) = front_proxy.next() => clients = Some(map.and_then(|map| map.data?.remove(FRONT_PROXY_KEY))),
            () = settings.changed() => {}
        }
        let (Some(pair), Some(clients)) = (&pair, &clients) else { continue };
        let config = match server_config(pair, clients.as_deref(), settings.now().tls_configuration.as_ref()) {
            Ok(config) => Arc::new(config),
            Err(error) => {
                warn!("TLS stays as it is: {error}");
                continue;
            }
        };
        match (&sender, ready.take()) {
            (Some(sender), _) => drop(sender.send_replace(config)),
            (None, ready) => {
                let (new, receiver) = watch::channel(config);
                sender = Some(new);
                drop(ready.map(|ready| ready.send(receiver)));
            }
        }
        if sender.as_ref().is_some_and(watch::Sender::is_closed) {
            return;
        }
        info!("TLS has a new configuration");
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ProtocolVersion, SupportedCipherSuite};
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::super::{Held, Lifetimes, issue, rotate};
    use super::*;

    const NAME: &str = "vireo-controller.kubevirt.svc";

    fn held() -> Held {
        rotate(jiff::Timestamp::now(), &Lifetimes::of(None).unwrap(), &[NAME.to_owned()], &Held::default()).unwrap().0
    }

    /// The version and the client's name as the server sees them.
    async fn shake(
        held: &Held,
        server: ServerConfig,
        versions: &[&'static rustls::SupportedProtocolVersion],
        own: Option<&Pair>,
    ) -> Result<(ProtocolVersion, SupportedCipherSuite, bool), std::io::Error> {
        let mut roots = RootCertStore::empty();
        let authority = held.authority.as_ref().unwrap();
        roots.add(authority.certificate_der().unwrap()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let client = match own {
            Some(pair) => {
                client.with_client_auth_cert(vec![pair.certificate_der().unwrap()], pair.key_der().unwrap()).unwrap()
            }
            None => client.with_no_client_auth(),
        };
        let (near, far) = tokio::io::duplex(1 << 16);
        let connect = async {
            let name = ServerName::try_from(NAME).unwrap();
            let mut stream = TlsConnector::from(Arc::new(client)).connect(name, near).await?;
            stream.write_all(b"x").await?;
            stream.read_u8().await
        };
        let accept = async {
            let mut stream = TlsAcceptor::from(Arc::new(server)).accept(far).await?;
            let byte = stream.read_u8().await?;
            stream.write_all(&[byte]).await?;
            stream.flush().await?;
            let connection = stream.get_ref().1;
            Ok::<_, std::io::Error>((
                connection.protocol_version().unwrap(),
                connection.negotiated_cipher_suite().unwrap(),
                connection.peer_certificates().is_some(),
            ))
        };
        let (connected, accepted) = tokio::join!(connect, accept);
        connected.and(accepted)
    }

    fn tls(value: serde_json::Value) -> TlsConfiguration {
        serde_json::from_value(value).unwrap()
    }

    #[tokio::test]
    async fn tls_is_what_the_cluster_says() {
        let held = held();
        let pair = held.server.as_ref().unwrap();
        let default = || server_config(pair, None, None).unwrap();
        assert_eq!(shake(&held, default(), rustls::ALL_VERSIONS, None).await.unwrap().0, ProtocolVersion::TLSv1_3);
        assert!(shake(&held, default(), &[&version::TLS12], None).await.is_err());
        let old = || server_config(pair, None, Some(&tls(json!({"minTLSVersion": "VersionTLS12"})))).unwrap();
        assert_eq!(shake(&held, old(), &[&version::TLS12], None).await.unwrap().0, ProtocolVersion::TLSv1_2);
        // Not the one that would be taken.
        let one = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
        let chosen = tls(json!({"minTLSVersion": "VersionTLS12", "ciphers": [one]}));
        let config = server_config(pair, None, Some(&chosen)).unwrap();
        let (_, suite, _) = shake(&held, config, &[&version::TLS12], None).await.unwrap();
        assert_eq!(suite.suite().as_str(), Some(one));
    }

    #[test]
    fn tls_is_in_fips_mode_where_it_was_built_for_it() {
        let is = cfg!(feature = "fips");
        assert_eq!(is_fips(), is);
        let held = held();
        let pair = held.server.as_ref().unwrap();
        for oldest in ["VersionTLS12", "VersionTLS13"] {
            let config = server_config(pair, None, Some(&tls(json!({"minTLSVersion": oldest})))).unwrap();
            assert_eq!(config.fips(), is, "{oldest}");
        }
    }

    #[test]
    fn ciphers_that_cannot_be_had_are_named() {
        let held = held();
        let refused =
            |value| server_config(held.server.as_ref().unwrap(), None, Some(&tls(value))).unwrap_err().to_string();
        let weak = refused(json!({"minTLSVersion": "VersionTLS12", "ciphers": ["TLS_RSA_WITH_RC4_128_SHA"]}));
        assert!(
            weak.contains("TLS_RSA_WITH_RC4_128_SHA is not supported") && weak.contains("TLS_ECDHE_ECDSA"),
            "{weak}"
        );
        assert!(refused(json!({"ciphers": ["TLS_AES_128_GCM_SHA256"]})).contains("VersionTLS12"));
    }

    #[tokio::test]
    async fn a_client_is_known_by_its_authority_only() {
        let (held, other) = (held(), held());
        let now = jiff::Timestamp::now();
        let authority = issue::authority(now, Lifetimes::of(None).unwrap().authority).unwrap();
        let client = {
            let authority = rcgen::KeyPair::from_pem(&authority.key)
                .and_then(|key| rcgen::Issuer::from_ca_cert_pem(&authority.certificate, key))
                .unwrap();
            let mut params = rcgen::CertificateParams::new(vec!["front-proxy-client".to_owned()]).unwrap();
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &authority).unwrap().pem();
            Pair { certificate, key: key.serialize_pem() }
        };
        let pair = held.server.as_ref().unwrap();
        let config = |authority: &Pair| server_config(pair, Some(&authority.certificate), None).unwrap();
        let versions = rustls::ALL_VERSIONS;
        assert!(shake(&held, config(&authority), versions, Some(&client)).await.unwrap().2);
        assert!(!shake(&held, config(&authority), versions, None).await.unwrap().2);
        assert!(shake(&held, config(other.authority.as_ref().unwrap()), versions, Some(&client)).await.is_err());
    }

    #[tokio::test]
    async fn a_new_certificate_is_served_and_a_lost_one_goes_on() {
        let secret = |held: &Held| {
            let Pair { certificate, key } = held.server.clone().unwrap();
            let data = [("tls.crt", certificate), ("tls.key", key)];
            Secret {
                data: Some(data.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes()))).into()),
                ..Secret::default()
            }
        };
        let (first, second) = (held(), held());
        let (sender, secrets) = tokio::sync::mpsc::unbounded_channel();
        let secrets = stream::unfold(secrets, async |mut secrets| Some((secrets.recv().await?, secrets)));
        let (ready, receiver) = oneshot::channel();
        let settings = Settings::fixed(vireo_runtimeclass::cluster::KubeVirtConfiguration::default());
        let front_proxy = stream::iter([None]).chain(stream::pending());
        let keeping = tokio::spawn(keep(secrets, front_proxy, settings, ready));
        sender.send(None).unwrap();
        sender.send(Some(secret(&first))).unwrap();
        let mut serving = receiver.await.unwrap();
        let config = |serving: &Serving| ServerConfig::clone(&serving.borrow());
        shake(&first, config(&serving), rustls::ALL_VERSIONS, None).await.unwrap();
        sender.send(Some(secret(&second))).unwrap();
        serving.changed().await.unwrap();
        shake(&second, config(&serving), rustls::ALL_VERSIONS, None).await.unwrap();
        sender.send(None).unwrap();
        serving.changed().await.unwrap();
        shake(&second, config(&serving), rustls::ALL_VERSIONS, None).await.unwrap();
        drop(serving);
        sender.send(None).unwrap();
        keeping.await.unwrap();
    }
}
