//! `vireo-controller`: wiring.
#![forbid(unsafe_code)]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use axum::Router;
use clap::{Args, Parser};
use kube::client::ClientBuilder;
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use vireo_controller::admission::{self, Accounts};
use vireo_controller::health::Health;
use vireo_controller::metrics::{self, Metrics, Part};
use vireo_controller::{
    Context, Settings, Watches, certificates, leader, nodes, replica_set, serve, subresources, vm, vmi,
};
use vireo_runtimeclass::machine_service::token::Signer;

/// The cluster half of Vireo.
#[derive(Debug, Parser)]
enum Cli {
    /// Watches KubeVirt's objects and carries them out; answers webhooks and the aggregated API.
    Run(Run),
    /// Deploys everything that a KubeVirt object asks for, keeps it so, and removes it with the object.
    Operator(Operator),
}

/// How the operator runs.
#[derive(Debug, Args)]
struct Operator {
    /// Its own namespace, and that of all that it makes.
    #[arg(long, env = "POD_NAMESPACE", default_value = "kubevirt")]
    namespace: String,
    /// The controller's image, where the KubeVirt object names no other registry or tag.
    #[arg(long, default_value_t = format!("vireo/vireo-controller:{}", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// The agents' image, likewise.
    #[arg(long, default_value_t = format!("vireo/vireo-agent:{}", env!("CARGO_PKG_VERSION")))]
    agent_image: String,
    /// Where `/healthz` and `/readyz` are answered, by plain HTTP; nowhere, where it is left out.
    #[arg(long)]
    health: Option<SocketAddr>,
    /// Where `/metrics` is answered, by HTTPS, once there is a certificate; nowhere, where it is left out.
    #[arg(long)]
    metrics: Option<SocketAddr>,
}

/// How it runs. The API server is the one of the pod's service account, or of `$KUBECONFIG`.
#[derive(Debug, Args)]
struct Run {
    /// Its own namespace, and that of the KubeVirt object.
    #[arg(long, env = "POD_NAMESPACE", default_value = "kubevirt")]
    namespace: String,
    /// Its name among the controller's replicas, which no other has: its pod's.
    #[arg(long, env = "POD_NAME", default_value_t = format!("{:016x}", rand::random::<u64>()))]
    identity: String,
    /// File with the 32 bytes from which the key is made that signs tokens for machines, in place of the operator's Secret.
    #[arg(long)]
    signing_key: Option<PathBuf>,
    /// Where webhooks and the aggregated API are answered, once the operator has made a certificate.
    #[arg(long, default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// Where `/healthz` and `/readyz` are answered, by plain HTTP; nowhere, where it is left out.
    #[arg(long)]
    health: Option<SocketAddr>,
    /// Seconds for which it answers still after it was told to end: until API servers have heard that it goes. It leads no more then.
    #[arg(long, default_value_t = 0)]
    linger: u64,
    /// Another user that is Vireo itself, beside its service accounts: the one of the kubeconfig, outside of a cluster.
    #[arg(long)]
    own_user: Vec<String>,
    /// Image of the pods of instances that name none. Nothing of it runs.
    #[arg(long, env = "VIREO_LAUNCHER_IMAGE", default_value = "vireo-launcher")]
    launcher_image: String,
}

fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube=warn")))
        .with_writer(std::io::stderr)
        .init();
    let mode = if certificates::is_fips() { "in FIPS mode" } else { "not in FIPS mode" };
    tracing::info!("TLS is AWS-LC's, {mode}");
    // Two of its worker threads are enough: what it does is wait for the API server.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match Cli::parse() {
        Cli::Run(arguments) => runtime.block_on(run(arguments)),
        Cli::Operator(arguments) => runtime.block_on(operate(arguments)),
    }
}

/// The API server; what is asked of it is counted.
async fn client(metrics: &Metrics) -> Result<Client> {
    let config = Config::infer().await.context("find the API server: neither a service account nor a kubeconfig")?;
    let host = config.cluster_url.authority().map(ToString::to_string).unwrap_or_default();
    Ok(ClientBuilder::try_from(config)?.with_layer(&metrics.rest_client.of(&host)).build())
}

async fn operate(Operator { namespace, image, agent_image, health: probes, metrics: scrapes }: Operator) -> Result<()> {
    use vireo_controller::operator::{Options, run};
    let (stop, health) = (stop_on_signal()?, Health::default());
    let metrics = Metrics::new(Part::Operator, health.clone());
    let client = client(&metrics).await?;
    // There is one.
    let _leads = metrics.standing.lead();
    let options = Options { namespace: namespace.clone(), image, agent_image };
    let operating = run(client.clone(), options, health.clone());
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        operated = Box::pin(operating) => operated.context("ask the API server what it has"),
        answered = answer_probes(health, probes) => answered,
        answered = Box::pin(answer_scrapes(client, &namespace, metrics, scrapes)) => answered,
    }
}

