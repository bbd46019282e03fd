//! containerd's streaming server over a WebSocket (RFC 6455), with Kubernetes' subprotocol `v4.channel.k8s.io`: each message begins
//! with its channel's number.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// The channels of attach and exec.
pub const STDIN: u8 = 0;
/// What a program prints.
pub const STDOUT: u8 = 1;
/// What it complains of.
pub const STDERR: u8 = 2;
/// How it ended, as a `Status`.
pub const ERROR: u8 = 3;

const FINAL_BINARY: u8 = 0x82;
const MASKED: u8 = 0x80;
/// In the length's place: two bytes of it come next (RFC 6455 §5.2).
const LENGTH_FOLLOWS: u8 = 0x7e;
const CLOSE: u8 = 8;
const PING: u8 = 9;
/// The largest message taken.
const MAX_MESSAGE: usize = 1 << 20;
/// Bytes of a message sent.
const PIECE: usize = 16 << 10;

/// A connection.
#[derive(Debug)]
pub struct WebSocket {
    socket: BufReader<TcpStream>,
}

impl WebSocket {
    /// Connects to a URL that CRI gave.
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
        ensure!(status.contains(" 101 "), "{url}: {}", status.trim());
        let mut line = String::new();
        while socket.read_line(&mut line)? > 2 {
            line.clear();
        }
        Ok(Self { socket })
    }

    /// How long a read may take.
    pub fn set_read_timeout(&self, limit: Option<Duration>) -> Result<()> {
        Ok(self.socket.get_ref().set_read_timeout(limit)?)
    }

    /// Sends on a channel.
    pub fn send(&mut self, channel: u8, bytes: &[u8]) -> Result<()> {
        send(self.socket.get_mut(), channel, bytes)
    }

    /// The next message with something in it, and its channel; none at the end.
    pub fn message(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        loop {
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
            ensure!(length <= MAX_MESSAGE, "a message of {length} bytes");
            let mut content = vec![0; length];
            self.socket.read_exact(&mut content)?;
            match (head[0] & 0x0f, content.split_first()) {
                (CLOSE, _) => return Ok(None),
                // An empty message opens each channel.
                (PING, _) | (_, None | Some((_, []))) => {}
                (_, Some((&channel, rest))) => return Ok(Some((channel, rest.to_vec()))),
            }
        }
    }

    /// A socket whose bytes go out on channel 0, and which has those of channel `from`, but for the first `skipped`. Dropping it ends
    /// the connection.
    pub fn bridge(mut self, from: u8, mut skipped: usize) -> Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let (mut inward, mut outward, mut wire) = (ours.try_clone()?, ours, self.socket.get_ref().try_clone()?);
        thread::spawn(move || {
            while let Ok(Some((channel, bytes))) = self.message() {
                if channel != from {
                    continue;
                }
                let begin = skipped.min(bytes.len());
                skipped -= begin;
                if inward.write_all(&bytes[begin..]).is_err() {
                    break;
                }
            }
            inward.shutdown(Shutdown::Both)
        });
        thread::spawn(move || {
            let mut buffer = vec![0; PIECE];
            while let Ok(count @ 1..) = outward.read(&mut buffer) {
                if send(&mut wire, STDIN, &buffer[..count]).is_err() {
                    break;
                }
            }
            wire.shutdown(Shutdown::Both)
        });
        Ok(theirs)
    }
}

fn send(socket: &mut TcpStream, channel: u8, bytes: &[u8]) -> Result<()> {
    let length = bytes.len() + 1;
    let mut message = vec![FINAL_BINARY];
    if let Ok(short @ ..=125) = u8::try_from(length) {
        message.push(MASKED | short);
    } else {
        message.push(MASKED | LENGTH_FOLLOWS);
        message.extend_from_slice(&u16::try_from(length)?.to_be_bytes());
    }
    // A client's messages are masked; a mask of zeros changes nothing.
    message.extend_from_slice(&[0, 0, 0, 0, channel]);
    message.extend_from_slice(bytes);
    Ok(socket.write_all(&message)?)
}
