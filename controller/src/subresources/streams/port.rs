//! Connections to a guest's ports, at the address of its first interface.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use futures_util::{sink, stream};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use vireo_runtimeclass::cluster::VirtualMachineInstance;

use super::super::objects::{holds, name_of};
use super::super::refusal::INSTANCE;
use super::super::{Refusal, Server};
use super::relay::relay;
use super::{talk, upgrade};
use crate::metrics::End;

/// How long a guest may take to answer.
const CONNECT: Duration = Duration::from_secs(10);
/// Bytes read at once from a connection; a datagram has no more.
const PIECE: usize = 64 << 10;

/// What is asked for.
#[derive(Debug, Deserialize)]
pub(in super::super) struct Wanted {
    namespace: String,
    name: String,
    port: String,
    protocol: Option<String>,
}

/// A port of an instance.
pub(in super::super) async fn port(
    State(server): State<Server>,
    Path(wanted): Path<Wanted>,
    request: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let request = upgrade(request)?;
    let instance = server.instance(&wanted.namespace, &wanted.name).await?;
    forward(&server, &instance, &wanted, request).await
}

/// A port of a machine's instance.
pub(in super::super) async fn port_of_machine(
    State(server): State<Server>,
    Path(wanted): Path<Wanted>,
    request: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let request = upgrade(request)?;
    let instance = server.instance_of(&wanted.namespace, &wanted.name).await?;
    forward(&server, &instance, &wanted, request).await
}

async fn forward(
    server: &Server,
    instance: &VirtualMachineInstance,
    wanted: &Wanted,
    request: WebSocketUpgrade,
) -> Result<Response, Refusal> {
    let address = address(instance, &wanted.port)?;
    let permit = server.streams.permit()?;
    let (stop, why) = (server.streams.stop.clone(), "the server ends");
    let open = || server.context.metrics.connections.open(End::Port, &wanted.namespace, name_of(instance));
    match wanted.protocol.as_deref() {
        None | Some("tcp") => {
            let stream = dialled(TcpStream::connect(address)).await?;
            // What is typed goes out as it comes.
            stream.set_nodelay(true).map_err(|error| Refusal::internal(&error))?;
            let connection = open();
            Ok(talk(request, permit, async move |socket| {
                let _connection = connection;
                let (from, to) = stream.into_split();
                let from = stream::unfold(from, async |mut from: OwnedReadHalf| {
                    let mut piece = vec![0; PIECE];
                    match from.read(&mut piece).await {
                        Ok(0) => None,
                        Ok(count) => {
                            piece.truncate(count);
                            Some((Ok(Bytes::from(piece)), from))
                        }
                        Err(error) => Some((Err(error), from)),
                    }
                });
                // Dropped, it tells the guest that nothing follows.
                let to = sink::unfold(to, async |mut to: OwnedWriteHalf, piece: Bytes| {
                    to.write_all(&piece).await.map(|()| to)
                });
                relay(socket, from, to, &stop, why).await;
            }))
        }
        Some("udp") => {
            let unspecified: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 8].into() };
            let datagrams = dialled(async {
                let datagrams = UdpSocket::bind(SocketAddr::new(unspecified, 0)).await?;
                datagrams.connect(address).await?;
                Ok(Arc::new(datagrams))
            });
            let datagrams = datagrams.await?;
            let connection = open();
            Ok(talk(request, permit, async move |socket| {
                let _connection = connection;
                let from = stream::unfold(Arc::clone(&datagrams), async |from: Arc<UdpSocket>| {
                    let mut piece = vec![0; PIECE];
                    let received = from.recv(&mut piece).await;
                    let piece = received.map(|count| {
                        piece.truncate(count);
                        Bytes::from(piece)
                    });
                    Some((piece, from))
                });
                // A message is a datagram.
                let to =
                    sink::unfold(datagrams, async |to: Arc<UdpSocket>, piece: Bytes| to.send(&piece).await.map(|_| to));
                relay(socket, from, to, &stop, why).await;
            }))
        }
        Some(other) => Err(Refusal::bad_request(format!("protocol {other:?}: must be tcp or udp"))),
    }
}

/// Where a port of an instance is.
fn address(instance: &VirtualMachineInstance, port: &str) -> Result<SocketAddr, Refusal> {
    if holds(instance, "Paused") {
        return Err(Refusal::conflict(INSTANCE, name_of(instance), "VMI is paused"));
    }
    let port = port.parse().ok().filter(|port| *port != 0);
    let port: u16 = port.ok_or_else(|| Refusal::bad_request("port: must be from 1 to 65535".to_owned()))?;
    let first = instance.status.as_ref().and_then(|status| status.interfaces.first());
    let first = first.ok_or_else(|| Refusal::bad_request("no network interfaces are present".to_owned()))?;
    let address: Option<IpAddr> = first.ip_address.as_deref().and_then(|address| address.parse().ok());
    let address = address.ok_or_else(|| Refusal::bad_request("the first interface has no address yet".to_owned()))?;
    Ok(SocketAddr::new(address, port))
}

async fn dialled<T>(dial: impl Future<Output = io::Result<T>>) -> Result<T, Refusal> {
    match timeout(CONNECT, dial).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(Refusal::internal(&format!("dialing VM: {error}"))),
        Err(_) => Err(Refusal::internal(&format!("dialing VM: no answer within {} s", CONNECT.as_secs()))),
    }
}
