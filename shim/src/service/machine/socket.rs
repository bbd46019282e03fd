//! A machine's service on a Unix socket.
//!
//! The folder is root's alone from the start, and so is the socket. It has one owner, which removes it; `delete` removes what a
//! crashed shim left, as does the next machine of that name.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};
use vireo_runtimeclass::machine_service::v1::machine_server::MachineServer;

use super::MachineService;

/// After a client that couldn't be taken, for want of descriptors say: it waits in the socket, and would be asked for at once.
const REST: Duration = Duration::from_secs(1);

/// A served socket; dropping it ends its connections and removes it.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    accepting: JoinHandle<()>,
}

impl Socket {
    /// Serves `service` at `path`. Needs a tokio runtime.
    pub fn serve(path: PathBuf, service: MachineService) -> io::Result<Socket> {
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        remove(&path)?;
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(Socket { path, accepting: tokio::spawn(accept(listener, service)) })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.accepting.abort();
        if let Err(error) = remove(&self.path) {
            log::warn!("{}: not removed: {error}", self.path.display());
        }
    }
}

/// Removes a socket, if it is there.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn accept(listener: UnixListener, service: MachineService) {
    // Dropped with this task, and its connections with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            client = listener.accept() => match client {
                Ok((client, _)) => {
                    connections.spawn(connection(client, service.clone()));
                }
                Err(error) => {
                    log::warn!("the machine's service: a client: {error}");
                    tokio::time::sleep(REST).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(client: UnixStream, service: MachineService) {
    let service = TowerToHyperService::new(MachineServer::new(service));
    let served = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(client), service).await;
    if let Err(error) = served {
        log::debug!("the machine's service: a client: {error}");
    }
}
