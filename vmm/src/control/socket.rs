//! A `SOCK_SEQPACKET` socket that carries whole packets and open files.
//!
//! Nothing here blocks. A packet that doesn't fit, or files that could not all be received, are errors: what arrives is whole.
//! An empty packet can't be told from the end, and ends the conversation.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{SockType, getsockopt, sockopt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::message::{MAX_FDS, MAX_PACKET};

/// What can go wrong on the socket. Each one but [`Error::Full`] means that the peer is not to be listened to any more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptor is something else.
    #[error("the control descriptor is not a SOCK_SEQPACKET socket")]
    NotSeqPacket,
    /// A message too large to send.
    #[error("control message of {0} bytes, more than {MAX_PACKET}")]
    TooLarge(usize),
    /// More files than one packet carries.
    #[error("{0} files in one control message, more than {MAX_FDS}")]
    TooManyFiles(usize),
    /// The peer doesn't read what it is sent.
    #[error("the control socket is full: the peer doesn't read")]
    Full,
    /// The peer sent more than a packet may hold.
    #[error("the peer sent a packet of more than {MAX_PACKET} bytes")]
    Truncated,
    /// The peer sent files where none may come, or this process can't hold them.
    #[error("the peer sent files that could not be received: none are expected, or too many files are open")]
    FilesLost,
    /// The peer sent bytes that are no message.
    #[error("the peer sent a malformed message")]
    Malformed(#[source] postcard::Error),
    /// The peer sent a message with something after its end.
    #[error("the peer sent a message with {0} bytes after its end")]
    Trailing(usize),
    /// A message came with another number of files than it takes.
    #[error("{command} came with {got} files, not {expected}")]
    Files {
        /// The message.
        command: &'static str,
        /// Files it takes.
        expected: usize,
        /// Files that came.
        got: usize,
    },
    /// The kernel refused.
    #[error("control socket")]
    Io(#[from] io::Error),
}

/// One end of the control socket.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

/// What was received.
pub(super) enum Packet {
    /// Its length, and the files that came with it.
    Data(usize, Vec<OwnedFd>),
    /// Nothing yet.
    Empty,
    /// The peer is gone.
    Closed,
}

/// Whether a reader takes files.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    Taken,
    Refused,
}

/// Room for one `SCM_RIGHTS` message with [`MAX_FDS`] files, aligned as `cmsghdr` must be.
const CONTROL_WORDS: usize = (16 + MAX_FDS * 4).div_ceil(8);

impl Socket {
    pub(super) fn new(fd: OwnedFd) -> Result<Self, Error> {
        match getsockopt(&fd, sockopt::SockType) {
            Ok(SockType::SeqPacket) => Ok(Self(fd)),
            _ => Err(Error::NotSeqPacket),
        }
    }

    pub(super) fn send(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Result<(), Error> {
        if bytes.len() > MAX_PACKET {
            return Err(Error::TooLarge(bytes.len()));
        }
        if files.len() > MAX_FDS {
            return Err(Error::TooManyFiles(files.len()));
        }
        let fds: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [nix::sys::socket::ControlMessage::ScmRights(&fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
        let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT | nix::sys::socket::MsgFlags::MSG_NOSIGNAL;
        loop {
            let iov = [io::IoSlice::new(bytes)];
            match nix::sys::socket::sendmsg::<()>(self.0.as_raw_fd(), &iov, rights, flags, None) {
                Ok(_) => return Ok(()),
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => return Err(Error::Full),
                Err(e) => return Err(Error::Io(e.into())),
            }
        }
    }

    /// Receives one packet into `buffer` (of [`MAX_PACKET`] bytes).
    pub(super) fn receive(&self, buffer: &mut [u8], files: Files) -> Result<Packet, Error> {
        let mut control = [0u64; CONTROL_WORDS];
        let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: an all-zero msghdr is a valid one.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut iov;
        header.msg_iovlen = 1;
        if files == Files::Taken {
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = size_of_val(&control);
        }
        let length = loop {
            // SAFETY: `header` points at `iov` and `control`, which are writable, of the lengths given, and outlive the call.
            let n = unsafe {
                libc::recvmsg(self.0.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC)
            };
            if let Ok(n) = usize::try_from(n) {
                break n;
            }
            match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e if e.kind() == io::ErrorKind::WouldBlock => return Ok(Packet::Empty),
                // The peer closed with packets of ours unread.
                e if e.kind() == io::ErrorKind::ConnectionReset => return Ok(Packet::Closed),
                e => return Err(Error::Io(e)),
            }
        };
        // Owned before anything is judged, so that no file stays open whatever comes.
        let received = take_files(&header);
        if header.msg_flags & libc::MSG_CTRUNC != 0 {
            return Err(Error::FilesLost);
        }
        if header.msg_flags & libc::MSG_TRUNC != 0 {
            return Err(Error::Truncated);
        }
        if length == 0 { Ok(Packet::Closed) } else { Ok(Packet::Data(length, received)) }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Takes ownership of every file that `recvmsg` put into `header`.
fn take_files(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut files = Vec::new();
    // SAFETY: the kernel filled the control buffer and its length; the CMSG functions stay within it.
    let mut cmsg = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !cmsg.is_null() {
        // SAFETY: not null, so a whole cmsghdr of the kernel's.
        let (head, data) = unsafe { (cmsg.read(), libc::CMSG_DATA(cmsg)) };
        if (head.cmsg_level, head.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            let count = (head.cmsg_len - (data.addr() - cmsg.addr())) / size_of::<RawFd>();
            for i in 0..count {
                // SAFETY: the kernel wrote `count` descriptors there, new ones that nobody else owns.
                files.push(unsafe {
                    let bytes = data.add(i * size_of::<RawFd>()).cast::<[u8; size_of::<RawFd>()]>().read();
                    OwnedFd::from_raw_fd(RawFd::from_ne_bytes(bytes))
                });
            }
        }
        // SAFETY: as above.
        cmsg = unsafe { libc::CMSG_NXTHDR(header, cmsg) };
    }
    files
}

/// Bytes of `message`, refused if larger than a packet.
pub(super) fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, Error> {
    let bytes = postcard::to_stdvec(message).map_err(Error::Malformed)?;
    if bytes.len() > MAX_PACKET { Err(Error::TooLarge(bytes.len())) } else { Ok(bytes) }
}

/// The message that `bytes` are, all of them.
pub(super) fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, Error> {
    let (message, rest) = postcard::take_from_bytes(bytes).map_err(Error::Malformed)?;
    if rest.is_empty() { Ok(message) } else { Err(Error::Trailing(rest.len())) }
}
