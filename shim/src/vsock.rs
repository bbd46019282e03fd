//! The host's side of a machine's vsock: Unix sockets in its bundle, as Firecracker's hybrid vsock has them.
//!
//! - `vsock.sock`: whoever connects and says `CONNECT <port>` and a line feed reaches that port of the guest's, and hears
//!   `OK <port>` once the guest has accepted.
//! - `vsock.sock_<port>`: what the guest connects to on the host (context id 2), if somebody listens there.
//!
//! The VMM can open no socket: it is handed each one. containerd's bundles are root's alone, and are removed with the container.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::{UnixListener, UnixStream};

/// The socket for connections to the guest.
const NAME: &str = "vsock.sock";
/// The longest greeting of a client: `CONNECT`, ten digits.
const MAX_GREETING: usize = 32;
/// How long a client may take to say it, and a server of the host's to accept.
const GREETING: Duration = Duration::from_secs(5);

/// The sockets. See the module.
#[derive(Debug)]
pub struct Sockets {
    listener: UnixListener,
    folder: OwnedFd,
}

impl Sockets {
    /// Listens in `folder`. Needs a tokio runtime.
    pub fn bind(folder: &Path) -> io::Result<Self> {
        let folder = OwnedFd::from(File::open(folder)?);
        let listener = UnixListener::bind(path(&folder, ""))?;
        Ok(Self { listener, folder })
    }

    /// The next client, which has yet to be [greeted](greet).
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(client, _)| client)
    }

    /// Connects to what listens for the guest on `port` of the host's.
    pub async fn connect(&self, port: u32) -> io::Result<StdUnixStream> {
        let connected = UnixStream::connect(path(&self.folder, &format!("_{port}")));
        tokio::time::timeout(GREETING, connected).await??.into_std()
    }
}

/// A bundle's own path is longer than a socket's may be (108 bytes).
fn path(folder: &OwnedFd, suffix: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{NAME}{suffix}", folder.as_raw_fd()).into()
}

/// Hears which port a client wants. Nothing of what follows is read.
pub async fn greet(mut client: UnixStream) -> io::Result<(u32, StdUnixStream)> {
    let mut line = Vec::new();
    let heard = async {
        while line.last() != Some(&b'\n') {
            if line.len() == MAX_GREETING {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            line.push(client.read_u8().await?);
        }
        Ok(())
    };
    tokio::time::timeout(GREETING, heard).await??;
    let port = parse(&line).ok_or(io::ErrorKind::InvalidData)?;
    Ok((port, client.into_std()?))
}

fn parse(line: &[u8]) -> Option<u32> {
    let port = std::str::from_utf8(line).ok()?.strip_prefix("CONNECT ")?.strip_suffix('\n')?;
    port.bytes().all(|digit| digit.is_ascii_digit()).then(|| port.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    async fn greeted(text: &[u8]) -> io::Result<(u32, StdUnixStream)> {
        let (mut ours, theirs) = StdUnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        ours.write_all(text).unwrap();
        drop(ours);
        greet(UnixStream::from_std(theirs).unwrap()).await
    }

    #[tokio::test]
    async fn a_client_names_a_port_and_what_follows_is_the_guests() {
        let (port, mut stream) = greeted(b"CONNECT 1024\nhello").await.unwrap();
        let mut rest = String::new();
        stream.set_nonblocking(false).unwrap();
        stream.read_to_string(&mut rest).unwrap();
        assert_eq!((port, rest.as_str()), (1024, "hello"));
    }

    #[tokio::test]
    async fn nonsense_is_refused() {
        let long = [b'x'; 100];
        for text in [b"".as_slice(), b"CONNECT", b"CONNECT -1\n", b"CONNECT 4294967296\n", b"GET /\n", b"\xFF\n", &long]
        {
            assert!(greeted(text).await.is_err(), "{text:?}");
        }
    }

    #[tokio::test]
    async fn sockets_lie_in_the_folder_however_long_its_path() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("x".repeat(200));
        std::fs::create_dir(&folder).unwrap();
        let sockets = Sockets::bind(&folder).unwrap();
        assert!(sockets.connect(22).await.is_err(), "nobody listens");
        let at = path(&sockets.folder, "_22");
        let server = UnixListener::bind(at).unwrap();
        sockets.connect(22).await.unwrap();
        server.accept().await.unwrap();
        let _client = StdUnixStream::connect(path(&sockets.folder, "")).unwrap();
        sockets.accept().await.unwrap();
    }
}
