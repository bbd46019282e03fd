//! A machine reached through its pod alone: the channel, several consoles, port-forward.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use tonic::{Code, codegen::tokio_stream, transport::Channel};
use vireo_runtimeclass::{
    machine_service::{
        CHANNEL,
        client::{channel, with_token},
        token::{self, Claims, Signer},
        v1::{self, machine_client::MachineClient},
    },
    pod::ANNOTATION_CONTROLLER_KEY,
};

use super::{
    Bench, Scenario,
    eventually::LIMIT,
    pod::{Pod, PodSpec, UP},
};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::each("a_machine_is_driven_through_its_pod", driven)];

fn driven(bench: &mut Bench) -> Result<()> {
    let signer = Signer::new(&[7; 32]);
    let mut spec = PodSpec::guest();
    spec.annotations.insert(ANNOTATION_CONTROLLER_KEY.to_owned(), signer.key().to_string());
    let pod = bench.boot(spec)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let work = drive(bench, &pod, &signer);
        tokio::time::timeout(LIMIT, work).await.context("the channel hangs")?
    })?;

    let mut clients = [pod.attach(bench)?, pod.attach(bench)?];
    clients[1].send("echo sum=$((40+2))\n")?;
    for client in &mut clients {
        client.wait_for("sum=42", LIMIT)?;
    }

    for (argv, why) in
        [("sh", "exec with a terminal: not supported by vireo"), (CHANNEL, "with a terminal: not supported")]
    {
        let told = pod.exec_told(bench, &[argv], true)?;
        ensure!(told.status.contains(why), "exec of {argv} with a terminal: {told:?}");
    }

    pod.http_forwarded(bench, 80, "/", "hello from")?;
    pod.remove(bench)
}

async fn drive(bench: &mut Bench, pod: &Pod, signer: &Signer) -> Result<()> {
    let mut client = open(bench, pod).await?;
    let info = client.info(v1::InfoRequest {}).await?.into_inner();
    ensure!((info.pod_name.as_str(), info.state()) == (pod.name.as_str(), v1::State::Running), "{info:?}");
    // Who comes late is shown what was before.
    let mut console = client.console(tokio_stream::empty::<v1::ConsoleRequest>()).await?.into_inner();
    let mut shown = String::new();
    while !shown.contains(UP) {
        let piece = console.message().await?.with_context(|| format!("the console ended: {shown}"))?;
        shown += &String::from_utf8_lossy(&piece.output);
    }
    drop(console);

    let refused = client.pause(v1::PauseRequest {}).await.expect_err("there is no token");
    ensure!(refused.code() == Code::Unauthenticated, "{refused}");
    let other = token::Pod { uid: "another".to_owned(), ..pod.identity() };
    let request = with_token(v1::PauseRequest {}, &sign(signer, other, "Pause", 1)?);
    let refused = client.pause(request).await.expect_err("it is another pod's token");
    ensure!(refused.message().contains("for another pod"), "{refused}");
    let good = sign(signer, pod.identity(), "Pause", 2)?;
    client.pause(with_token(v1::PauseRequest {}, &good)).await.context("pause")?;
    let info = client.info(v1::InfoRequest {}).await?.into_inner();
    ensure!(info.state() == v1::State::Paused, "{info:?}");
    let again = client.pause(with_token(v1::PauseRequest {}, &good)).await.expect_err("it was used");
    ensure!(again.message().contains("has been used"), "{again}");
    // Another channel, while the machine is paused.
    let mut client = open(bench, pod).await?;
    let request = with_token(v1::ResumeRequest {}, &sign(signer, pod.identity(), "Resume", 3)?);
    client.resume(request).await.context("resume")?;
    Ok(())
}

/// A client of the machine's service, over an exec in the pod.
pub(super) async fn open(bench: &mut Bench, pod: &Pod) -> Result<MachineClient<Channel>> {
    // Blocking, as all calls of CRI are: on a thread without a runtime.
    let stream = std::thread::scope(|scope| scope.spawn(|| pod.exec_stream(bench, &[CHANNEL])).join());
    let stream = stream.map_err(|_| anyhow::anyhow!("the exec panicked"))??;
    stream.set_nonblocking(true)?;
    let stream = tokio::net::UnixStream::from_std(stream)?;
    Ok(MachineClient::new(channel(stream).await.context("the machine's channel")?))
}

/// A token for a call on the machine of `pod`.
pub(super) fn sign(signer: &Signer, pod: token::Pod, method: &str, nonce: u8) -> Result<Vec<u8>> {
    let expires = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 120;
    Ok(signer.sign(&Claims { pod, method: method.to_owned(), expires, nonce: [nonce; token::NONCE] })?)
}
