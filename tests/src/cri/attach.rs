//! Attaching to a container: containerd's streaming server over a WebSocket (RFC 6455), with Kubernetes' subprotocol
//! `v4.channel.k8s.io`: each message begins with its channel's number.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const FINAL_BINARY: u8 = 0x82;
const CLOSE: u8 = 8;
const PING: u8 = 9;
/// The largest message taken.
const MAX_MESSAGE: usize = 1 << 20;

/// An attached console.
#[derive(Debug)]
pub struct Attached {
    socket: BufReader<TcpStream>,
    seen: Vec<u8>,
}

impl Attached {
    /// Connects to the URL that CRI's Attach gave.
    pub fn connect(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("http://").with_context(|| format!("{url}: http:// is needed"))?;
        let (host, path) = rest.split_once('/').with_context(|| format!("{url}: no path"))?;
        let mut socket = TcpStream::connect(host).with_context(|| format!("connect to {host}"))?;
        socket.set_nodelay(true)?;
        // The key guards against caches that there are none of here.
        write!(
            socket,
            "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dmlyZW8gdmlyZW8gdmlyZQ==\r\n\
             Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
        )?;
        let mut socket = BufReader::new(socket);
        let mut status = String::new();
        socket.read_line(&mut status)?;
        ensure!(status.contains(" 101 "), "attach: {}", status.trim());
        let mut line = String::new();
        while socket.read_line(&mut line)? > 2 {
            line.clear();
        }
        Ok(Self { socket, seen: Vec::new() })
    }

    /// Types.
    pub fn send(&mut self, text: &str) -> Result<()> {
        ensure!(text.len() < 125, "a line of at most 124 bytes is needed");
        // A client's messages are masked; a mask of zeros changes nothing.
        let length = u8::try_from(text.len() + 1)?;
        let mut message = vec![FINAL_BINARY, 0x80 | length, 0, 0, 0, 0, STDIN];
        message.extend_from_slice(text.as_bytes());
        Ok(self.socket.get_mut().write_all(&message)?)
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
            self.socket.get_ref().set_read_timeout(Some(left))?;
            match self.message() {
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
        self.socket.get_ref().set_read_timeout(Some(limit))?;
        while let Some(bytes) = self.message().context("wait for the console's end")? {
            self.seen.extend(bytes);
        }
        Ok(())
    }

    /// The next output; none at the end.
    fn message(&mut self) -> Result<Option<Vec<u8>>> {
        let mut head = [0; 2];
        match self.socket.read_exact(&mut head) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let length = match head[1] & 0x7f {
            126 => {
                let mut bytes = [0; 2];
                self.socket.read_exact(&mut bytes)?;
                usize::from(u16::from_be_bytes(bytes))
            }
            127 => {
                let mut bytes = [0; 8];
                self.socket.read_exact(&mut bytes)?;
                usize::try_from(u64::from_be_bytes(bytes))?
            }
            short => usize::from(short),
        };
        ensure!(length <= MAX_MESSAGE, "attach: a message of {length} bytes");
        let mut content = vec![0; length];
        self.socket.read_exact(&mut content)?;
        match (head[0] & 0x0f, content.split_first()) {
            (CLOSE, _) => Ok(None),
            (PING, _) => Ok(Some(Vec::new())),
            (_, Some((&(STDOUT | STDERR), output))) => Ok(Some(output.to_vec())),
            // The error channel, or the empty message that opens each channel.
            _ => Ok(Some(Vec::new())),
        }
    }
}

fn is_timeout(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut))
}