/// Answers `/metrics` of the operator, with the controller's certificate: it comes with the KubeVirt object. Comes back only when it can't.
async fn answer_scrapes(client: Client, namespace: &str, metrics: Metrics, listen: Option<SocketAddr>) -> Result<()> {
    let Some(listen) = listen else { return std::future::pending().await };
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen} for metrics"))?;
    let (settings, watching) = Settings::watch(client.clone(), namespace);
    let serving = async {
        let tls = certificates::serving_anybody(client.clone(), namespace, settings).await;
        serve::serve(listener, tls, metrics::router(metrics, client), serve::End::default()).await;
    };
    tokio::join!(watching, serving);
    Ok(())
}

/// Comes back only when it can't.
async fn answer_probes(health: Health, listen: Option<SocketAddr>) -> Result<()> {
    health.answer(listen).await.with_context(|| format!("listen on {listen:?} for probes"))
}

async fn run(arguments: Run) -> Result<()> {
    let health = Health::default();
    tokio::select! {
        ran = control(&arguments, &health) => ran,
        answered = answer_probes(health.clone(), arguments.health) => answered,
    }
}

async fn control(arguments: &Run, health: &Health) -> Result<()> {
    let metrics = Metrics::new(Part::Controller, health.clone());
    let client = client(&metrics).await?;
    let signer = match &arguments.signing_key {
        Some(file) => signer(file)?,
        None => certificates::signing_key(&client, &arguments.namespace).await.context(
            "read the signing key, which the operator makes; --signing-key names one where there is no operator",
        )?,
    };
    let (settings, watching) = Settings::watch(client.clone(), &arguments.namespace);
    let context =
        Context { client, settings, signer: Arc::new(signer), namespace: arguments.namespace.clone(), metrics };
    let stop = stop_on_signal()?;
    let end = serve::End { soon: stop.clone(), now: later(&stop, Duration::from_secs(arguments.linger)) };
    tracing::info!("up as {context:?}");
    let leading = leader::lead(context.client.clone(), &arguments.namespace, &arguments.identity, &stop, || {
        reconcile(&context, &arguments.launcher_image)
    });
    let accounts = Accounts::of(&arguments.namespace, arguments.own_user.iter().cloned());
    let (front_proxy, following) = serve::FrontProxy::watch(context.client.clone());
    let router = admission::router(context.client.clone(), context.settings.clone(), accounts, context.metrics.clone())
        .merge(metrics::router(context.metrics.clone(), context.client.clone()))
        .merge(subresources::router(context.clone(), front_proxy, end.now.clone()));
    let serving = async {
        let served = answer(&context, arguments.listen, router, health, end.clone()).await;
        // A server that can't is no reason to lead.
        stop.cancel();
        served
    };
    let watching = end.now.run_until_cancelled(async { tokio::join!(watching, following) });
    let ((), _, served) = tokio::join!(Box::pin(leading), watching, Box::pin(serving));
    served
}

/// Answers webhooks and the aggregated API until `end`. Every replica does, and is ready once it listens.
async fn answer(context: &Context, listen: SocketAddr, router: Router, health: &Health, end: serve::End) -> Result<()> {
    let tls = certificates::serving(context.client.clone(), &context.namespace, context.settings.clone());
    let Some(tls) = end.now.run_until_cancelled(tls).await else { return Ok(()) };
    let bound = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"));
    let listener = bound.inspect_err(|_| end.now.cancel())?;
    health.set_ready();
    serve::serve(listener, tls, router, end).await;
    Ok(())
}

/// Is cancelled so long after `stop`.
fn later(stop: &CancellationToken, after: Duration) -> CancellationToken {
    let (stop, later) = (stop.clone(), CancellationToken::new());
    let told = later.clone();
    tokio::spawn(async move {
        stop.cancelled().await;
        tokio::time::sleep(after).await;
        told.cancel();
    });
    later
}

/// What only one replica does at a time: it ends where it stands when it is dropped.
async fn reconcile(context: &Context, launcher_image: &str) {
    let mut watches = Watches::new(&context.client);
    let _leads = context.metrics.standing.lead();
    let _told = context.metrics.objects.tell(&watches, &context.settings);
    let guests = vm::run(context.clone(), &mut watches);
    let instances = vmi::run(context.clone(), launcher_image.to_owned(), &mut watches);
    let sets = replica_set::run(context.clone(), &mut watches);
    tokio::join!(guests, instances, sets, nodes::run(context.clone()), watches.run());
}

fn signer(file: &Path) -> Result<Signer> {
    let seed = fs::read(file).with_context(|| format!("read the signing key {}", file.display()))?;
    let seed: [u8; 32] = seed
        .try_into()
        .map_err(|_| anyhow!("the signing key {} must be 32 bytes, unpredictable ones", file.display()))?;
    Ok(Signer::new(&seed))
}

/// Is cancelled by SIGTERM and SIGINT.
fn stop_on_signal() -> Result<CancellationToken> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}
