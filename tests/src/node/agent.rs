//! The host's side of the node's agent: runs commands in the node.

use std::{
    io::{Read, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::protocol::{self, CommandLine, GREETING, Kind};

/// A node that was silent for so long hangs: it says that it lives every few seconds, and machines under load are slow.
const SILENCE: Duration = Duration::from_mins(2);

/// Which of a command's outputs bytes are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

/// How to reach a node's agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Agent {
    port: u16,
    token: String,
}

/// A command to run in the node.
pub struct Request {
    argv: Vec<String>,
    input: Option<Box<dyn Read + Send>>,
    deadline: Option<Duration>,
    quiet: Option<Duration>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Request").field(&self.argv).finish()
    }
}

impl Request {
    /// A program with its arguments.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), input: None, deadline: None, quiet: None }
    }

    /// A script for bash.
    pub fn script(text: &str) -> Self {
        Self::new(["bash", "-c", text])
    }

    /// What the command reads.
    #[must_use]
    pub fn input(mut self, input: impl Read + Send + 'static) -> Self {
        self.input = Some(Box::new(input));
        self
    }

    /// How long it may take.
    #[must_use]
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = Some(limit);
        self
    }

    /// For how long it may print nothing. What waits in a node for something that never comes would else wait for ever, for the agent lives.
    #[must_use]
    pub fn quiet(mut self, limit: Duration) -> Self {
        self.quiet = Some(limit);
        self
    }
}

impl Agent {
    /// The agent behind a forwarded port of this machine.
    pub fn new(port: u16, token: String) -> Self {
        Self { port, token }
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Whether the agent answers.
    pub fn answers(&self) -> bool {
        self.connect().is_ok()
    }

    /// Runs a command, hands its output on as it comes, and returns its exit code (128 + signal if one ended it).
    pub fn run(&self, request: Request, mut sink: impl FnMut(Stream, &[u8])) -> Result<i32> {
        let what = request.argv.join(" ");
        let mut socket = self.connect().context("connect to the node's agent")?;
        let command = CommandLine { argv: request.argv, stdin: request.input.is_some() };
        protocol::send(&mut socket, Kind::Command, &serde_json::to_vec(&command)?)?;
        if let Some(mut input) = request.input {
            let mut to_node = socket.try_clone()?;
            // Not joined: a terminal may never say more. It ends with its next write after the socket is closed.
            thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(length) = input.read(&mut buffer) {
                    if protocol::send(&mut to_node, Kind::Input, &buffer[..length]).is_err() || length == 0 {
                        break;
                    }
                }
            });
        }
        let (frames, received) = mpsc::channel();
        let mut from_node = socket.try_clone()?;
        let reader = thread::spawn(move || {
            while let Ok(frame) = protocol::receive(&mut from_node) {
                if frames.send(frame).is_err() {
                    break;
                }
            }
        });
        let end = request.deadline.map(|limit| Instant::now() + limit);
        let mut said = Instant::now();
        let result = loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            match received.recv_timeout(left.map_or(SILENCE, |left| left.min(SILENCE))) {
                Ok((Kind::Output, bytes)) => {
                    said = Instant::now();
                    sink(Stream::Output, &bytes);
                }
                Ok((Kind::ErrorOutput, bytes)) => {
                    said = Instant::now();
                    sink(Stream::Error, &bytes);
                }
                Ok((Kind::Exit, code)) => break Ok(String::from_utf8(code)?.parse()?),
                Ok((Kind::Alive, _)) => {}
                Ok((Kind::Command | Kind::Input, _)) => break Err(anyhow::anyhow!("the agent talks nonsense")),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    break Err(anyhow::anyhow!("in the node: {what}: the node went away"));
                }
                Err(mpsc::RecvTimeoutError::Timeout) if left.is_none_or(|left| left > SILENCE) => {
                    break Err(anyhow::anyhow!("in the node: {what}: the node hangs: no sign of life for {SILENCE:?}"));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    break Err(anyhow::anyhow!("in the node: {what}: not done after {:?}", request.deadline));
                }
            }
            if request.quiet.is_some_and(|limit| said.elapsed() > limit) {
                break Err(anyhow::anyhow!("in the node: {what}: nothing was printed for {:?}", request.quiet));
            }
            if end.is_some_and(|end| Instant::now() > end) {
                break Err(anyhow::anyhow!("in the node: {what}: not done after {:?}", request.deadline));
            }
        };
        // The reader may have hung up first.
        let _ = socket.shutdown(Shutdown::Both);
        drop(received);
        let _ = reader.join();
        result
    }

    /// Runs a command that must succeed and returns its standard output.
    pub fn output(&self, request: Request) -> Result<String> {
        let what = request.argv.join(" ");
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let code = self.run(request, |stream, bytes| match stream {
            Stream::Output => output.extend_from_slice(bytes),
            Stream::Error => errors.extend_from_slice(bytes),
        })?;
        let output = String::from_utf8_lossy(&output).into_owned();
        if code != 0 {
            bail!("in the node: {what}: exit code {code}\n{output}{}", String::from_utf8_lossy(&errors));
        }
        Ok(output)
    }

    fn connect(&self) -> Result<TcpStream> {
        let place = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let mut socket = TcpStream::connect_timeout(&place, Duration::from_secs(5))?;
        // QEMU accepts before anybody listens in the node: only the greeting tells.
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.write_all(format!("{}\n", self.token).as_bytes())?;
        let mut greeting = [0; GREETING.len()];
        socket.read_exact(&mut greeting)?;
        if &greeting != GREETING {
            bail!("something else than the node's agent answers on port {}", self.port);
        }
        socket.set_read_timeout(None)?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }
}
