//! What crosses the connection to a node's agent.
//!
//! The client sends its token and a newline, and the agent answers [`GREETING`]. The client sends one
//! [`Kind::Command`], then input; the agent sends output, signs of life between it, and ends with [`Kind::Exit`]. One command a connection; when
//! the client hangs up, the command is killed.

use std::{
    io::{Error, ErrorKind, Read, Result, Write},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// The agent's TCP port in the node.
pub const PORT: u16 = 5000;
/// Hex digits of a token.
pub const TOKEN_LENGTH: usize = 32;
/// The agent's first bytes to a client that knows the token.
pub const GREETING: &[u8; 12] = b"vireo-agent\n";
/// How often a node says that it lives while a command runs.
pub const ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// The most that one frame carries.
const MAX_FRAME: usize = 1 << 20;

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandLine {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Whether input follows; without it the command reads nothing.
    pub stdin: bool,
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A [`CommandLine`] as JSON.
    Command,
    /// Input; an empty frame is its end.
    Input,
    /// Standard output.
    Output,
    /// Standard error.
    ErrorOutput,
    /// The exit code, or 128 + the signal, as text.
    Exit,
    /// The agent lives, though the command says nothing; comes every [`ALIVE_INTERVAL`].
    Alive,
}

impl Kind {
    const ALL: [Self; 6] = [Self::Command, Self::Input, Self::Output, Self::ErrorOutput, Self::Exit, Self::Alive];
}

/// Sends a frame.
pub fn send(to: &mut impl Write, kind: Kind, content: &[u8]) -> Result<()> {
    for part in content.chunks(MAX_FRAME).chain(content.is_empty().then_some(&[][..])) {
        let length = u32::try_from(part.len()).map_err(|_| Error::from(ErrorKind::InvalidInput))?;
        let mut frame = Vec::with_capacity(part.len() + 5);
        frame.push(kind as u8);
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(part);
        to.write_all(&frame)?;
    }
    to.flush()
}

/// Receives a frame.
pub fn receive(from: &mut impl Read) -> Result<(Kind, Vec<u8>)> {
    let mut head = [0; 5];
    from.read_exact(&mut head)?;
    let bad = || Error::from(ErrorKind::InvalidData);
    let kind = *Kind::ALL.get(usize::from(head[0])).ok_or_else(bad)?;
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > MAX_FRAME {
        return Err(bad());
    }
    let mut content = vec![0; length];
    from.read_exact(&mut content)?;
    Ok((kind, content))
}

#[cfg(test)]
mod tests {
    use super::{Kind, MAX_FRAME, receive, send};

    #[test]
    fn a_frame_comes_back_as_it_went() {
        let mut wire = Vec::new();
        send(&mut wire, Kind::ErrorOutput, b"text").expect("a Vec takes it");
        send(&mut wire, Kind::Input, b"").expect("a Vec takes it");
        let mut wire = wire.as_slice();
        assert_eq!(receive(&mut wire).expect("whole"), (Kind::ErrorOutput, b"text".to_vec()));
        assert_eq!(receive(&mut wire).expect("whole"), (Kind::Input, Vec::new()));
        assert!(receive(&mut wire).is_err());
    }

    #[test]
    fn a_frame_of_absurd_length_is_refused() {
        let mut wire = vec![2];
        wire.extend_from_slice(&(u32::try_from(MAX_FRAME).expect("fits") + 1).to_le_bytes());
        assert!(receive(&mut wire.as_slice()).is_err());
    }
}
