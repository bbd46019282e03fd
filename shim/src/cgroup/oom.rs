//! OOM kills in a cgroup. v2 tells of each change of `memory.events` through inotify; the watch of cgroups-rs is v1's, also where it is
//! called v2's.
//!
//! v1 tells (an eventfd in `cgroup.event_control`) when memory runs out, which is before the kernel kills, and not again when it has. So
//! kills are counted there when the machine has ended: nothing else is in its cgroup to be killed.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::io::{Errno, read};
use tokio::io::unix::AsyncFd;

use super::Folders;
use crate::ready::readable;

/// Watches one cgroup.
#[derive(Debug)]
pub struct OomWatch {
    /// v2's notices.
    inotify: Option<AsyncFd<OwnedFd>>,
    counts: PathBuf,
    seen: u64,
}

impl OomWatch {
    /// Starts watching a cgroup; `None` where its memory controller is off. Needs a tokio runtime.
    pub fn new(folders: &Folders) -> io::Result<Option<OomWatch>> {
        let Ok(folder) = folders.of("memory") else { return Ok(None) };
        let counts = folder.path.join(if folder.is_v2() { "memory.events" } else { "memory.oom_control" });
        if !counts.exists() {
            return Ok(None);
        }
        let inotify = if folder.is_v2() {
            let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            add_watch(&inotify, &counts, WatchFlags::MODIFY)?;
            Some(readable(&inotify)?)
        } else {
            None
        };
        let seen = kills(&counts);
        Ok(Some(OomWatch { inotify, counts, seen }))
    }

    /// Whether the kernel has killed since the last answer.
    pub fn check(&mut self) -> bool {
        let kills = kills(&self.counts);
        let more = kills > self.seen;
        self.seen = kills.max(self.seen);
        more
    }

    /// Waits for the next OOM kill; for ever on v1.
    pub async fn killed(&mut self) -> io::Result<()> {
        loop {
            let Some(inotify) = &self.inotify else { return std::future::pending().await };
            let mut guard = inotify.readable().await?;
            // What changed is read from the file: the notices only tell that something did.
            let mut notices = [0; 1024];
            match read(guard.get_inner(), &mut notices) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(error) => return Err(error.into()),
            }
            drop(guard);
            if self.check() {
                return Ok(());
            }
        }
    }
}

/// How often the kernel killed: in the cgroup itself, with v2 also below.
fn kills(counts: &Path) -> u64 {
    let text = fs::read_to_string(counts).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn only_kills_count() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("memory.events");
        fs::write(&file, "oom 1\noom_kill 1\n").unwrap();
        let mut watch = OomWatch::new(&Folders::v2(directory.path())).unwrap().unwrap();
        assert!(!watch.check());
        fs::write(&file, "oom 2\noom_kill 1\n").unwrap();
        assert!(!watch.check());
        let writer = tokio::spawn(async move {
            tokio::task::yield_now().await;
            fs::write(&file, "oom 3\noom_kill 2\n").unwrap();
        });
        tokio::time::timeout(Duration::from_secs(5), watch.killed()).await.unwrap().unwrap();
        writer.await.unwrap();
        assert!(!watch.check());
    }

    #[test]
    fn on_v1_kills_are_counted_afterwards() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("memory.oom_control");
        fs::write(&file, "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n").unwrap();
        let mut watch = OomWatch::new(&Folders::v1(directory.path())).unwrap().unwrap();
        assert!(!watch.check());
        fs::write(&file, "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n").unwrap();
        assert!(watch.check() && !watch.check());
    }

    #[tokio::test]
    async fn no_controller_no_watch() {
        let directory = tempfile::tempdir().unwrap();
        assert!(OomWatch::new(&Folders::v2(directory.path())).unwrap().is_none());
    }
}
