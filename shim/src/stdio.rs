//! A container's stdin and stdout: fifos that containerd made, joined to a client socket of the machine's console.
//!
//! ```text
//! stdin fifo  ──> input task  ──> ┐
//!                                 ├ socket ── the VMM's console hub
//! stdout fifo <── output task <── ┘
//! ```
//!
//! Invariants: the guest never waits for a reader (a full fifo only makes this client slow, and the hub drops what a slow
//! client misses); fifos survive a restart of containerd, because each is opened for reading and writing and so never
//! breaks or ends; all are closed when the machine is gone, which is how containerd knows that the output is complete.
//!
//! A machine has one stream. It goes to stdout, with a terminal or without; stderr, where containerd made one, is held
//! open and stays empty.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::{self, Receiver, Sender};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;

/// How long the rest of the output may take after the machine is gone.
const DRAIN: Duration = Duration::from_secs(2);
/// How long the last line may take to be written.
const LAST_LINE: Duration = Duration::from_millis(500);
/// Copy buffer, bytes: a pipe's atomic unit.
const BUFFER: usize = 4096;

/// Standard streams can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// Not a fifo's path.
    #[error("{stream} {path:?}: not supported by vireo; a fifo's absolute path is needed")]
    Unsupported {
        /// Which stream.
        stream: &'static str,
        /// As containerd gave it.
        path: String,
    },
    /// The fifo.
    #[error("{stream} {path}: can't be opened")]
    Open {
        /// Which stream.
        stream: &'static str,
        /// Where.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The socket.
    #[error("console socket")]
    Socket(#[source] io::Error),
}

/// The streams as containerd names them; an empty path is no stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// What is typed.
    pub stdin: String,
    /// What the guest prints.
    pub stdout: String,
    /// Nothing is written there.
    pub stderr: String,
    /// Whether containerd wants a terminal: then there is no stderr.
    pub terminal: bool,
}

/// The streams, open.
#[derive(Debug)]
pub struct Console {
    tasks: Mutex<Option<Tasks>>,
}

#[derive(Debug)]
struct Tasks {
    input: Option<JoinHandle<()>>,
    output: JoinHandle<Option<Sender>>,
    _stderr: Option<Sender>,
}

impl Console {
    /// Opens the fifos and starts copying. Returns the socket's other end, for the VMM.
    pub fn open(paths: &Paths) -> Result<(Console, StdUnixStream), StdioError> {
        let stdin = receiver("stdin", &paths.stdin)?;
        let stdout = sender("stdout", &paths.stdout)?;
        let stderr = if paths.terminal { None } else { sender("stderr", &paths.stderr)? };
        let (ours, theirs) = StdUnixStream::pair().map_err(StdioError::Socket)?;
        ours.set_nonblocking(true).map_err(StdioError::Socket)?;
        let (from_guest, to_guest) = UnixStream::from_std(ours).map_err(StdioError::Socket)?.into_split();
        let input = stdin.map(|stdin| tokio::spawn(input(stdin, to_guest)));
        let output = tokio::spawn(output(from_guest, stdout));
        Ok((Console { tasks: Mutex::new(Some(Tasks { input, output, _stderr: stderr })) }, theirs))
    }

    /// Closes stdin. The guest's console stays.
    pub fn close_stdin(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(input) = tasks.as_mut().and_then(|tasks| tasks.input.take()) {
            input.abort();
        }
    }

    /// The machine is gone: writes the rest of its output, then `last` as a line of its own, and closes the streams.
    pub async fn finish(&self, last: Option<&str>) {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Tasks { input, mut output, _stderr }) = tasks else { return };
        if let Some(input) = input {
            input.abort();
        }
        match tokio::time::timeout(DRAIN, &mut output).await {
            Ok(Ok(Some(mut stdout))) => {
                if let Some(last) = last {
                    let line = format!("\r\n{last}\r\n");
                    let _ = tokio::time::timeout(LAST_LINE, stdout.write_all(line.as_bytes())).await;
                }
            }
            Ok(_) => {}
            Err(_) => output.abort(),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(tasks) = tasks {
            tasks.output.abort();
            if let Some(input) = tasks.input {
                input.abort();
            }
        }
    }
}

