//! Tells when the kubelet changes a secret: it renames a link in the mounted folder, of which the kernel tells through inotify.
//! A watch keeps nobody from unmounting the folder.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::io::{Errno, read};
use tokio::io::unix::AsyncFd;

use crate::ready::readable;

/// A watch on some folders.
#[derive(Debug)]
pub(super) struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    /// Starts watching. Needs a tokio runtime.
    pub(super) fn new<'a>(folders: impl Iterator<Item = &'a Path>) -> io::Result<Self> {
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        for folder in folders {
            add_watch(&inotify, folder, WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE | WatchFlags::DELETE)?;
        }
        Ok(Self(readable(&inotify)?))
    }

    /// Waits until something has changed since the last answer.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.0.readable().await?;
            // That something did is enough.
            let (mut notices, mut any) = ([0; 4096], false);
            loop {
                match read(guard.get_inner(), &mut notices) {
                    Ok(_) => any = true,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break guard.clear_ready(),
                    Err(error) => return Err(error.into()),
                }
            }
            if any {
                return Ok(());
            }
        }
    }
}
