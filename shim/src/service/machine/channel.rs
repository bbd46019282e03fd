//! The service over an exec's streams: one HTTP/2 connection, guarded.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::codegen::{Service as _, http};
use vireo_runtimeclass::machine_service::v1::machine_server::MachineServer;

use super::MachineService;
use super::guard::{Guard, Used};
use crate::pod::exec::channel::Channel;
use crate::pod::machine::State;

/// How long the last answers may take after the machine is gone.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Calls that a client may have under way.
const MAX_CALLS: u32 = 32;
/// Bytes of a message: what is typed at a console is the longest.
const MAX_MESSAGE: usize = 64 << 10;

/// Answers a channel, to its end. `used` is the pod's.
pub async fn serve(channel: Channel, used: Arc<Used>) {
    let Channel { container, stream, mut done } = channel;
    let Some(mut state) = container.machine().map(|machine| machine.state()) else { return };
    let guard = Arc::new(Guard::new(&container.bundle, used));
    let server = MachineServer::new(MachineService::new(&container)).max_decoding_message_size(MAX_MESSAGE);
    drop(container);
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let admitted = guard.admit(&request);
        let mut server = server.clone();
        async move {
            match admitted {
                Ok(()) => server.call(request).await,
                Err(status) => Ok(status.into_http()),
            }
        }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.max_concurrent_streams(MAX_CALLS);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = done.closed() => return,
        _ = state.wait_for(|state| matches!(state, State::Ended { .. })) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(LAST_WORDS, connection).await;
    // `done` is dropped last: the exec is over when everything is said.
}

#[cfg(test)]
mod tests;
