//! A command's streams: its input is collected whole, since an agent takes it with the command; its output comes whole too.

use std::io;

use nix::errno::Errno;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::Notify;

use crate::stdio::{self, Paths, StdioError};

/// The most input that a command gets, bytes.
pub const MAX_INPUT: usize = 4 << 20;

/// The open streams; closing them is how containerd knows that the output is complete.
#[derive(Debug)]
pub struct Streams {
    stdin: Option<Receiver>,
    stdout: Option<Sender>,
    stderr: Option<Sender>,
}

impl Streams {
    /// Opens those that have a name.
    pub fn open(paths: &Paths) -> Result<Streams, StdioError> {
        Ok(Streams {
            stdin: stdio::receiver("stdin", &paths.stdin)?,
            stdout: stdio::sender("stdout", &paths.stdout)?,
            stderr: stdio::sender("stderr", &paths.stderr)?,
        })
    }

    /// Whether there is input to collect.
    pub fn has_input(&self) -> bool {
        self.stdin.is_some()
    }

    /// The whole input, once containerd has `closed` it: a fifo that is open for reading and writing never ends by itself.
    pub async fn input(&mut self, closed: &Notify) -> io::Result<Vec<u8>> {
        let mut input = Vec::new();
        let Some(mut stdin) = self.stdin.take() else { return Ok(input) };
        let mut buffer = [0; 4096];
        loop {
            let count = tokio::select! {
                biased;
                count = stdin.read(&mut buffer) => count?,
                () = closed.notified() => break,
            };
            append(&mut input, &buffer[..count])?;
        }
        // What was written before it was closed is still in the fifo; tokio may not have heard of it yet.
        loop {
            match nix::unistd::read(&stdin, &mut buffer) {
                Ok(0) | Err(Errno::EAGAIN) => return Ok(input),
                Ok(count) => append(&mut input, &buffer[..count])?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes all that a command printed. A reader that has left loses it.
    pub async fn output(&mut self, stdout: &[u8], stderr: &[u8]) {
        for (stream, bytes) in [(&mut self.stdout, stdout), (&mut self.stderr, stderr)] {
            if let Some(stream) = stream {
                let _ = stream.write_all(bytes).await;
            }
        }
    }

    /// Says what went wrong, where a command would.
    pub async fn complain(&mut self, text: &str) {
        let line = format!("vireo: {text}\n");
        if let Some(stream) = self.stderr.as_mut().or(self.stdout.as_mut()) {
            let _ = stream.write_all(line.as_bytes()).await;
        }
    }
}

fn append(input: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    if input.len() + bytes.len() > MAX_INPUT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {MAX_INPUT} bytes of input")));
    }
    input.extend_from_slice(bytes);
    Ok(())
}
