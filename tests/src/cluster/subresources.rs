//! The aggregated API behind a real API server, answered from this process: who is let in, what commands write, and a stream.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tungstenite::{ClientRequestBuilder, Message, http::Request};
use vireo_controller::{
    Context as Shared, Settings, certificates,
    health::Health,
    metrics::{Metrics, Part},
    serve::{FrontProxy, serve},
    subresources,
};
use vireo_runtimeclass::{
    cluster::{KubeVirtConfiguration, RunStrategy, VirtualMachine, VirtualMachineInstance},
    machine_service::token::Signer,
};

use super::{
    Scope, Test,
    front::{VERSIONS, aggregate, certify, separate},
    tests,
};
use crate::kubernetes::{HOST, until};

pub(super) const ALONE: &[Test] = tests![Alone: virtctl_s_calls_are_answered_to_whoever_may];

const LIMIT: Duration = Duration::from_mins(1);

/// Without the controller, which would act on what is written here.
async fn virtctl_s_calls_are_answered_to_whoever_may(scope: Scope) -> Result<()> {
    scope.suite().stop_controller().await?;
    let stop = CancellationToken::new();
    let _ends = stop.clone().drop_guard();
    let direct = answer(&scope, &stop).await?;
    let held = all(&scope, &direct).await;
    separate(scope.client()).await?;
    scope.suite().start_controller().await?;
    held
}

/// Starts it, and tells the API server. A client that doesn't go through that.
async fn answer(scope: &Scope, stop: &CancellationToken) -> Result<Client> {
    let namespace = scope.namespace();
    let (authority, host) = certify(&*scope.suite().plane().lock().await, namespace).await?;
    let client = scope.client().clone();
    let configuration = json!({"developerConfiguration": {"featureGates": ["ObjectGraph", "VSOCK"]}});
    let configuration: KubeVirtConfiguration = serde_json::from_value(configuration)?;
    let settings = Settings::fixed(configuration);
    let signer = Arc::new(Signer::new(&[7; 32]));
    let metrics = Metrics::new(Part::Controller, Health::default());
    let context =
        Shared { client: client.clone(), settings: settings.clone(), signer, namespace: namespace.to_owned(), metrics };
    let (front_proxy, following) = FrontProxy::watch(client.clone());
    tokio::spawn(following);
    let router = subresources::router(context, front_proxy, stop.clone());
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.context("listen")?;
    let port = listener.local_addr()?.port();
    let tls = certificates::serving(client, namespace, settings).await;
    tokio::spawn(serve(listener, tls, router, stop.clone().into()));

    aggregate(scope.client(), namespace, port, &authority).await?;
    let mut config = Config::new(format!("https://{HOST}:{port}").parse()?);
    config.root_cert = Some(vec![der(&authority)?]);
    config.tls_server_name = Some(host);
    Ok(Client::try_from(config)?)
}

/// The one certificate of a PEM.
pub(super) fn der(text: &str) -> Result<Vec<u8>> {
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    Ok(BASE64_STANDARD.decode(body)?)
}

/// Asks; what is answered, or the code and the message of a `Status`.
pub(super) async fn ask(
    client: &Client,
    method: &str,
    path: &str,
    body: &str,
) -> Result<Result<String, (u16, String)>> {
    let request = Request::builder().method(method).uri(path).body(body.as_bytes().to_vec())?;
    match client.request_text(request).await {
        Ok(answer) => Ok(Ok(answer)),
        Err(kube::Error::Api(status)) => Ok(Err((status.code, status.message.clone()))),
        Err(error) => Err(error.into()),
    }
}

