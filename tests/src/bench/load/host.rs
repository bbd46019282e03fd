//! The host's end of a guest's connection. Its first byte says what is wanted of it, see `tests/load`.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    thread::{JoinHandle, spawn},
    time::Duration,
};

use anyhow::{Result, ensure};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, VsockAddr},
};

/// Bytes handed over at once.
const CHUNK: usize = 128 << 10;
/// `VMADDR_CID_ANY` (Linux, include/uapi/linux/vm_sockets.h).
const ANY: u32 = u32::MAX;
/// How long a guest takes to connect on an emulated node at its limit.
const LIMIT: Duration = Duration::from_secs(30);

/// Where guests connect to.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// On every address of the node.
    pub fn tcp(port: u16) -> Result<Self> {
        Ok(Self(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?))
    }

    /// On a vsock port. Only what every listening socket can is asked of it.
    pub fn vsock(port: u32) -> Result<Self> {
        let listener: OwnedFd = socket::socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        socket::bind(listener.as_raw_fd(), &VsockAddr::new(ANY, port))?;
        socket::listen(&listener, Backlog::new(1)?)?;
        Ok(Self(listener.into()))
    }

    /// The next connection. What is asked of a stream is what every stream socket can.
    pub fn accept(&self) -> Result<TcpStream> {
        let ready = poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], PollTimeout::try_from(LIMIT)?)?;
        ensure!(ready > 0, "the guest doesn't connect");
        // The standard library closes a connection whose address it doesn't know, as vsock's.
        Ok(rustix::net::accept(&self.0)?.into())
    }
}

/// Serves a connection until the guest hangs up.
pub fn serve(mut stream: TcpStream) -> JoinHandle<std::io::Result<()>> {
    spawn(move || {
        let mut chunk = vec![0x5A; CHUNK];
        let mut first = [0];
        stream.read_exact(&mut first)?;
        match &first {
            b"s" => {
                while stream.read(&mut chunk)? > 0 {}
                stream.write_all(&first)
            }
            // Its end is how the guest says that it has enough.
            b"r" => {
                while stream.write_all(&chunk).is_ok() {}
                Ok(())
            }
            _ => {
                while stream.read(&mut first)? > 0 {
                    stream.write_all(&first)?;
                }
                Ok(())
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{Shutdown, TcpStream},
    };

    use super::{Listener, serve};

    #[test]
    fn each_wish_is_served() {
        let listener = Listener::tcp(0).unwrap();
        let connect = || {
            let guest = TcpStream::connect(listener.0.local_addr().unwrap()).unwrap();
            (guest, serve(listener.accept().unwrap()))
        };
        let (mut guest, host) = connect();
        guest.write_all(b"sxyz").unwrap();
        guest.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        guest.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"s");
        host.join().unwrap().unwrap();

        let (mut guest, host) = connect();
        guest.write_all(b"r").unwrap();
        guest.read_exact(&mut vec![0; 1 << 20]).unwrap();
        drop(guest);
        host.join().unwrap().unwrap();

        let (mut guest, host) = connect();
        guest.write_all(b"e").unwrap();
        for byte in *b"abc" {
            let mut back = [0];
            guest.write_all(&[byte]).unwrap();
            guest.read_exact(&mut back).unwrap();
            assert_eq!(back, [byte]);
        }
        drop(guest);
        host.join().unwrap().unwrap();
    }
}
