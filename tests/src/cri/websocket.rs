//! containerd's streaming server over a WebSocket, with Kubernetes' subprotocol `v4.channel.k8s.io`: each message begins with its
//! channel's number.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use tungstenite::{
    ClientRequestBuilder, Error, Message,
    error::ProtocolError,
    protocol::{Role, WebSocket as Socket},
};

/// The channels of attach and exec.
pub const STDIN: u8 = 0;
/// What a program prints.
pub const STDOUT: u8 = 1;
/// What it complains of.
pub const STDERR: u8 = 2;
/// How it ended, as a `Status`.
pub const ERROR: u8 = 3;

/// Bytes of a message sent.
const PIECE: usize = 16 << 10;

/// A connection.
#[derive(Debug)]
pub struct WebSocket {
    socket: Socket<TcpStream>,
}

impl WebSocket {
    /// Connects to a URL that CRI gave.
    pub fn connect(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("http://").with_context(|| format!("{url}: http:// is needed"))?;
        let (host, _) = rest.split_once('/').with_context(|| format!("{url}: no path"))?;
        let stream = TcpStream::connect(host).with_context(|| format!("connect to {host}"))?;
        stream.set_nodelay(true)?;
        let request = ClientRequestBuilder::new(format!("ws://{rest}").parse()?).with_sub_protocol("v4.channel.k8s.io");
        let (socket, _) = tungstenite::client(request, stream).with_context(|| url.to_owned())?;
        Ok(Self { socket })
    }

    /// How long a read may take.
    pub fn set_read_timeout(&self, limit: Option<Duration>) -> Result<()> {
        Ok(self.socket.get_ref().set_read_timeout(limit)?)
    }

    /// Sends on a channel.
    pub fn send(&mut self, channel: u8, bytes: &[u8]) -> Result<()> {
        Ok(self.socket.send(Message::binary([&[channel], bytes].concat()))?)
    }

    /// The next message with something in it, and its channel; none at the end. A timeout is an [`std::io::Error`].
    pub fn message(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        loop {
            let message = match self.socket.read() {
                Ok(message) => message,
                // containerd 1.6 may close a channel that is closed already: nobody reads what comes then.
                Err(
                    Error::ConnectionClosed
                    | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake | ProtocolError::ReceivedAfterClosing),
                ) => return Ok(None),
                Err(Error::Io(error)) => return Err(error.into()),
                Err(other) => return Err(other.into()),
            };
            // An empty message opens each channel.
            if let Some((&channel, rest @ [_, ..])) = message.into_data().split_first() {
                return Ok(Some((channel, rest.to_vec())));
            }
        }
    }

    /// A socket whose bytes go out on channel 0, and which has those of channel `from`, but for the first `skipped`. Dropping it ends
    /// the connection.
    pub fn bridge(mut self, from: u8, mut skipped: usize) -> Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let (mut inward, mut outward, wire) = (ours.try_clone()?, ours, self.socket.get_ref().try_clone()?);
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
        // The reading half writes nothing: containerd sends no ping that it would have to answer.
        let mut wire = Self { socket: Socket::from_raw_socket(wire, Role::Client, None) };
        thread::spawn(move || {
            let mut buffer = vec![0; PIECE];
            while let Ok(count @ 1..) = outward.read(&mut buffer) {
                if wire.send(STDIN, &buffer[..count]).is_err() {
                    break;
                }
            }
            wire.socket.get_ref().shutdown(Shutdown::Both)
        });
        Ok(theirs)
    }
}
