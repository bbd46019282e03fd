//! The channel to the machine itself: an exec whose streams lead to the shim. What is spoken there is the service's matter; here is
//! when it begins and ends.
//!
//! It ends when its client has closed its input, when it is killed, or soon after its machine.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use tokio::io::{AsyncRead, Join, ReadBuf, join};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::oneshot;

use super::Exec;
use crate::pod::container::Container;
use crate::stdio::{self, StdioError};

/// How many a container has at once: each costs the shim memory.
pub const MAX_CHANNELS: usize = 16;

/// A channel that has begun. Its exec is over when `done` is dropped; `done` is closed when the exec has to be over.
#[derive(Debug)]
pub struct Channel {
    /// Whose machine.
    pub container: Arc<Container>,
    /// What the client writes and reads.
    pub stream: Join<Input, Sender>,
    /// Its exec.
    pub done: oneshot::Sender<()>,
}

impl Channel {
    /// Opens the streams of `exec`. It ends once the receiver is told or left alone.
    pub(super) fn open(
        container: Arc<Container>,
        exec: &Arc<Exec>,
    ) -> Result<(Channel, oneshot::Receiver<()>), StdioError> {
        let missing = |stream| StdioError::Unsupported { stream, path: String::new() };
        let fifo = stdio::receiver("stdin", &exec.stdio.stdin)?.ok_or_else(|| missing("stdin"))?;
        let output = stdio::sender("stdout", &exec.stdio.stdout)?.ok_or_else(|| missing("stdout"))?;
        let exec = exec.clone();
        let closed = Box::pin(async move { exec.input_closed.notified().await });
        let (done, over) = oneshot::channel();
        Ok((Channel { container, stream: join(Input { fifo, closed: Some(closed) }, output), done }, over))
    }
}

/// The client's input, which ends when containerd has closed it: a fifo that is open for reading and writing never ends by itself.
pub struct Input {
    fifo: Receiver,
    /// None once it is closed.
    closed: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("fifo", &self.fifo).finish_non_exhaustive()
    }
}

impl AsyncRead for Input {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(closed) = &mut this.closed {
            if let Poll::Ready(read) = Pin::new(&mut this.fifo).poll_read(context, buffer) {
                return Poll::Ready(read);
            }
            ready!(closed.as_mut().poll(context));
            this.closed = None;
        }
        // What was written before it was closed is still in the fifo; tokio may not have heard of it yet.
        match nix::unistd::read(&this.fifo, buffer.initialize_unfilled()) {
            Err(Errno::EAGAIN) => {}
            Ok(count) => buffer.advance(count),
            Err(error) => return Poll::Ready(Err(error.into())),
        }
        Poll::Ready(Ok(()))
    }
}
