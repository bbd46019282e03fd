//! Attaching to a container's console.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::websocket::{STDERR, STDIN, STDOUT, WebSocket};

/// An attached console.
#[derive(Debug)]
pub struct Attached {
    socket: WebSocket,
    seen: Vec<u8>,
}

impl Attached {
    /// Connects to the URL that CRI's Attach gave.
    pub fn connect(url: &str) -> Result<Self> {
        Ok(Self { socket: WebSocket::connect(url).context("attach")?, seen: Vec::new() })
    }

    /// Types.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.socket.send(STDIN, text.as_bytes())
    }

    /// Reads until `text` has come since the last wait, and returns everything up to its end.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        loop {
            let found = self.seen.windows(text.len()).position(|window| window == text.as_bytes());
            if let Some(at) = found {
                let taken: Vec<u8> = self.seen.drain(..at + text.len()).collect();
                return Ok(String::from_utf8_lossy(&taken).into_owned());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!(
                    "{text:?}: not on the console within {limit:?}, which shows:\n{}",
                    String::from_utf8_lossy(&self.seen)
                );
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.output() {
                Ok(Some(bytes)) => self.seen.extend(bytes),
                Ok(None) => {
                    bail!("{text:?}: the console ended, having shown:\n{}", String::from_utf8_lossy(&self.seen))
                }
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for the console's end.
    pub fn wait_end(&mut self, limit: Duration) -> Result<()> {
        self.socket.set_read_timeout(Some(limit))?;
        while let Some(bytes) = self.output().context("wait for the console's end")? {
            self.seen.extend(bytes);
        }
        Ok(())
    }

    /// The next output; none at the end.
    fn output(&mut self) -> Result<Option<Vec<u8>>> {
        Ok(self.socket.message()?.map(|(channel, bytes)| match channel {
            STDOUT | STDERR => bytes,
            _ => Vec::new(),
        }))
    }
}

fn is_timeout(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut))
}
