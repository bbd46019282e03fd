//! The controller's webhooks, in this process.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use vireo_controller::{
    Settings,
    admission::{
        self, Accounts,
        configurations::{self, Server},
    },
    certificates::{Pair, server_config},
    health::Health,
    metrics::{Metrics, Part},
    serve::serve,
};
use vireo_runtimeclass::cluster::{KubeVirtConfiguration, VirtualMachineInstance};

use crate::kubernetes::{ControlPlane, HOST, until};

/// How long the API server may take to hear of a configuration.
const LIMIT: Duration = Duration::from_secs(30);

/// Webhooks that answer; dropping them ends them, and the API server then lets nothing in until [`Webhooks::end`].
#[derive(Debug)]
pub struct Webhooks {
    configuration: watch::Sender<Arc<KubeVirtConfiguration>>,
    _stop: DropGuard,
}

impl Webhooks {
    /// Starts them, and makes the API server ask. `own` is a user that is Vireo itself.
    pub async fn start(plane: &ControlPlane, own: &str) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.context("listen")?;
        let url = format!("https://{HOST}:{}", listener.local_addr()?.port());
        let issued = plane.authority().server("webhooks", &[&HOST.to_string()])?;
        let pair = Pair { certificate: issued.certificate, key: issued.key };
        let (_, tls) = watch::channel(Arc::new(server_config(&pair, None, None)?));
        let (configuration, settings) = Settings::adjustable(KubeVirtConfiguration::default());
        let accounts = Accounts::of("kubevirt", [own.to_owned()]);
        let metrics = Metrics::new(Part::Controller, Health::default());
        let router = admission::router(plane.client().clone(), settings, accounts, metrics);
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, tls, router, stop.clone().into()));

        let (server, authority) = (Server::Url(url), plane.authority().certificate());
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(plane.client().clone());
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(plane.client().clone());
        let new = PostParams::default();
        mutating.create(&new, &configurations::mutating(&server, authority.as_bytes())).await?;
        validating.create(&new, &configurations::validating(&server, authority.as_bytes())).await?;
        Ok(Self { configuration, _stop: stop.drop_guard() })
    }

    /// Waits until the API server asks all of them.
    pub async fn answers(&self, client: &Client, namespace: &str) -> Result<()> {
        let instances: Api<VirtualMachineInstance> = Api::namespaced(client.clone(), namespace);
        let object = |machine: serde_json::Value| {
            serde_json::from_value::<VirtualMachineInstance>(json!({
                "apiVersion": "kubevirt.io/v1",
                "kind": "VirtualMachineInstance",
                "metadata": {"name": "asked"},
                "spec": {"domain": machine},
            }))
        };
        let (right, wrong) =
            (object(json!({"memory": {"guest": "1Gi"}, "devices": {}}))?, object(json!({"devices": {}}))?);
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        until("the API server asks the webhooks", LIMIT, async || {
            let defaulted = instances.create(&dry, &right).await?.unread.value()["architecture"] == "amd64";
            Ok(defaulted && instances.create(&dry, &wrong).await.is_err())
        })
        .await
    }

    /// What the cluster is configured like from now on.
    pub fn configure(&self, configuration: KubeVirtConfiguration) {
        self.configuration.send_replace(Arc::new(configuration));
    }

    /// The API server asks them no more.
    pub async fn end(self, client: &Client) -> Result<()> {
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
        mutating.delete(configurations::MUTATING, &DeleteParams::default()).await?;
        validating.delete(configurations::VALIDATING, &DeleteParams::default()).await?;
        Ok(())
    }
}
