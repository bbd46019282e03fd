//! Work inside another network namespace, on a thread of its own: the caller's thread stays where it is.

use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::NetworkError;

/// Runs `work` in the network namespace at `path`.
pub(super) fn within<T: Send>(
    path: &Path,
    work: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    let failed = |error| NetworkError::Namespace(path.to_owned(), error);
    let namespace = File::open(path).map_err(failed)?;
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
            work()
        });
        let worker = worker.map_err(failed)?;
        worker.join().unwrap_or_else(|_| Err(failed(io::Error::other("the worker panicked"))))
    })
}
