//! Connections to ports of a guest's vsock, through its machine.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use futures_util::{StreamExt as _, sink};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::timeout;
use vireo_runtimeclass::cluster::{InstancePhase, VirtualMachineInstance};
use vireo_runtimeclass::machine_service::v1::{self, vsock_request::Input};

use super::super::{Refusal, Server};
use super::relay::relay;
use super::{requests, talk, upgrade};
use crate::shim_client::Machine;

/// How long the guest may take to accept: longer than its machine waits for it.
const ANSWER: Duration = Duration::from_secs(15);
/// Bytes of data in a message to the machine, which takes 64 KiB.
const PIECE: usize = 32 << 10;
/// Why nothing is encrypted. KubeVirt's clients ask for it unless they say no, so that silence means it too.
const NO_TLS: &str = "a guest asks port 1 of its host for the authority that signed the other end's certificate, and nothing answers \
    there; ask with tls=false: the bytes are in TLS as far as the guest's node";

/// What is asked for, as it is written.
#[derive(Debug, Default, Deserialize)]
pub(in super::super) struct Wanted {
    port: Option<String>,
    tls: Option<String>,
}

/// Joins a client with a port of an instance's vsock.
pub(in super::super) async fn vsock(
    State(server): State<Server>,
    Path((namespace, name)): Path<(String, String)>,
    wanted: Result<Query<Wanted>, QueryRejection>,
    request: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let instance = server.instance(&namespace, &name).await?;
    has_vsock(&instance)?;
    let Query(wanted) = wanted.map_err(|why| Refusal::bad_request(why.to_string()))?;
    let port = wanted.port()?;
    let request = upgrade(request)?;
    let permit = server.streams.permit()?;
    let pod = server.pod(&instance).await?;
    let mut machine = Machine::connect(&server.context, &pod).await?;
    // The port, then one message at a time: who sends faster than the guest reads waits.
    let (sender, receiver) = mpsc::channel(1);
    let first = sender.try_send(v1::VsockRequest { input: Some(Input::Port(port)) });
    first.map_err(|error| Refusal::internal(&error))?;
    let call = machine.signed("Vsock", requests(receiver))?;
    let connected = timeout(ANSWER, machine.client.vsock(call)).await;
    let connected =
        connected.map_err(|_| Refusal::internal(&format!("vsock port {port}: the machine doesn't answer")))?;
    let output = connected.map_err(|status| Refusal::machine(&name, &status))?.into_inner();
    let stop = server.streams.stop.clone();
    Ok(talk(request, permit, async move |socket| {
        // The channel ends with it.
        let _machine = machine;
        let from = output.map(|piece| match piece {
            Ok(piece) => Ok(Bytes::from(piece.data)),
            Err(status) => Err(status.message().to_owned()),
        });
        relay(socket, from, sink::unfold(sender, send), &stop, "the server ends").await;
    }))
}

async fn send(
    sender: mpsc::Sender<v1::VsockRequest>,
    mut piece: Bytes,
) -> Result<mpsc::Sender<v1::VsockRequest>, String> {
    while !piece.is_empty() {
        let data = piece.split_to(piece.len().min(PIECE)).to_vec();
        let sent = sender.send(v1::VsockRequest { input: Some(Input::Data(data)) }).await;
        sent.map_err(|_| "the guest has closed the connection".to_owned())?;
    }
    Ok(sender)
}

impl Wanted {
    /// The port, if it is wanted as it can be had.
    fn port(&self) -> Result<u32, Refusal> {
        let port = self.port.as_deref().filter(|port| port.bytes().all(|digit| digit.is_ascii_digit()));
        let port = port.and_then(|port| port.parse().ok());
        let port = port.ok_or_else(|| Refusal::bad_request("port: must be from 0 to 4294967295".to_owned()))?;
        match self.tls.as_deref() {
            // As Go reads a bool.
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(port),
            None | Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => {
                Err(Refusal::not_built("vsock with tls=true, which is the default", NO_TLS))
            }
            Some(other) => Err(Refusal::bad_request(format!("tls: {other:?} is neither true nor false"))),
        }
    }
}

/// KubeVirt's refusals.
fn has_vsock(instance: &VirtualMachineInstance) -> Result<(), Refusal> {
    let spec = instance.unread.value();
    let attached = spec.pointer("/domain/devices/autoattachVSOCK");
    if attached.and_then(serde_json::Value::as_bool) != Some(true) {
        return Err(Refusal::bad_request("VSOCK is not attached.".to_owned()));
    }
    let phase = instance.status.as_ref().and_then(|status| status.phase);
    if phase == Some(InstancePhase::Running) {
        return Ok(());
    }
    let phase = phase.map_or_else(String::new, |phase| format!("{phase:?}"));
    let why = format!("Unable to connect to VirtualMachineInstance because phase is {phase} instead of Running");
    Err(Refusal::bad_request(why))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wanted(port: Option<&str>, tls: Option<&str>) -> Result<u32, u16> {
        let wanted = Wanted { port: port.map(str::to_owned), tls: tls.map(str::to_owned) };
        wanted.port().map_err(|refusal| refusal.code())
    }

    #[test]
    fn only_what_is_honest_is_opened() {
        assert_eq!(wanted(Some("22"), Some("false")), Ok(22));
        assert_eq!(wanted(Some("4294967295"), Some("0")), Ok(u32::MAX));
        for port in [None, Some(""), Some("+22"), Some("-1"), Some("4294967296"), Some("ssh")] {
            assert_eq!(wanted(port, Some("false")), Err(400), "{port:?}");
        }
        for tls in [None, Some(""), Some("true"), Some("1")] {
            assert_eq!(wanted(Some("22"), tls), Err(501), "{tls:?}");
        }
        assert_eq!(wanted(Some("22"), Some("no")), Err(400));
    }

    #[test]
    fn an_instance_has_a_vsock_that_says_so_and_runs() {
        let answer = |devices: Value, phase: &str| {
            let instance: VirtualMachineInstance = serde_json::from_value(json!({
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "a"},
                "spec": {"domain": {"devices": devices}}, "status": {"phase": phase},
            }))
            .unwrap();
            has_vsock(&instance).map_err(|refusal| (refusal.code(), refusal.message().to_owned()))
        };
        let attached = json!({"autoattachVSOCK": true});
        assert_eq!(answer(attached.clone(), "Running"), Ok(()));
        let not_attached = Err((400, "VSOCK is not attached.".to_owned()));
        for devices in [json!({}), json!({"autoattachVSOCK": false})] {
            assert_eq!(answer(devices, "Running"), not_attached);
        }
        let (code, why) = answer(attached, "Scheduling").unwrap_err();
        assert!(code == 400 && why.contains("because phase is Scheduling"), "{why}");
    }

    #[tokio::test]
    async fn long_messages_are_sent_in_pieces() {
        let (sender, mut receiver) = mpsc::channel(1);
        let sent = tokio::spawn(send(sender, Bytes::from(vec![b'x'; 2 * PIECE + 1])));
        let mut lengths = Vec::new();
        while let Some(v1::VsockRequest { input: Some(Input::Data(data)) }) = receiver.recv().await {
            lengths.push(data.len());
            if lengths.len() == 3 {
                break;
            }
        }
        assert_eq!(lengths, [PIECE, PIECE, 1]);
        drop(receiver);
        let sender = sent.await.unwrap().unwrap();
        assert_eq!(send(sender, Bytes::from_static(b"x")).await.unwrap_err(), "the guest has closed the connection");
    }
}
