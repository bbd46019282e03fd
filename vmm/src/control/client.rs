//! The shim's end of the control socket: gives commands, hears events.
//!
//! Never blocks, so that an async runtime can drive it by its descriptor; [`Client::wait`] is for those without one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::message::{Command, Event, MAX_PACKET};
use super::socket::{self, Error, Files, Packet, Socket};

/// The shim's end.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
}

/// What [`Client::receive`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// An event.
    Message(Event),
    /// Nothing yet.
    Empty,
    /// The VMM is gone.
    Closed,
}

impl Client {
    /// A new client and the descriptor of its peer, both closed on exec.
    pub fn pair() -> Result<(Self, OwnedFd), Error> {
        let kind = (AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) = socketpair(kind.0, kind.1, kind.2, kind.3).map_err(io::Error::from)?;
        Ok((Self::from_fd(ours)?, theirs))
    }

    /// Takes over a descriptor.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        Ok(Self { socket: Socket::new(fd)? })
    }

    /// Gives a command and copies of `files`: those of the config for [`Command::Launch`], a socket
    /// for those commands that hand one over. [`Error::Full`] if the VMM hasn't read for long.
    pub fn send(&self, command: &Command, files: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.socket.send(&socket::encode(command)?, files)
    }

    /// The next event, if one is there. Files from the VMM are an error: it has none to give.
    pub fn receive(&self) -> Result<Received, Error> {
        let mut buffer = vec![0; MAX_PACKET];
        match self.socket.receive(&mut buffer, Files::Refused)? {
            Packet::Data(length, _) => Ok(Received::Message(socket::decode(&buffer[..length])?)),
            Packet::Empty => Ok(Received::Empty),
            Packet::Closed => Ok(Received::Closed),
        }
    }

    /// Waits for the next event; [`Received::Empty`] if none comes within `limit`.
    pub fn wait(&self, limit: Duration) -> Result<Received, Error> {
        let deadline = Instant::now() + limit;
        loop {
            let received = self.receive()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if received != Received::Empty || left.is_zero() {
                return Ok(received);
            }
            let timeout = PollTimeout::try_from(left.max(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(e) => return Err(Error::Io(e.into())),
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }
}
