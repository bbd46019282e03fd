//! Who asks Vireo all the time, and wants to be answered each time: no client here tries twice.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::future::LocalBoxFuture;
use k8s_openapi::{
    ByteString,
    api::{admissionregistration::v1::ValidatingWebhookConfiguration, core::v1::Endpoints},
};
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio::{
    task::{JoinHandle, spawn_local},
    time::{MissedTickBehavior, interval, timeout},
};
use tungstenite::http::Request;
use vireo_runtimeclass::cluster::VirtualMachine;

use super::vireo::own;
use crate::{
    cluster::{Scope, front::VERSIONS},
    kubernetes::until,
};

/// How often each asks.
const PACE: Duration = Duration::from_millis(100);
/// How long an answer may take, on a machine under load.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often each must have asked for its word to count.
const ENOUGH: usize = 10;

/// How often each was answered, and what wasn't as it should be.
#[derive(Debug, Default)]
struct Heard {
    answers: BTreeMap<&'static str, usize>,
    failures: Vec<String>,
}

/// Those who ask; they end with this.
#[derive(Debug)]
pub(super) struct Callers {
    heard: Rc<RefCell<Heard>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What each of them does, once.
type Call = fn(Rc<Asked>) -> LocalBoxFuture<'static, Result<()>>;

const CALLS: &[(&str, Call)] = &[
    ("the aggregated API", |asked| Box::pin(async move { aggregated(&asked).await })),
    ("the webhooks", |asked| Box::pin(async move { admitted(&asked).await })),
    ("a webhook that refuses", |asked| Box::pin(async move { refused(&asked).await })),
    ("new connections", |asked| Box::pin(async move { connected(&asked).await })),
];

/// What they ask with.
struct Asked {
    client: Client,
    scope: Scope,
}

impl Callers {
    /// Starts them; comes back when each was answered once.
    pub(super) async fn start(scope: &Scope) -> Result<Self> {
        let kubeconfig = scope.suite().plane().lock().await.kubeconfig();
        let read = Kubeconfig::read_from(kubeconfig)?;
        let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        config.default_retry = false;
        let asked = Rc::new(Asked { client: Client::try_from(config)?, scope: scope.clone() });
        let mut callers = Self { heard: Rc::default(), tasks: Vec::new() };
        for &(name, call) in CALLS {
            // An API server routes what has just been registered a moment after it has called it available.
            until(name, PATIENCE * 3, async || Ok(call(Rc::clone(&asked)).await.is_ok())).await?;
            callers.tasks.push(spawn_local(keep_asking(name, call, Rc::clone(&asked), Rc::clone(&callers.heard))));
        }
        callers.ask_at_least(1).await?;
        Ok(callers)
    }

    /// Waits until each has been answered so often since.
    async fn ask_at_least(&self, times: usize) -> Result<()> {
        until("every caller's answers", PATIENCE * 3, async || {
            self.check()?;
            let heard = self.heard.borrow();
            Ok(CALLS.iter().all(|(name, _)| heard.answers.get(name).is_some_and(|count| *count >= times)))
        })
        .await
    }

    /// Fails if one of them has not been answered as it should.
    pub(super) fn check(&self) -> Result<()> {
        let heard = self.heard.borrow();
        ensure!(heard.failures.is_empty(), "answered: {:?}; but\n{}", heard.answers, heard.failures.join("\n"));
        Ok(())
    }

    /// Ends them; fails if one of them was not answered as it should, or hasn't asked often. How often each was answered.
    pub(super) async fn end(self) -> Result<String> {
        self.ask_at_least(ENOUGH).await?;
        let heard = self.heard.borrow();
        let counts: Vec<_> = heard.answers.iter().map(|(name, count)| format!("{name} {count}")).collect();
        Ok(counts.join(", "))
    }
}

async fn keep_asking(name: &'static str, call: Call, asked: Rc<Asked>, heard: Rc<RefCell<Heard>>) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        let answer = match timeout(PATIENCE, call(Rc::clone(&asked))).await {
            Ok(answer) => answer,
            Err(_) => Err(anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs())),
        };
        let mut heard = heard.borrow_mut();
        match answer {
            Ok(()) => *heard.answers.entry(name).or_default() += 1,
            Err(error) => {
                let now = k8s_openapi::jiff::Timestamp::now();
                heard.failures.push(format!("{now} {name}: {error:#}"));
            }
        }
    }
}

