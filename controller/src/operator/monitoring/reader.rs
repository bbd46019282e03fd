//! Who reads metrics.

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use vireo_runtimeclass::cluster::KubeVirtSpec;

/// Namespaces that Prometheus may be in where the object names none, the first that is there (KubeVirt's).
const NAMESPACES: [&str; 2] = ["openshift-monitoring", "monitoring"];
/// Its account where the object names none (KubeVirt's).
const ACCOUNT: &str = "prometheus-k8s";

/// Prometheus' service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::operator) struct Reader {
    pub(super) namespace: String,
    pub(super) account: String,
}

impl Reader {
    /// The one that `spec` names, or the usual one, whose namespace has to be there: whoever could make it could read.
    pub(in crate::operator) async fn find(client: &Client, spec: &KubeVirtSpec) -> kube::Result<Option<Self>> {
        let named = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let account = named(&spec.monitor_account).unwrap_or_else(|| ACCOUNT.to_owned());
        let candidates = match named(&spec.monitor_namespace) {
            Some(namespace) => vec![namespace],
            None => NAMESPACES.map(str::to_owned).to_vec(),
        };
        let namespaces: Api<Namespace> = Api::all(client.clone());
        for namespace in candidates {
            let found = namespaces.get_opt(&namespace).await?;
            if found.is_some_and(|found| found.metadata.deletion_timestamp.is_none()) {
                return Ok(Some(Self { namespace, account }));
            }
        }
        Ok(None)
    }

    #[cfg(test)]
    pub(in crate::operator) fn usual() -> Self {
        Self { namespace: NAMESPACES[1].to_owned(), account: ACCOUNT.to_owned() }
    }
}