async fn all(scope: &Scope, direct: &Client) -> Result<()> {
    let (admin, namespace) = (scope.client(), scope.namespace());
    let group = "/apis/subresources.kubevirt.io/v1";
    until("the API server forwards", LIMIT, async || Ok(ask(admin, "GET", group, "").await?.is_ok())).await?;
    let listed =
        scope.suite().kubectl(&["api-resources", "--api-group=subresources.kubevirt.io", "-o", "name"]).await?;
    // Subresources aren't listed: this one is none.
    ensure!(listed.contains("expand-vm-spec"), "{listed}");
    for version in VERSIONS {
        let path = format!("/apis/subresources.kubevirt.io/{version}/version");
        let said = scope.suite().kubectl(&["get", "--raw", &path]).await?;
        ensure!(said.contains("gitVersion"), "{said}");
    }

    scope
        .create(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "a"},
            "spec": {"runStrategy": "Halted", "template": {"spec": {
                "domain": {"memory": {"guest": "1Gi"}, "devices": {}},
            }}},
        }))
        .await?;
    let start = format!("{group}/namespaces/{namespace}/virtualmachines/a/start");
    let told = ask(direct, "PUT", &start, "").await?;
    ensure!(matches!(&told, Err((401, _))), "without the front proxy: {told:?}");
    let user = scope.suite().user("ann").await?;
    let told = ask(&user, "PUT", &start, "").await?;
    // The API server's own authorizer, or ours: both say no.
    ensure!(matches!(&told, Err((403, _))), "without a right: {told:?}");
    let start_it =
        json!({"apiGroups": ["subresources.kubevirt.io"], "resources": ["virtualmachines/start"], "verbs": ["update"]});
    permit(scope, "ann", start_it).await?;
    until("ann may", LIMIT, async || Ok(ask(&user, "PUT", &start, "").await?.is_ok())).await?;
    let always = |machine: &VirtualMachine| machine.unread.value()["runStrategy"] == json!(RunStrategy::Always);
    scope.vm("a", "it is started", always).await?;
    let path = |call: &str| format!("{group}/namespaces/{namespace}/virtualmachines/a/{call}");
    let told = ask(&user, "PUT", &path("stop"), "").await?;
    ensure!(matches!(&told, Err((403, _))), "start is no right to stop: {told:?}");
    let told = ask(admin, "PUT", &path("stop"), r#"{"dryRun": ["All"]}"#).await?;
    ensure!(told.is_ok(), "{told:?}");
    let told = ask(admin, "PUT", &path("stop"), "").await?;
    ensure!(told.is_ok(), "{told:?}");
    scope
        .vm("a", "it is halted", |machine| machine.unread.value()["runStrategy"] == json!(RunStrategy::Halted))
        .await?;
    let told = ask(admin, "PUT", &path("restart"), "").await?;
    ensure!(matches!(&told, Err((409, why)) if why.contains("Halted does not support")), "{told:?}");
    let told = ask(admin, "PUT", &path("migrate"), "").await?;
    ensure!(matches!(&told, Err((501, why)) if why.contains("not built yet")), "{told:?}");
    let graph = ask(admin, "GET", &path("objectgraph"), "").await?;
    ensure!(matches!(&graph, Ok(graph) if graph.contains(r#""kind":"VirtualMachine""#)), "{graph:?}");
    expansion(scope, &path("expand-spec"), &format!("{group}/namespaces/{namespace}/expand-vm-spec")).await?;
    let told = ask(admin, "PUT", &path("start").replace("/a/", "/b/"), "").await?;
    ensure!(matches!(&told, Err((404, why)) if why == r#"virtualmachine.kubevirt.io "b" not found"#), "{told:?}");
    instance(scope, group).await
}

/// A machine that names no size is what it was; one that is sent has the size of its instancetype.
async fn expansion(scope: &Scope, stored: &str, sent: &str) -> Result<()> {
    let admin = scope.client();
    let machine = ask(admin, "GET", stored, "").await?;
    ensure!(matches!(&machine, Ok(machine) if machine.contains(r#""guest":"1Gi""#)), "{machine:?}");
    scope
        .create(json!({
            "apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": "VirtualMachineInstancetype",
            "metadata": {"name": "small"}, "spec": {"cpu": {"guest": 2}, "memory": {"guest": "3Gi"}},
        }))
        .await?;
    let machine = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "c"},
        "spec": {
            "runStrategy": "Halted", "instancetype": {"name": "small", "kind": "VirtualMachineInstancetype"},
            "template": {"spec": {"domain": {"devices": {}}}},
        },
    });
    let machine = ask(admin, "PUT", sent, &machine.to_string()).await?;
    ensure!(matches!(&machine, Ok(machine) if machine.contains(r#""guest":"3Gi""#)), "{machine:?}");
    Ok(())
}

/// Calls on an instance that says what the test makes it say.
async fn instance(scope: &Scope, group: &str) -> Result<()> {
    let admin = scope.client();
    scope
        .create(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "i"},
            "spec": {"domain": {"memory": {"guest": "1Gi"}, "devices": {"autoattachVSOCK": true}}, "volumes": [
                {"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "seed"}}},
            ]},
        }))
        .await?;
    let base = format!("{group}/namespaces/{}/virtualmachineinstances/i", scope.namespace());
    let told = ask(admin, "PUT", &format!("{base}/unpause"), "").await?;
    ensure!(matches!(&told, Err((409, _))), "it doesn't run: {told:?}");
    let told = ask(admin, "PUT", &format!("{base}/softreboot"), "").await?;
    ensure!(matches!(&told, Err((409, why)) if why.ends_with("VM is not running")), "{told:?}");
    let told = ask(admin, "GET", &format!("{base}/vsock?port=22&tls=false"), "").await?;
    ensure!(matches!(&told, Err((400, why)) if why.contains("instead of Running")), "{told:?}");
    let (echo, port) = {
        let listener = std::net::TcpListener::bind((HOST, 0))?;
        let port = listener.local_addr()?.port();
        let echo = std::thread::spawn(move || -> std::io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            let mut piece = [0; 5];
            stream.read_exact(&mut piece)?;
            stream.write_all(&piece)
        });
        (echo, port)
    };
    let status =
        json!({"status": {"phase": "Running", "interfaces": [{"name": "default", "ipAddress": HOST.to_string()}]}});
    let instances: Api<VirtualMachineInstance> = scope.api();
    instances.patch_status("i", &PatchParams::default(), &Patch::Merge(status)).await?;

    reached(scope, &base).await?;

    let mut proxy = scope.suite().plane().lock().await.kubectl();
    let mut proxy = proxy.args(["proxy", "--port=0"]).stdout(Stdio::piped()).spawn()?;
    let output = proxy.stdout.take().context("kubectl proxy says where it is")?;
    let path = format!("{base}/portforward/{port}");
    let talked = tokio::task::spawn_blocking(move || talk(output, &path)).await?;
    proxy.kill()?;
    proxy.wait()?;
    talked?;
    echo.join().map_err(|_| anyhow::anyhow!("the echo panicked"))??;
    Ok(())
}

/// What is answered before a machine is asked; that of this instance has no pod.
async fn reached(scope: &Scope, base: &str) -> Result<()> {
    let admin = scope.client();
    for (path, code, said) in [
        ("vsock?port=22", 501, "ask with tls=false"),
        ("vsock?port=22&tls=true", 501, "ask with tls=false"),
        ("vsock?tls=false", 400, "port: must be"),
        ("vsock?port=22&tls=false", 400, "a WebSocket is needed"),
    ] {
        let told = ask(admin, "GET", &format!("{base}/{path}"), "").await?;
        ensure!(matches!(&told, Err((found, why)) if *found == code && why.contains(said)), "{path}: {told:?}");
    }
    let told = ask(admin, "PUT", &format!("{base}/softreboot"), "").await?;
    ensure!(matches!(&told, Err((409, why)) if why.contains("no pod that runs")), "{told:?}");
    let ann = scope.suite().user("ann").await?;
    for (method, call) in [("GET", "vsock?port=22&tls=false"), ("PUT", "softreboot"), ("GET", "objectgraph")] {
        let told = ask(&ann, method, &format!("{base}/{call}"), "").await?;
        ensure!(matches!(&told, Err((403, _))), "{call} without a right: {told:?}");
    }
    let graph = ask(admin, "GET", &format!("{base}/objectgraph"), "").await?;
    let graph = graph.map_err(|(code, why)| anyhow::anyhow!("objectgraph: {code} {why}"))?;
    let graph: Value = serde_json::from_str(&graph)?;
    let children = graph["children"].as_array().context("it stands on something")?;
    let secret = json!({"apiGroup": "", "kind": "Secret", "name": "seed", "namespace": scope.namespace()});
    ensure!(children.len() == 1 && children[0]["objectReference"] == secret, "{graph}");
    let storage = r#"{"labelSelector": {"matchLabels": {"kubevirt.io/dependency-type": "storage"}}}"#;
    let graph = ask(admin, "GET", &format!("{base}/objectgraph"), storage).await?;
    ensure!(matches!(&graph, Ok(graph) if !graph.contains("children")), "{graph:?}");
    Ok(())
}

/// Says hello to a port through `kubectl proxy`, which says where it is, and hears it, and the end.
fn talk(proxy: impl std::io::Read, path: &str) -> Result<()> {
    let mut line = String::new();
    BufReader::new(proxy).read_line(&mut line)?;
    let address = line.trim().rsplit(' ').next().with_context(|| line.clone())?.to_owned();
    let stream = TcpStream::connect(&address).with_context(|| line.clone())?;
    stream.set_read_timeout(Some(LIMIT))?;
    let request =
        ClientRequestBuilder::new(format!("ws://{address}{path}").parse()?).with_sub_protocol("plain.kubevirt.io");
    let (mut socket, answer) = tungstenite::client(request, stream).context("the WebSocket")?;
    let protocol = answer.headers().get("sec-websocket-protocol").and_then(|value| value.to_str().ok());
    ensure!(protocol == Some("plain.kubevirt.io"), "{answer:?}");
    socket.send(Message::binary(b"hello".to_vec()))?;
    let mut heard = Vec::new();
    loop {
        match socket.read()? {
            Message::Binary(piece) => heard.extend_from_slice(&piece),
            Message::Close(frame) => {
                ensure!(heard == b"hello", "{heard:?}");
                let code = frame.map(|frame| u16::from(frame.code));
                ensure!(code == Some(1000), "the guest closed the connection: {code:?}");
                return Ok(());
            }
            Message::Ping(_) | Message::Pong(_) => {}
            other => bail!("{other:?}"),
        }
    }
}

/// Lets a user do what a rule says, in this namespace.
pub(super) async fn permit(scope: &Scope, user: &str, rule: Value) -> Result<()> {
    let rbac = "rbac.authorization.k8s.io";
    let (version, name) = (format!("{rbac}/v1"), json!({"name": user}));
    scope.create(json!({"apiVersion": version, "kind": "Role", "metadata": name, "rules": [rule]})).await?;
    scope
        .create(json!({
            "apiVersion": version, "kind": "RoleBinding", "metadata": name,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": user},
            "subjects": [{"apiGroup": rbac, "kind": "User", "name": user}],
        }))
        .await?;
    Ok(())
}
