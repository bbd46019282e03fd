//! What Prometheus reads of the controller that leads, and who may.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::{Api, Client, Config, api::PostParams};
use serde_json::json;
use vireo_runtimeclass::cluster::{PrintableStatus, RunStrategy, VirtualMachine};

use super::{
    Scope, Test, front,
    guests::{guest, is},
    scope::LIMIT,
    subresources::{ask, der},
    suite::NAMESPACE,
    tests,
};
use crate::kubernetes::{HOST, eventually, until};

pub(super) const ALONE: &[Test] = tests![Alone: prometheus_reads_what_the_leader_knows];

/// Where the suite's controller answers once it has a certificate.
const PORT: u16 = 8443;
/// The account that may read, and its role.
const READER: &str = "prometheus";

async fn prometheus_reads_what_the_leader_knows(scope: Scope) -> Result<()> {
    let result = all(&scope).await;
    scope.suite().kubectl(&["delete", "clusterrole,clusterrolebinding", READER, "--ignore-not-found"]).await?;
    result
}

async fn all(scope: &Scope) -> Result<()> {
    let (authority, host) = front::certify(&*scope.suite().plane().lock().await, NAMESPACE).await?;
    let accounts: Api<ServiceAccount> = scope.api();
    let account = serde_json::from_value(json!({"metadata": {"name": READER}}))?;
    accounts.create(&PostParams::default(), &account).await?;
    let rules = json!([{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]);
    let metadata = json!({"name": READER, "namespace": ""});
    let version = "rbac.authorization.k8s.io/v1";
    scope.create(json!({"apiVersion": version, "kind": "ClusterRole", "metadata": metadata, "rules": rules})).await?;
    scope
        .create(json!({
            "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": READER},
            "subjects": [{"kind": "ServiceAccount", "name": READER, "namespace": scope.namespace()}],
        }))
        .await?;
    let client = |token: Option<String>| -> Result<Client> {
        let mut config = Config::new(format!("https://{HOST}:{PORT}").parse()?);
        config.root_cert = Some(vec![der(&authority)?]);
        config.tls_server_name = Some(host.clone());
        config.auth_info.token = token.map(Into::into);
        Ok(Client::try_from(config)?)
    };
    let anybody = client(None)?;
    let asked =
        eventually("the controller answers", LIMIT, async || Ok(ask(&anybody, "GET", "/metrics", "").await.ok()));
    let asked = asked.await?;
    ensure!(matches!(&asked, Err((401, _))), "without a token: {asked:?}");
    let asked = ask(&client(Some("no token".to_owned()))?, "GET", "/metrics", "").await?;
    ensure!(matches!(&asked, Err((401, _))), "with something that is no token: {asked:?}");
    let asked = ask(&client(Some(token(scope, "default").await?))?, "GET", "/metrics", "").await?;
    ensure!(matches!(&asked, Err((403, _))), "without a right: {asked:?}");

    let reader = client(Some(token(scope, READER).await?))?;
    scope.create(guest("web", RunStrategy::Always)).await?;
    scope.vm("web", "it runs", |vm| is(vm, PrintableStatus::Running)).await?;
    let labels = [("name", "web"), ("namespace", scope.namespace())];
    let has = |page: &Page, name: &str, more: &[(&str, &str)]| page.value(name, &[&labels[..], more].concat());
    until("the guest is told of", LIMIT, async || {
        Ok(has(&Page::of(&reader).await?, "kubevirt_vm_info", &[("status", "running")]) == Some(1.0))
    })
    .await?;
    let page = Page::of(&reader).await?;
    let memory = [("resource", "memory"), ("source", "guest")];
    let told = [
        has(&page, "kubevirt_vmi_info", &[("phase", "running"), ("guest_os_machine", "vireo-1")]),
        has(&page, "kubevirt_vm_resource_requests", &memory),
        page.value("kubevirt_virt_controller_leading_status", &[]),
        page.value("kubevirt_virt_api_ready_status", &[]),
    ];
    ensure!(told == [Some(1.0), Some(67_108_864.0), Some(1.0), Some(1.0)], "{told:?}");
    let running = has(&page, "kubevirt_vm_running_status_last_transition_timestamp_seconds", &[]);
    let created = has(&page, "kubevirt_vm_create_date_timestamp_seconds", &[]);
    ensure!(running >= created && created > Some(1.6e9), "{running:?} {created:?}");
    let runs = [("phase", "Running"), ("last_phase", "Scheduled")];
    let counted = [
        page.value("kubevirt_vmi_phase_transition_time_seconds_count", &runs),
        page.value("kubevirt_rest_client_requests_total", &[("resource", "pods"), ("verb", "CREATE"), ("code", "201")]),
        page.value("kubevirt_workqueue_work_duration_seconds_count", &[("name", "virt-controller-vmi")]),
    ];
    ensure!(counted.iter().all(|count| *count >= Some(1.0)), "{counted:?}");

    scope.delete::<VirtualMachine>("web").await?;
    scope.wait_gone::<VirtualMachine>("web").await?;
    until("nothing is told of it any more", LIMIT, async || {
        let page = Page::of(&reader).await?;
        Ok(["kubevirt_vm_info", "kubevirt_vmi_info"].iter().all(|name| has(&page, name, &[]).is_none()))
    })
    .await
}

/// The token of a service account of the scope's.
async fn token(scope: &Scope, account: &str) -> Result<String> {
    let has = |account: &ServiceAccount| account.secrets.as_ref().is_some_and(|secrets| !secrets.is_empty());
    let account = scope.wait(account, "it has a token", has).await?;
    let name = account.secrets.and_then(|secrets| secrets.into_iter().next()?.name).context("its token's name")?;
    let secret = scope.api::<Secret>().get(&name).await?;
    let token = secret.data.and_then(|mut data| data.remove("token")).context("a token")?;
    Ok(String::from_utf8(token.0)?)
}

/// A page of metrics, as it was read: values by series.
struct Page(BTreeMap<String, f64>);

impl Page {
    async fn of(client: &Client) -> Result<Self> {
        let answer = ask(client, "GET", "/metrics", "").await?;
        let text = answer.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let read = samples.map(|line| {
            let (series, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
            Ok((series.to_owned(), value.parse()?))
        });
        read.collect::<Result<_>>().map(Self)
    }

    /// The value of the first series of a name that has these labels among its own.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let is = |series: &str| {
            let (of, rest) = series.split_once('{').unwrap_or((series, ""));
            let has = |(label, value): &(&str, &str)| {
                let text = format!("{label}=\"{value}\"");
                rest.split(&text).count() > 1
            };
            of == name && labels.iter().all(has)
        };
        self.0.iter().find(|(series, _)| is(series)).map(|(_, value)| *value)
    }
}
