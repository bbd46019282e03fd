//! Whether containerd has thrown the shim's own bundle away.
//!
//! containerd takes a `start` that failed, or whose end it did not live to see, for one that left nothing: it removes the
//! bundle, and asks no server to end. A server is in its bundle, and can see it go.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::io::unix::AsyncFd;

use crate::ready::readable;

/// Watches the working directory.
#[derive(Debug)]
pub struct BundleWatch {
    // Never read: one notice is all that there is to know.
    inotify: AsyncFd<OwnedFd>,
}

impl BundleWatch {
    /// Watches the working directory, which is to be the bundle of `id`. Needs a tokio runtime.
    ///
    /// # Errors
    /// Also if it is gone already.
    pub fn new(id: &str) -> io::Result<BundleWatch> {
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        // containerd gives it another name before it removes it: a removal alone tells nothing to whoever is inside.
        add_watch(&inotify, Path::new("."), WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF)?;
        let path = std::env::current_dir()?;
        if path.file_name().is_none_or(|name| name != id) {
            return Err(io::ErrorKind::NotFound.into());
        }
        File::open(path)?;
        Ok(BundleWatch { inotify: readable(&inotify)? })
    }

    /// Waits until the bundle is gone.
    pub async fn gone(&self) {
        if let Err(error) = self.inotify.readable().await {
            log::warn!("the bundle can't be watched: {error}");
            std::future::pending::<()>().await;
        }
    }
}
