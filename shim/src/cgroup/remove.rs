//! The end of a cgroup. cgroups-rs can kill what is inside, but not wait until that is gone; without waiting the folder
//! is busy.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long a killed cgroup may take to become empty, milliseconds.
const EMPTY_MS: u16 = 5000;

/// Kills what is in the cgroup at `path` and removes it with the cgroups below; none there is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if populated(path) {
        fs::write(path.join("cgroup.kill"), "1")?;
        wait_empty(path);
    }
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a process is in the cgroup at `path` or below.
pub fn populated(path: &Path) -> bool {
    says_populated(&fs::read(path.join("cgroup.events")).unwrap_or_default())
}

fn says_populated(events: &[u8]) -> bool {
    events.split(|&byte| byte == b'\n').any(|line| line == b"populated 1")
}

/// Waits until no process is left, or the bound is over. The kernel tells of a change since the last read through the
/// same descriptor, with `POLLPRI`.
fn wait_empty(path: &Path) {
    let Ok(events) = File::open(path.join("cgroup.events")) else { return };
    let mut text = [0; 128];
    while let Ok(count) = events.read_at(&mut text, 0)
        && says_populated(&text[..count])
    {
        let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        match poll(&mut fds, PollTimeout::from(EMPTY_MS)) {
            Ok(0) => return,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}
