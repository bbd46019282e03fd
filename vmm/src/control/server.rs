//! The VMM's end of the control socket: takes commands, tells events. Never blocks; served on the event loop.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::message::{Command, Event, MAX_PACKET};
use super::socket::{self, Error, Files, Packet, Socket};

/// The VMM's end.
#[derive(Debug)]
pub struct Server {
    socket: Socket,
}

/// What [`Server::receive`] found.
#[derive(Debug)]
pub enum Received {
    /// A command and the files it came with: the config's for [`Command::Launch`], a socket for those that
    /// hand one over, none otherwise.
    Message(Command, Vec<OwnedFd>),
    /// Nothing yet.
    Empty,
    /// The shim is gone.
    Closed,
}

impl Server {
    /// Takes over an inherited descriptor.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        Ok(Self { socket: Socket::new(fd)? })
    }

    /// The next command, if one is there.
    pub fn receive(&self) -> Result<Received, Error> {
        let mut buffer = vec![0; MAX_PACKET];
        match self.socket.receive(&mut buffer, Files::Taken)? {
            Packet::Data(length, files) => {
                let command = socket::decode(&buffer[..length])?;
                check_files(&command, files.len())?;
                Ok(Received::Message(command, files))
            }
            Packet::Empty => Ok(Received::Empty),
            Packet::Closed => Ok(Received::Closed),
        }
    }

    /// Tells an event. [`Error::Full`] if the shim hasn't read for hundreds of them.
    pub fn send(&self, event: &Event) -> Result<(), Error> {
        self.socket.send(&socket::encode(event)?, &[])
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Server {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }
}

fn check_files(command: &Command, got: usize) -> Result<(), Error> {
    let (command, expected) = match command {
        Command::Launch { .. } => return Ok(()),
        Command::AttachConsole => ("AttachConsole", 1),
        Command::Start { .. } => ("Start", 0),
        Command::Request { .. } => ("Request", 0),
        Command::AttachAgent => ("AttachAgent", 1),
        Command::ConnectVsock { .. } => ("ConnectVsock", 1),
        Command::AcceptVsock { .. } => ("AcceptVsock", 1),
        Command::RefuseVsock { .. } => ("RefuseVsock", 0),
        Command::SetBalloon { .. } => ("SetBalloon", 0),
        Command::AskMemory => ("AskMemory", 0),
        Command::ResizeConsole { .. } => ("ResizeConsole", 0),
    };
    if got == expected { Ok(()) } else { Err(Error::Files { command, expected, got }) }
}
