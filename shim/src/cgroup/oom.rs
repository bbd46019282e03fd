//! OOM kills in a cgroup: the kernel tells of each change of `memory.events` through inotify. The watch of cgroups-rs is
//! v1's, also where it is called v2's.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::io::{Errno, read};
use tokio::io::unix::AsyncFd;

use crate::ready::readable;

/// Watches one cgroup.
#[derive(Debug)]
pub struct OomWatch {
    inotify: AsyncFd<OwnedFd>,
    events: PathBuf,
    seen: u64,
}

impl OomWatch {
    /// Starts watching the cgroup at `path`; `None` where its memory controller is off. Needs a tokio runtime.
    pub fn new(path: &Path) -> io::Result<Option<OomWatch>> {
        let events = path.join("memory.events");
        if !events.exists() {
            return Ok(None);
        }
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        add_watch(&inotify, &events, WatchFlags::MODIFY)?;
        let seen = kills(&events);
        Ok(Some(OomWatch { inotify: readable(&inotify)?, events, seen }))
    }

    /// Whether the kernel has killed since the last answer.
    pub fn check(&mut self) -> bool {
        let kills = kills(&self.events);
        let more = kills > self.seen;
        self.seen = kills.max(self.seen);
        more
    }

    /// Waits for the next OOM kill.
    pub async fn killed(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.inotify.readable().await?;
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

/// How often the kernel killed in the cgroup itself or below.
fn kills(events: &Path) -> u64 {
    let text = fs::read_to_string(events).unwrap_or_default();
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
        let mut watch = OomWatch::new(directory.path()).unwrap().unwrap();
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

    #[tokio::test]
    async fn no_controller_no_watch() {
        let directory = tempfile::tempdir().unwrap();
        assert!(OomWatch::new(directory.path()).unwrap().is_none());
    }
}