async fn input(mut stdin: Receiver, mut to_guest: OwnedWriteHalf) {
    let mut buffer = [0; BUFFER];
    while let Ok(count @ 1..) = stdin.read(&mut buffer).await {
        if to_guest.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    // The write half stays whole: shutting it down would end the console client, output and all.
    to_guest.forget();
}

async fn output(mut from_guest: OwnedReadHalf, mut stdout: Option<Sender>) -> Option<Sender> {
    let mut buffer = [0; BUFFER];
    while let Ok(count @ 1..) = from_guest.read(&mut buffer).await {
        if let Some(stdout) = stdout.as_mut()
            && stdout.write_all(&buffer[..count]).await.is_err()
        {
            break;
        }
    }
    stdout
}

/// For reading and writing, so that neither a missing nor a leaving peer is an error.
fn options() -> pipe::OpenOptions {
    let mut options = pipe::OpenOptions::new();
    options.read_write(true);
    options
}

/// Opens a stream that is written to, if it has a name.
pub(crate) fn sender(stream: &'static str, name: &str) -> Result<Option<Sender>, StdioError> {
    path(stream, name)?
        .map(|path| options().open_sender(path).map_err(|source| failed(stream, path, source)))
        .transpose()
}

/// Opens a stream that is read, if it has a name.
pub(crate) fn receiver(stream: &'static str, name: &str) -> Result<Option<Receiver>, StdioError> {
    path(stream, name)?
        .map(|path| options().open_receiver(path).map_err(|source| failed(stream, path, source)))
        .transpose()
}

fn path<'a>(stream: &'static str, path: &'a str) -> Result<Option<&'a str>, StdioError> {
    match path {
        "" => Ok(None),
        absolute if absolute.starts_with('/') => Ok(Some(absolute)),
        other => Err(StdioError::Unsupported { stream, path: other.into() }),
    }
}

fn failed(stream: &'static str, path: &str, source: io::Error) -> StdioError {
    StdioError::Open { stream, path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::path::Path;

    use nix::sys::stat::Mode;

    use super::*;

    fn fifos(directory: &Path, names: &[&str]) {
        for name in names {
            nix::unistd::mkfifo(&directory.join(name), Mode::S_IRWXU).unwrap();
        }
    }

    fn paths(directory: &Path) -> Paths {
        let path = |name: &str| directory.join(name).display().to_string();
        Paths { stdin: path("in"), stdout: path("out"), stderr: path("err"), terminal: false }
    }

    fn reader(path: &Path) -> File {
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
    }

    async fn read_to_end(fifo: File) -> String {
        let mut receiver = Receiver::from_file(fifo).unwrap();
        let mut text = String::new();
        tokio::time::timeout(Duration::from_secs(10), receiver.read_to_string(&mut text)).await.unwrap().unwrap();
        text
    }

    #[tokio::test]
    async fn output_ends_with_the_reason_and_an_end_of_file() {
        let directory = tempfile::tempdir().unwrap();
        fifos(directory.path(), &["in", "out", "err"]);
        let (out, err) = (reader(&directory.path().join("out")), reader(&directory.path().join("err")));
        let (console, mut vmm) = Console::open(&paths(directory.path())).unwrap();
        vmm.write_all(b"login: ").unwrap();
        drop(vmm);
        console.finish(Some("vireo: guest panicked")).await;
        assert_eq!(read_to_end(out).await, "login: \r\nvireo: guest panicked\r\n");
        assert_eq!(read_to_end(err).await, "");
    }

    #[tokio::test]
    async fn input_outlives_its_writers_until_it_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        fifos(directory.path(), &["in", "out", "err"]);
        let (console, vmm) = Console::open(&paths(directory.path())).unwrap();
        vmm.set_nonblocking(true).unwrap();
        let mut guest = UnixStream::from_std(vmm).unwrap();
        for _restart in 0..2 {
            let mut writer = OpenOptions::new().write(true).open(directory.path().join("in")).unwrap();
            writer.write_all(b"x").unwrap();
            drop(writer);
            let read = tokio::time::timeout(Duration::from_secs(10), guest.read_u8());
            assert_eq!(read.await.unwrap().unwrap(), b'x');
        }
        console.close_stdin();
        tokio::task::yield_now().await;
        let refused = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(directory.path().join("in"));
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::ENXIO));
    }

    #[tokio::test]
    async fn nobody_reads_and_the_end_still_comes() {
        let directory = tempfile::tempdir().unwrap();
        fifos(directory.path(), &["in", "out", "err"]);
        let (console, mut vmm) = Console::open(&paths(directory.path())).unwrap();
        vmm.set_nonblocking(true).unwrap();
        while vmm.write(&[0; 4096]).is_ok() {
            tokio::task::yield_now().await;
        }
        drop(vmm);
        tokio::time::timeout(Duration::from_secs(10), console.finish(None)).await.unwrap();
    }

    #[tokio::test]
    async fn other_streams_are_refused_by_name() {
        let paths = Paths { stdout: "binary:///bin/logger".into(), ..Paths::default() };
        let error = Console::open(&paths).unwrap_err().to_string();
        assert!(error.starts_with("stdout \"binary:///bin/logger\": not supported by vireo"), "{error}");
    }

    #[test]
    fn files_are_not_fifos() {
        let mut text = String::new();
        File::open("/proc/self/comm").unwrap().read_to_string(&mut text).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let paths = Paths { stdout: "/proc/self/comm".into(), ..Paths::default() };
        assert!(runtime.block_on(async { Console::open(&paths).is_err() }));
    }
}
