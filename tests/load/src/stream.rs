//! Bytes over a connection to the host, whose first byte says what the other end does: `s` takes all and tells when it has
//! them, `r` sends until the guest hangs up, `e` sends each byte back.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, VsockAddr};

/// Bytes handed over at once.
const CHUNK: usize = 128 << 10;
/// The host (virtio 1.3 §5.10.4).
const HOST: u32 = 2;

/// A connection over the network.
pub fn tcp(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).with_context(|| address.to_owned())?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection over vsock. Only what every stream socket can is asked of it.
pub fn vsock(port: u32) -> Result<TcpStream> {
    let socket: OwnedFd = socket::socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    socket::connect(socket.as_raw_fd(), &VsockAddr::new(HOST, port)).with_context(|| format!("vsock port {port}"))?;
    Ok(socket.into())
}

/// Nanoseconds per KiB, or per round trip.
pub fn run(mut stream: TcpStream, what: &str, time: Duration) -> Result<f64> {
    match what {
        "send" => send(&mut stream, time),
        "receive" => receive(&mut stream, time),
        "echo" => echo(&mut stream, time),
        _ => bail!("{what:?}: no such load"),
    }
}

fn send(stream: &mut TcpStream, time: Duration) -> Result<f64> {
    let chunk = vec![0x5A; CHUNK];
    stream.write_all(b"s")?;
    let begun = Instant::now();
    let mut bytes = 0;
    while begun.elapsed() < time {
        bytes += stream.write(&chunk)?;
    }
    // Sent is what the host has.
    stream.shutdown(Shutdown::Write)?;
    stream.read_exact(&mut [0])?;
    per_kib(begun.elapsed(), bytes)
}

fn receive(stream: &mut TcpStream, time: Duration) -> Result<f64> {
    let mut chunk = vec![0; CHUNK];
    stream.write_all(b"r")?;
    stream.read_exact(&mut [0])?;
    let begun = Instant::now();
    let mut bytes = 0;
    while begun.elapsed() < time {
        match stream.read(&mut chunk) {
            Ok(0) => bail!("the host hung up after {bytes} bytes"),
            Ok(length) => bytes += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    per_kib(begun.elapsed(), bytes)
}

fn echo(stream: &mut TcpStream, time: Duration) -> Result<f64> {
    stream.write_all(b"e")?;
    let begun = Instant::now();
    let mut trips = 0_u32;
    while begun.elapsed() < time {
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        trips += 1;
    }
    ensure!(trips > 0, "no time for one round trip");
    Ok(begun.elapsed().as_secs_f64() * 1e9 / f64::from(trips))
}

fn per_kib(time: Duration, bytes: usize) -> Result<f64> {
    let kib = u32::try_from(bytes >> 10)?;
    ensure!(kib > 0, "only {bytes} bytes in {time:?}");
    Ok(time.as_secs_f64() * 1e9 / f64::from(kib))
}
