//! Certificates and keys in the cluster, written by the operator alone.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::{AUTHORITY, BUNDLE_KEY, CertificateError, Held, Pair, SERVER, SIGNING_KEY, signing_key};

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// What keeps certificates and keys from being read or made.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The API server.
    #[error("can't read the controller's Secrets: {0}")]
    Api(#[from] kube::Error),
    /// The signing key is not one.
    #[error(
        "Secret {SIGNING_KEY}: seed must be 32 bytes; without the one that machines were started with the controller \
         can't change them any more: restore it, or delete the Secret and restart them"
    )]
    Seed,
    /// A certificate can't be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// What is in `namespace`: the certificates, and the Secret with the signing key, which is made where there is none.
pub async fn read(client: &Client, namespace: &str) -> Result<(Held, Secret), StoreError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let authority = secrets.get_opt(AUTHORITY).await?.and_then(|secret| pair(&secret));
    let server = secrets.get_opt(SERVER).await?.and_then(|secret| pair(&secret));
    let bundle = maps.get_opt(AUTHORITY).await?.and_then(|map| map.data?.remove(BUNDLE_KEY)).unwrap_or_default();
    Ok((Held { authority, bundle, server }, signing_key::ensure(client, namespace).await?))
}

/// The objects that hold `held` and the signing key, in the order in which they have to be written: the bundle first.
/// They have neither namespace nor labels.
pub fn secrets(held: &Held, signing_key: &Secret) -> Vec<Value> {
    let mut objects = vec![json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": AUTHORITY},
        "data": {BUNDLE_KEY: held.bundle},
    })];
    for (name, pair) in [(AUTHORITY, &held.authority), (SERVER, &held.server)] {
        let Some(Pair { certificate, key }) = pair else { continue };
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        objects.push(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "type": "kubernetes.io/tls",
            "data": {CERTIFICATE: bytes(certificate), KEY: bytes(key)},
        }));
    }
    objects.push(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SIGNING_KEY},
        "type": "Opaque",
        "data": signing_key.data,
    }));
    objects
}

/// A certificate and its key, where a Secret has both.
pub(super) fn pair(secret: &Secret) -> Option<Pair> {
    let text = |key| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
    Some(Pair { certificate: text(CERTIFICATE)?, key: text(KEY)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let both = |name: &str| Pair { certificate: format!("{name}'s"), key: "its key".to_owned() };
        let held = Held { authority: Some(both("authority")), bundle: "all".into(), server: Some(both("server")) };
        let objects = secrets(&held, &Secret::default());
        let secret = |at: usize| serde_json::from_value::<Secret>(objects[at].clone()).unwrap();
        assert_eq!(objects[0]["data"][BUNDLE_KEY], "all");
        assert_eq!((pair(&secret(1)), pair(&secret(2))), (held.authority, held.server));
        assert_eq!(pair(&secret(3)), None);
    }
}
