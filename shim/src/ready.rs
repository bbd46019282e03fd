//! Waiting for descriptors that tokio has no type for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::unix::AsyncFd;

/// Tells when `fd`'s open file is readable, through a descriptor of its own. Needs a tokio runtime.
pub fn readable(fd: impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    let own = fd.as_fd().try_clone_to_owned()?;
    #[expect(deprecated, reason = "unsound for types that may close their descriptor early; OwnedFd never does")]
    AsyncFd::with_interest(own, tokio::io::Interest::READABLE)
}
