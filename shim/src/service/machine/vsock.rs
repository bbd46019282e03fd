//! A connection to a port of the guest's vsock.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::time::timeout;
use tonic::{Status, Streaming};
use vireo_runtimeclass::machine_service::v1::{self, vsock_request::Input};

use super::streams::{Boxed, Task, pieces, socket};
use crate::pod::machine::{CommandError, Machine};

/// How long a client may take to name the port, and the guest to accept.
const ANSWER: Duration = Duration::from_secs(10);
/// Bytes of data in a message.
const PIECE: usize = 16 << 10;
/// The longest line that says that the guest has accepted: `OK`, a space, ten digits, the end of the line.
const MAX_ACCEPTED: usize = 14;

/// Connects whoever sends `requests` with the port that the first of them names.
pub async fn connect(
    machine: &Arc<dyn Machine>,
    mut requests: Streaming<v1::VsockRequest>,
) -> Result<Boxed<v1::VsockResponse>, Status> {
    let first = timeout(ANSWER, requests.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("vsock: no request says which port"))??;
    let Some(Input::Port(port)) = first.and_then(|first| first.input) else {
        return Err(Status::invalid_argument("vsock: the first request has to say which port"));
    };
    let (mut ours, theirs) = socket("vsock")?;
    machine.connect_vsock(port, theirs).map_err(|error| match error {
        CommandError::Refused(why) => Status::failed_precondition(why),
        error => Status::unavailable(error.to_string()),
    })?;
    match timeout(ANSWER, accepted(&mut ours)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(Status::failed_precondition(format!("vsock: nothing in the guest listens on port {port}")));
        }
        Ok(Err(error)) => return Err(Status::unavailable(format!("vsock port {port}: {error}"))),
        Err(_) => {
            let why = format!("vsock port {port}: the guest did not answer within {ANSWER:?}");
            return Err(Status::deadline_exceeded(why));
        }
    }
    let (output, input) = ours.into_split();
    let sending = Task(tokio::spawn(send(requests, input)));
    Ok(pieces(output, sending, PIECE, |data| v1::VsockResponse { data }))
}

/// Hears that the guest has accepted; nothing of what follows is read. The line is the VMM's word, and so the guest's.
async fn accepted(stream: &mut UnixStream) -> io::Result<()> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        if line.len() == MAX_ACCEPTED {
            return Err(io::ErrorKind::InvalidData.into());
        }
        line.push(stream.read_u8().await?);
    }
    if line.starts_with(b"OK ") { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Sends what comes. Dropped, `to_guest` tells the guest that nothing follows.
async fn send(mut requests: Streaming<v1::VsockRequest>, mut to_guest: OwnedWriteHalf) {
    while let Ok(Some(v1::VsockRequest { input: Some(Input::Data(data)) })) = requests.message().await {
        if to_guest.write_all(&data).await.is_err() {
            return;
        }
    }
}
