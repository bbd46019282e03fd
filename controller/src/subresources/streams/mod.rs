//! Streams over WebSockets: a guest's console, and connections to its ports, by its network and by its vsock.
//!
//! What is asked for is looked up and reached first, so that its refusal is an answer to the request; then the two are joined.
//! Whatever ends the stream is told to the client as the WebSocket's closing code and text.

mod console;
mod port;
mod relay;
mod vsock;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::response::Response;
use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::Refusal;

pub(super) use console::console;
pub(super) use port::{port, port_of_machine};
pub(super) use vsock::vsock;

/// KubeVirt's subprotocol: bytes as they are.
const PROTOCOL: &str = "plain.kubevirt.io";
/// Streams at a time.
const STREAMS: usize = 512;
/// The longest message, bytes: more than any datagram.
const MESSAGE: usize = 128 << 10;

/// All streams that there are.
#[derive(Debug)]
pub(super) struct Streams {
    stop: CancellationToken,
    limit: Arc<Semaphore>,
    /// Who has the console of an instance, by its uid.
    consoles: Mutex<HashMap<String, Taken>>,
}

#[derive(Debug)]
struct Taken {
    turn: u64,
    token: CancellationToken,
}

/// A console that is one's own until another client takes it.
#[derive(Debug)]
struct Turn {
    streams: Arc<Streams>,
    uid: String,
    number: u64,
    token: CancellationToken,
}

impl Streams {
    /// None yet; all end with `stop`.
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self { stop, limit: Arc::new(Semaphore::new(STREAMS)), consoles: Mutex::default() }
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let permit = Arc::clone(&self.limit).try_acquire_owned();
        permit.map_err(|_| Refusal::busy("too many streams are open: try again later"))
    }

    /// Takes the console of an instance from whoever has it.
    fn take(self: &Arc<Self>, uid: String) -> Turn {
        let mut consoles = self.consoles.lock().unwrap_or_else(PoisonError::into_inner);
        let token = self.stop.child_token();
        let turn = consoles.get(&uid).map_or(0, |taken| taken.turn + 1);
        if let Some(before) = consoles.insert(uid.clone(), Taken { turn, token: token.clone() }) {
            before.token.cancel();
        }
        Turn { streams: Arc::clone(self), uid, number: turn, token }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut consoles = self.streams.consoles.lock().unwrap_or_else(PoisonError::into_inner);
        if consoles.get(&self.uid).is_some_and(|taken| taken.turn == self.number) {
            consoles.remove(&self.uid);
        }
    }
}

/// The request as one for a WebSocket.
fn upgrade(request: Result<WebSocketUpgrade, WebSocketUpgradeRejection>) -> Result<WebSocketUpgrade, Refusal> {
    let request = request.map_err(|why| Refusal::bad_request(format!("a WebSocket is needed: {why}")))?;
    Ok(request.protocols([PROTOCOL]).max_message_size(MESSAGE).max_frame_size(MESSAGE))
}

/// What a machine is sent.
fn requests<T>(receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> {
    stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)))
}

/// Answers the request, and goes on with `talk`.
fn talk<F, T>(request: WebSocketUpgrade, permit: OwnedSemaphorePermit, talk: F) -> Response
where
    F: FnOnce(WebSocket) -> T + Send + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    request.on_upgrade(async move |socket| {
        let _permit = permit;
        talk(socket).await;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_has_the_console() {
        let streams = Arc::new(Streams::new(CancellationToken::new()));
        let first = streams.take("a".to_owned());
        let other = streams.take("b".to_owned());
        assert!(!first.token.is_cancelled());
        let second = streams.take("a".to_owned());
        assert!(first.token.is_cancelled() && !second.token.is_cancelled() && !other.token.is_cancelled());
        drop(first);
        let third = streams.take("a".to_owned());
        assert!(second.token.is_cancelled(), "the first one's end took nothing from the second");
        drop((second, third, other));
        assert!(streams.consoles.lock().unwrap().is_empty());
    }
}