/// Every version is there.
async fn aggregated(asked: &Asked) -> Result<()> {
    for version in VERSIONS {
        let path = format!("/apis/subresources.kubevirt.io/{version}/version");
        let said = asked.client.request_text(Request::get(path).body(Vec::new())?).await?;
        ensure!(said.contains("gitVersion"), "{said}");
    }
    Ok(())
}

fn machine(memory: &str) -> Result<VirtualMachine> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "asked"},
        "spec": {"runStrategy": "Halted", "template": {"spec": {
            "domain": {"memory": {"guest": memory}, "devices": {}},
        }}},
    }))?)
}

async fn create(asked: &Asked, memory: &str) -> Result<Result<VirtualMachine, kube::Error>> {
    let machines: Api<VirtualMachine> = Api::namespaced(asked.client.clone(), asked.scope.namespace());
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    Ok(machines.create(&dry, &machine(memory)?).await)
}

/// It is given its defaults, and let in.
async fn admitted(asked: &Asked) -> Result<()> {
    let machine = create(asked, "1Gi").await??;
    let spec = &machine.unread.value()["template"]["spec"];
    ensure!(spec["architecture"] == "amd64", "it has no defaults: {spec}");
    Ok(())
}

/// It is refused by name.
async fn refused(asked: &Asked) -> Result<()> {
    match create(asked, "0").await? {
        Err(kube::Error::Api(status)) if status.message.contains("spec.template.spec.domain.memory") => Ok(()),
        other => anyhow::bail!("{other:?}"),
    }
}

/// Whoever trusts what the API server trusts now can trust every replica that is ready.
async fn connected(asked: &Asked) -> Result<()> {
    let webhooks: Api<ValidatingWebhookConfiguration> = Api::all(asked.client.clone());
    let webhooks = webhooks.get("virt-api-validator").await?.webhooks.unwrap_or_default();
    let ByteString(bundle) =
        webhooks.first().and_then(|webhook| webhook.client_config.ca_bundle.clone()).context("it has a bundle")?;
    let endpoints = own::<Endpoints>(&asked.scope).get("vireo-controller").await?.subsets.unwrap_or_default();
    for address in endpoints.iter().flat_map(|subset| subset.addresses.iter().flatten()) {
        let mut config = Config::new(format!("https://{}:8443", address.ip).parse()?);
        config.root_cert = Some(authorities(&bundle)?);
        config.tls_server_name = Some("vireo-controller.kubevirt.svc".to_owned());
        config.default_retry = false;
        let request = Request::get("/apis").body(Vec::new())?;
        match Client::try_from(config)?.request_text(request).await {
            // It lets nobody in but the API server, by TLS that holds.
            Ok(_) | Err(kube::Error::Api(_)) => {}
            Err(error) => {
                // One that has ended since is nobody's any more.
                let now = own::<Endpoints>(&asked.scope).get("vireo-controller").await?.subsets.unwrap_or_default();
                let is_there =
                    now.iter().flat_map(|subset| subset.addresses.iter().flatten()).any(|now| now.ip == address.ip);
                ensure!(!is_there, "{}: {error}", address.ip);
            }
        }
    }
    Ok(())
}

fn authorities(bundle: &[u8]) -> Result<Vec<Vec<u8>>> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let text = std::str::from_utf8(bundle)?;
    let pems = text.split("-----END CERTIFICATE-----").filter(|pem| pem.contains("BEGIN"));
    pems.map(|pem| {
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        Ok(BASE64_STANDARD.decode(body)?)
    })
    .collect()
}
