//! Ports of guests, by the aggregated API: of machines and of instances, TCP and UDP. A guest's address is lent to this machine, where an
//! echo answers for it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tungstenite::{ClientRequestBuilder, Message, WebSocket, http::StatusCode};
use vireo_runtimeclass::cluster::{PrintableStatus, RunStrategy, VirtualMachine};

use super::{
    Scope, Test,
    guests::{guest, instance, is, status},
    tests,
};
use crate::kubernetes::lend;

pub(super) const TESTS: &[Test] = tests![Together: a_guest_s_ports_are_reached_by_tcp_and_udp];

const LIMIT: Duration = Duration::from_secs(30);
const PORT: u16 = 7777;

async fn a_guest_s_ports_are_reached_by_tcp_and_udp(scope: Scope) -> Result<()> {
    scope.suite().aggregate().await?;
    scope.create(guest("listens", RunStrategy::Always)).await?;
    let runs = |vm: &VirtualMachine| is(vm, PrintableStatus::Running) && status(vm).ready == Some(true);
    scope.vm("listens", "it runs", runs).await?;
    let told = instance(&scope, "listens").await?.status.unwrap_or_default();
    let address: IpAddr =
        told.interfaces.first().and_then(|first| first.ip_address.clone()).context("it has an address")?.parse()?;
    lend(address)?;
    let tcp = TcpListener::bind((address, PORT))?;
    let udp = UdpSocket::bind((address, PORT))?;
    udp.set_read_timeout(Some(LIMIT))?;
    // Two ways lead to each.
    let streams = std::thread::spawn(move || -> std::io::Result<()> {
        for _ in 0..2 {
            let (mut stream, _) = tcp.accept()?;
            let mut piece = [0; 5];
            stream.read_exact(&mut piece)?;
            stream.write_all(&piece)?;
        }
        Ok(())
    });
    let datagrams = std::thread::spawn(move || -> std::io::Result<()> {
        for _ in 0..4 {
            let mut piece = [0; 64];
            let (count, from) = udp.recv_from(&mut piece)?;
            udp.send_to(&piece[..count], from)?;
        }
        Ok(())
    });

    let mut proxy = scope.suite().plane().lock().await.kubectl();
    let mut proxy = proxy.args(["proxy", "--port=0"]).stdout(Stdio::piped()).spawn()?;
    let output = proxy.stdout.take().context("kubectl proxy says where it is")?;
    let of = format!("/apis/subresources.kubevirt.io/v1/namespaces/{}", scope.namespace());
    let talked = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().rsplit(' ').next().with_context(|| line.clone())?;
        for kind in ["virtualmachines", "virtualmachineinstances"] {
            let port = format!("{of}/{kind}/listens/portforward/{PORT}");
            stream(connect(address, &port)?).with_context(|| format!("a stream to {port}"))?;
            datagram(connect(address, &format!("{port}/udp"))?).with_context(|| format!("datagrams to {port}"))?;
        }
        refused(
            address,
            &format!("{of}/virtualmachines/listens/portforward/{}", PORT + 1),
            StatusCode::INTERNAL_SERVER_ERROR,
        )?;
        refused(address, &format!("{of}/virtualmachines/listens/portforward/{PORT}/sctp"), StatusCode::BAD_REQUEST)?;
        refused(address, &format!("{of}/virtualmachines/nobody/portforward/{PORT}"), StatusCode::NOT_FOUND)
    })
    .await?;
    proxy.kill()?;
    proxy.wait()?;
    talked?;
    streams.join().map_err(|_| anyhow::anyhow!("the echo of streams panicked"))??;
    datagrams.join().map_err(|_| anyhow::anyhow!("the echo of datagrams panicked"))??;
    Ok(())
}

fn request(proxy: &str, path: &str) -> Result<(ClientRequestBuilder, TcpStream)> {
    let stream = TcpStream::connect(proxy)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let uri = format!("ws://{proxy}{path}").parse()?;
    Ok((ClientRequestBuilder::new(uri).with_sub_protocol("plain.kubevirt.io"), stream))
}

fn connect(proxy: &str, path: &str) -> Result<WebSocket<TcpStream>> {
    let (request, stream) = request(proxy, path)?;
    Ok(tungstenite::client(request, stream).context("the WebSocket")?.0)
}

/// A path whose target can't be reached is an answer to the request.
fn refused(proxy: &str, path: &str, expected: StatusCode) -> Result<()> {
    let (request, stream) = request(proxy, path)?;
    match tungstenite::client(request, stream) {
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
            ensure!(answer.status() == expected, "{path}: {answer:?}");
            Ok(())
        }
        other => bail!("{path}: {other:?}"),
    }
}

/// The next message that says something.
fn heard(socket: &mut WebSocket<TcpStream>) -> Result<Message> {
    loop {
        match socket.read()? {
            Message::Ping(_) | Message::Pong(_) => {}
            other => return Ok(other),
        }
    }
}

fn stream(mut socket: WebSocket<TcpStream>) -> Result<()> {
    socket.send(Message::binary(b"hello".to_vec()))?;
    let mut all = Vec::new();
    loop {
        match heard(&mut socket)? {
            Message::Binary(piece) => all.extend_from_slice(&piece),
            Message::Close(frame) => {
                ensure!(all == b"hello", "{all:?}");
                ensure!(frame.as_ref().map(|frame| u16::from(frame.code)) == Some(1000), "{frame:?}");
                return Ok(());
            }
            other => bail!("{other:?}"),
        }
    }
}

/// A message is a datagram, and the other way round.
fn datagram(mut socket: WebSocket<TcpStream>) -> Result<()> {
    for said in ["one", "the other"] {
        socket.send(Message::binary(said.as_bytes().to_vec()))?;
        let answer = heard(&mut socket)?;
        ensure!(answer == Message::binary(said.as_bytes().to_vec()), "{said}: {answer:?}");
    }
    socket.close(None)?;
    while socket.read().is_ok() {}
    Ok(())
}
