//! Which shims the node has: what finds the socket of one that was killed before containerd had spoken to it.
//!
//! containerd asks `delete` to sweep after a shim only if it has connected to it. Of one that is gone before, it removes the bundle, which
//! names the socket, and nothing else. So each shim has a record beside the machines' sockets, `<its socket's name>.shim`: the
//! socket's path on the first line, the process that answers for it on the second. `start` writes it before it makes the socket,
//! the server again as its own. Whichever `start` makes a server later removes the records whose process is gone, with their sockets.
//!
//! Invariants: records are written and removed with the folder locked, so none is seen half-written, and no socket is removed that
//! somebody has just bound again. A record is never without its socket: it is written over, not anew.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process_id::ProcessId;

/// How a record's name ends.
const SUFFIX: &str = "shim";
/// How long containerd may take to connect to a new shim. containerd 1.6 tries a socket that is not there for 100 seconds, one that nobody
/// answers at not again (`client.Connect` and `dialer.Dialer`): until then a dead shim's is better there.
pub const CONNECTED: Duration = Duration::from_secs(10);
/// Socket paths are shorter (`sun_path`, unix(7)), and so is a process.
const MAX_LENGTH: u64 = 4096;

/// The records in a folder, locked until this is dropped.
#[derive(Debug)]
pub struct Records {
    folder: PathBuf,
    _lock: File,
}

impl Records {
    /// Locks `folder`, which is made for root alone if it isn't there.
    pub fn lock(folder: &Path) -> io::Result<Records> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Records::lock_existing(folder)
    }

    fn lock_existing(folder: &Path) -> io::Result<Records> {
        let lock = File::open(folder)?;
        lock.lock()?;
        Ok(Records { folder: folder.into(), _lock: lock })
    }

    /// Says that `process` answers for `socket`.
    pub fn write(&self, socket: &Path, process: ProcessId) -> io::Result<()> {
        let socket_text = socket.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        let mut record =
            File::options().write(true).create(true).truncate(false).mode(0o600).open(self.path(socket))?;
        record.write_all(format!("{socket_text}\n{process}\n").as_bytes())
    }

    /// Removes a socket and its record, as far as they are there.
    fn remove(&self, socket: &Path) -> io::Result<()> {
        remove_file(socket)?;
        remove_file(&self.path(socket))
    }

    /// Removes the sockets of shims that are gone, and that began `age` ago or more. One that can't be removed is the next sweep's.
    pub fn sweep(&self, age: Duration) {
        let records = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in records.filter(|path| path.extension().is_some_and(|suffix| suffix == SUFFIX)) {
            if younger(&path, age) {
                continue;
            }
            match read(&path) {
                Some((_, process)) if process.lives() => {}
                Some((socket, _)) if self.path(&socket) == path => drop(self.remove(&socket)),
                // Its writer died before it had made the socket.
                _ => drop(remove_file(&path)),
            }
        }
    }

    fn path(&self, socket: &Path) -> PathBuf {
        let mut name = socket.file_name().unwrap_or_default().to_owned();
        name.push(".");
        name.push(SUFFIX);
        self.folder.join(name)
    }
}

/// Removes a socket and its record in `folder`, as far as they are there.
pub fn remove(folder: &Path, socket: &Path) -> io::Result<()> {
    match Records::lock_existing(folder) {
        Ok(records) => records.remove(socket),
        // Then there is no record.
        Err(_) => remove_file(socket),
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn younger(path: &Path, age: Duration) -> bool {
    let written = fs::metadata(path).and_then(|data| data.modified());
    // One of the future is as old as any: the clock was set back.
    written.is_ok_and(|written| written.elapsed().is_ok_and(|elapsed| elapsed < age))
}

fn read(path: &Path) -> Option<(PathBuf, ProcessId)> {
    if fs::metadata(path).ok()?.len() > MAX_LENGTH {
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    Some((lines.next()?.into(), lines.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;

    /// A process, and one that has ended.
    fn processes() -> (ProcessId, ProcessId) {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let gone = ProcessId::of(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        (ProcessId::of(std::process::id()).unwrap(), gone)
    }

    #[test]
    fn the_sockets_of_those_that_are_gone_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (alive, gone) = processes();
        let folder = directory.path().join("records");
        let records = Records::lock(&folder).unwrap();
        let sockets = ["a", "b"].map(|name| directory.path().join(name));
        for (socket, process) in sockets.iter().zip([alive, gone]) {
            drop(UnixListener::bind(socket).unwrap());
            records.write(socket, process).unwrap();
        }
        fs::write(folder.join("k8s.io.x.sock"), "").unwrap();
        // Cut short.
        fs::write(folder.join("c.shim"), "/run/containerd").unwrap();
        records.sweep(Duration::from_mins(1));
        assert_eq!(sockets.each_ref().map(|socket| socket.exists()), [true, true], "containerd may be on its way");
        records.sweep(Duration::ZERO);
        assert_eq!(sockets.each_ref().map(|socket| socket.exists()), [true, false]);
        let mut left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["a.shim", "k8s.io.x.sock"]);
    }

    #[test]
    fn the_server_takes_over_from_start() {
        let directory = tempfile::tempdir().unwrap();
        let (alive, gone) = processes();
        let socket = directory.path().join("socket");
        fs::write(&socket, "").unwrap();
        let records = Records::lock(directory.path()).unwrap();
        records.write(&socket, gone).unwrap();
        records.write(&socket, alive).unwrap();
        records.sweep(Duration::ZERO);
        assert!(socket.exists());
        drop(records);
        // As the server does at its end; twice does no harm.
        for _ in 0..2 {
            remove(directory.path(), &socket).unwrap();
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_record_speaks_for_the_socket_of_its_name_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (_, gone) = processes();
        let other = directory.path().join("other");
        fs::write(&other, "").unwrap();
        fs::write(directory.path().join("socket.shim"), format!("{}\n{gone}\n", other.display())).unwrap();
        Records::lock(directory.path()).unwrap().sweep(Duration::ZERO);
        assert!(other.exists() && !directory.path().join("socket.shim").exists());
    }

    #[test]
    fn without_a_folder_there_is_only_the_socket() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        fs::write(&socket, "").unwrap();
        remove(&directory.path().join("none"), &socket).unwrap();
        assert!(!socket.exists() && !directory.path().join("none").exists());
    }
}
