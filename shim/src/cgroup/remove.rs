//! The end of a cgroup. cgroups-rs can kill what is inside, but not wait until that is gone; without waiting the folder
//! is busy.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long a killed cgroup may take to become empty.
const EMPTY: Duration = Duration::from_secs(5);

/// Kills what is in the folder `path` of a cgroup and removes it with those below; none there is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if populated(path) {
        match File::options().write(true).open(path.join("cgroup.kill")) {
            Ok(mut kill) => {
                kill.write_all(b"1")?;
                wait_empty(path);
            }
            Err(_) => kill_each(path)?,
        }
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

/// Whether a process is in the cgroup with the folder `path`; v2 knows of those below, too.
pub fn populated(path: &Path) -> bool {
    match fs::read(path.join("cgroup.events")) {
        Ok(events) => says_populated(&events),
        Err(_) => processes(path).is_ok_and(|pids| !pids.is_empty()),
    }
}

fn says_populated(events: &[u8]) -> bool {
    events.split(|&byte| byte == b'\n').any(|line| line == b"populated 1")
}

/// Waits until no process is left, or the bound is over. The kernel tells of a change since the last read through the
/// same descriptor, with `POLLPRI`.
fn wait_empty(path: &Path) {
    let Ok(events) = File::open(path.join("cgroup.events")) else { return };
    let mut text = [0; 128];
    let end = Instant::now() + EMPTY;
    while let Ok(count) = events.read_at(&mut text, 0)
        && says_populated(&text[..count])
        && wait(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], end)
    {}
}

/// Kills each process, where the kernel doesn't kill them together (v1, and v2 before Linux 5.14), until none is left or the bound is over.
fn kill_each(path: &Path) -> io::Result<()> {
    let end = Instant::now() + EMPTY;
    loop {
        let listed = processes(path)?;
        if listed.is_empty() {
            return Ok(());
        }
        let mut open = Vec::new();
        for pid in listed {
            match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(process) => open.push((pid, process)),
                Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Only what is inside while its descriptor is open is meant, not what takes its number later.
        let inside = processes(path)?;
        for (_, process) in open.iter().filter(|(pid, _)| inside.contains(pid)) {
            // It fails only for one that has ended.
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
        let mut ends: Vec<_> = open.iter().map(|(_, fd)| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
        if !ends.is_empty() && !wait(&mut ends, end) || Instant::now() > end {
            return Ok(());
        }
    }
}

/// The processes in the cgroup itself. Those that only wait to be reaped are not listed.
fn processes(path: &Path) -> io::Result<Vec<Pid>> {
    let text = fs::read_to_string(path.join("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect())
}

/// Waits for one of `fds`; whether there was time left.
fn wait(fds: &mut [PollFd<'_>], end: Instant) -> bool {
    let left = end.saturating_duration_since(Instant::now());
    let Ok(timeout) = PollTimeout::try_from(left) else { return false };
    !left.is_zero() && matches!(poll(fds, timeout), Ok(1..) | Err(Errno::EINTR))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn processes_are_killed_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut children: Vec<_> = (0..3).map(|_| Command::new("sleep").arg("60").spawn().unwrap()).collect();
        let list: Vec<String> = children.iter().map(|child| child.id().to_string()).collect();
        fs::write(folder.path().join("cgroup.procs"), list.join("\n")).unwrap();
        assert!(populated(folder.path()));
        let path = folder.path().to_owned();
        let killer = std::thread::spawn(move || kill_each(&path));
        for child in &mut children {
            assert!(!child.wait().unwrap().success());
        }
        // As the kernel does for those that have ended.
        fs::write(folder.path().join("cgroup.procs"), "").unwrap();
        killer.join().unwrap().unwrap();
    }
}
