//! Who asks: the API server has authenticated whoever calls an aggregated API, and says who it is in headers. They are
//! believed of a client with a certificate of the front proxy's, which the ConfigMap `extension-apiserver-authentication`
//! describes, and of nobody else.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::HeaderMap;
use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tracing::warn;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Peer;

/// Where the API server tells the servers that it aggregates about itself.
const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";

/// The front proxy, as it is now. The default is one that nobody is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrontProxy {
    /// The common names that its certificate may have; any, where there are none.
    names: Vec<String>,
    /// The headers with the user's name, the first of which counts.
    users: Vec<String>,
    /// Those with the user's groups.
    groups: Vec<String>,
    /// How those with whatever else is known of the user begin.
    extras: Vec<String>,
}

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The groups.
    pub groups: Vec<String>,
    /// Whatever else is known, by lower-case key.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// A ConfigMap that doesn't describe a front proxy.
#[derive(Debug, thiserror::Error)]
#[error("{0}: a JSON list of texts is needed: {1}")]
pub struct FrontProxyError(&'static str, #[source] serde_json::Error);

impl FrontProxy {
    /// Kubernetes' usual one, with any name.
    #[cfg(test)]
    pub(crate) fn usual() -> Self {
        let [users, groups, extras] = ["User", "Group", "Extra-"].map(|name| vec![format!("X-Remote-{name}")]);
        Self { names: Vec::new(), users, groups, extras }
    }

    /// What a ConfigMap's data say.
    fn read(data: &BTreeMap<String, String>) -> Result<Self, FrontProxyError> {
        let list = |key: &'static str| match data.get(key).map(String::as_str) {
            None | Some("") => Ok(Vec::new()),
            Some(text) => serde_json::from_str(text).map_err(|error| FrontProxyError(key, error)),
        };
        Ok(Self {
            names: list("requestheader-allowed-names")?,
            users: list("requestheader-username-headers")?,
            groups: list("requestheader-group-headers")?,
            extras: list("requestheader-extra-headers-prefix")?,
        })
    }

    /// Whom `headers` name, if `peer` may say so.
    pub fn user(&self, peer: &Peer, headers: &HeaderMap) -> Option<User> {
        if !self.is(peer) {
            return None;
        }
        let texts = |name: &str| -> Vec<String> {
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
        };
        let name = self.users.iter().flat_map(|header| texts(header)).find(|name| !name.is_empty())?;
        let groups = self.groups.iter().flat_map(|header| texts(header)).collect();
        let mut extra = BTreeMap::<_, Vec<_>>::new();
        // The map's names are lower-case, and come once each.
        for header in headers.keys().map(axum::http::HeaderName::as_str) {
            for prefix in &self.extras {
                if let Some(key) = header.strip_prefix(prefix.to_ascii_lowercase().as_str()) {
                    extra.entry(unescaped(key)).or_default().extend(texts(header));
                }
            }
        }
        Some(User { name, groups, extra })
    }

    /// TLS has verified who signed the certificate; its name says whose it is.
    fn is(&self, peer: &Peer) -> bool {
        let Some(certificate) = &peer.0 else { return false };
        if self.names.is_empty() {
            return true;
        }
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
        let mut names = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.any(|name| self.names.iter().any(|allowed| allowed == name))
    }

    /// The front proxy of the cluster, and what keeps it up to date for as long as it is polled.
    pub fn watch(client: Client) -> (watch::Receiver<Arc<Self>>, impl Future<Output = ()> + Send + use<>) {
        let (sender, receiver) = watch::channel(Arc::default());
        let maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
        let only = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        let watching = async move {
            let maps = watcher(maps, only).default_backoff().applied_objects();
            pin_mut!(maps);
            while let Some(map) = maps.next().await {
                match map.map(|map| Self::read(&map.data.unwrap_or_default())) {
                    Ok(Ok(new)) => {
                        let new = Arc::new(new);
                        sender.send_if_modified(|old| {
                            *old != new && {
                                *old = new;
                                true
                            }
                        });
                    }
                    Ok(Err(error)) => warn!("the front proxy stays as it was: ConfigMap {NAMESPACE}/{NAME}: {error}"),
                    Err(error) => warn!("can't watch ConfigMap {NAMESPACE}/{NAME}: {error}"),
                }
            }
        };
        (receiver, watching)
    }
}

/// A key of `X-Remote-Extra-*` as it was before it became part of a header: `%`-escaped; what isn't stays as it is.
fn unescaped(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                let byte = digit(high).zip(digit(low)).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
                byte.map(|byte| (byte, after))
            }
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((*first, after));
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).unwrap_or_else(|_| key.to_owned())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::super::samples::Authority;
    use super::*;

    fn data(names: &str) -> BTreeMap<String, String> {
        [
            ("requestheader-allowed-names", names),
            ("requestheader-username-headers", r#"["X-Remote-User"]"#),
            ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
            ("requestheader-extra-headers-prefix", r#"["X-Remote-Extra-"]"#),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in all {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static(value));
        }
        headers
    }

    fn peer(authority: &Authority, name: &str) -> Peer {
        Peer(Some(CertificateDer::from_pem_slice(authority.client(name).certificate.as_bytes()).unwrap()))
    }

    #[test]
    fn headers_are_believed_of_the_front_proxy_alone() {
        let authority = Authority::new();
        let asked = headers(&[
            ("X-Remote-User", "ann"),
            ("X-Remote-Group", "staff"),
            ("X-Remote-Group", "system:authenticated"),
            ("X-Remote-Extra-scopes.example.com%2fRead", "a"),
            ("X-Remote-Extra-scopes.example.com%2fread", "b"),
            ("X-Remote-Extra-odd%zz", "c"),
            ("Authorization", "Bearer of nothing"),
        ]);
        let proxy = FrontProxy::read(&data(r#"["front-proxy-client"]"#)).unwrap();
        let user = proxy.user(&peer(&authority, "front-proxy-client"), &asked).unwrap();
        let extra = [("scopes.example.com/read", vec!["a", "b"]), ("odd%zz", vec!["c"])];
        let extra = extra.map(|(key, all)| (key.to_owned(), all.into_iter().map(str::to_owned).collect()));
        assert_eq!(
            user,
            User {
                name: "ann".to_owned(),
                groups: vec!["staff".to_owned(), "system:authenticated".to_owned()],
                extra: extra.into()
            }
        );

        assert_eq!(proxy.user(&peer(&authority, "kubelet"), &asked), None);
        assert_eq!(proxy.user(&Peer(None), &asked), None);
        assert_eq!(proxy.user(&peer(&authority, "front-proxy-client"), &headers(&[("X-Remote-Group", "staff")])), None);
        let anybody = FrontProxy::read(&data("[]")).unwrap();
        assert!(anybody.user(&peer(&authority, "kubelet"), &asked).is_some());
        assert_eq!(anybody.user(&Peer(None), &asked), None);
        assert_eq!(FrontProxy::default().user(&peer(&authority, "front-proxy-client"), &asked), None);
    }

    #[test]
    fn a_broken_map_is_told_by_its_key() {
        let mut data = data("[]");
        data.insert("requestheader-allowed-names".to_owned(), "{}".to_owned());
        let error = FrontProxy::read(&data).unwrap_err().to_string();
        assert!(error.contains("requestheader-allowed-names"), "{error}");
    }
}
