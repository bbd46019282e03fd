//! The console: the machine's first serial port, for one client at a time.

use axum::body::Bytes;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use futures_util::{StreamExt as _, sink};
use tokio::sync::mpsc;
use vireo_runtimeclass::cluster::{InstancePhase, VirtualMachineInstance};
use vireo_runtimeclass::machine_service::v1;

use super::super::objects::name_of;
use super::super::refusal::INSTANCE;
use super::super::{Refusal, Server};
use super::relay::relay;
use super::{requests, talk, upgrade};
use crate::metrics::End;
use crate::shim_client::Machine;

/// Joins a client with the console of an instance. Whoever had it before is told, and loses it.
pub(in super::super) async fn console(
    State(server): State<Server>,
    Path((namespace, name)): Path<(String, String)>,
    request: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let request = upgrade(request)?;
    let instance = server.instance(&namespace, &name).await?;
    has_console(&instance)?;
    let permit = server.streams.permit()?;
    let pod = server.pod(&instance).await?;
    let mut machine = Machine::connect(&server.context, &pod).await?;
    // One message at a time: whoever types faster than the guest reads waits.
    let (sender, receiver) = mpsc::channel::<v1::ConsoleRequest>(1);
    let output = machine.client.console(requests(receiver)).await.map_err(|status| Refusal::machine(&name, &status))?;
    let output = output.into_inner();
    let turn = server.streams.take(instance.metadata.uid.clone().unwrap_or_default());
    let connection = server.context.metrics.connections.open(End::Console, &namespace, &name);
    Ok(talk(request, permit, async move |socket| {
        // The channel ends with it.
        let (_machine, _connection) = (machine, connection);
        let (from, to) = (output.map(shown), sink::unfold(sender, type_in));
        relay(socket, from, to, &turn.token, "another client has taken the console").await;
    }))
}

fn shown(piece: Result<v1::ConsoleResponse, tonic::Status>) -> Result<Bytes, String> {
    piece.map(|piece| Bytes::from(piece.output)).map_err(|status| status.message().to_owned())
}

async fn type_in(
    sender: mpsc::Sender<v1::ConsoleRequest>,
    piece: Bytes,
) -> Result<mpsc::Sender<v1::ConsoleRequest>, String> {
    let input = Some(v1::console_request::Input::Typed(piece.to_vec()));
    let sent = sender.send(v1::ConsoleRequest { input }).await;
    sent.map(|()| sender).map_err(|_| "the machine has ended".to_owned())
}

fn has_console(instance: &VirtualMachineInstance) -> Result<(), Refusal> {
    let spec = instance.unread.value();
    let attached = spec.pointer("/domain/devices/autoattachSerialConsole");
    if attached.and_then(serde_json::Value::as_bool) == Some(false) {
        return Err(Refusal::bad_request("No serial consoles are present.".to_owned()));
    }
    match instance.status.as_ref().and_then(|status| status.phase) {
        Some(InstancePhase::Running) => Ok(()),
        Some(InstancePhase::Failed) => Err(Refusal::conflict(INSTANCE, name_of(instance), "VMI is in failed status")),
        _ => Err(Refusal::bad_request("VMI is not running".to_owned())),
    }
}
