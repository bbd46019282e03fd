//! The calls that last: a console's client, and a machine's states.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::{Status, Streaming};
use vireo_runtimeclass::machine_service::v1::{self, console_request::Input};

use super::told;
use crate::pod::container::Container;
use crate::pod::machine::{Machine, State};

/// A stream of responses.
pub type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Bytes of output in a message.
const PIECE: usize = 4096;

/// A task that passes on what a client sends; it ends with this value.
pub struct Task(pub JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A new client of the machine's console.
pub fn console(
    machine: &Arc<dyn Machine>,
    container: Weak<Container>,
    requests: Streaming<v1::ConsoleRequest>,
) -> Result<Boxed<v1::ConsoleResponse>, Status> {
    let (ours, theirs) = socket("console")?;
    machine.attach_console(theirs).map_err(|error| Status::failed_precondition(error.to_string()))?;
    let (output, input) = ours.into_split();
    let typing = Task(tokio::spawn(type_in(requests, input, container)));
    Ok(pieces(output, typing, PIECE, |output| v1::ConsoleResponse { output }))
}

/// A socket pair for a machine, whose end comes second.
pub fn socket(of: &str) -> Result<(UnixStream, StdUnixStream), Status> {
    let socket = || {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok::<_, std::io::Error>((UnixStream::from_std(ours)?, theirs))
    };
    socket().map_err(|error| Status::resource_exhausted(format!("{of}: {error}")))
}

/// What comes from a machine, as messages of at most `most` bytes, to its end. `task` ends with the stream.
pub fn pieces<T: Send + 'static>(output: OwnedReadHalf, task: Task, most: usize, made: fn(Vec<u8>) -> T) -> Boxed<T> {
    Box::pin(unfold((output, task), move |(mut output, task)| async move {
        let mut piece = vec![0; most];
        match output.read(&mut piece).await {
            Ok(count @ 1..) => {
                piece.truncate(count);
                Some((Ok(made(piece)), (output, task)))
            }
            _ => None,
        }
    }))
}

async fn type_in(
    mut requests: Streaming<v1::ConsoleRequest>,
    mut to_guest: OwnedWriteHalf,
    container: Weak<Container>,
) {
    while let Ok(Some(request)) = requests.message().await {
        match request.input {
            Some(Input::Typed(bytes)) => {
                let Ok(()) = to_guest.write_all(&bytes).await else { return };
            }
            Some(Input::Size(v1::ConsoleSize { columns, rows })) => {
                if let (Ok(columns), Ok(rows)) = (u16::try_from(columns), u16::try_from(rows))
                    && let Some(machine) = container.upgrade().and_then(|container| container.machine())
                {
                    let _ = machine.resize_console(columns, rows);
                }
            }
            None => {}
        }
    }
    // Who has nothing more to type may still read: shutting this half down would end the console's client.
    std::future::pending::<()>().await;
}

/// A machine's state, and those that follow up to its end.
pub fn events(state: watch::Receiver<State>) -> Boxed<v1::EventsResponse> {
    Box::pin(unfold(Some((state, true)), |following| async move {
        let (mut state, first) = following?;
        if !first && state.changed().await.is_err() {
            return None;
        }
        let (event, ended) = {
            let now = state.borrow_and_update();
            let (state, reason) = told(&now);
            (v1::EventsResponse { state: state.into(), reason }, matches!(*now, State::Ended { .. }))
        };
        Some((Ok(event), (!ended).then_some((state, false))))
    }))
}
