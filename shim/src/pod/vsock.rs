//! Passes connections between a machine's vsock and the host's sockets.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use tokio::task::JoinHandle;
use vireo_vmm::control::message::Command;

use crate::launch::Vmm;
use crate::vsock::{Sockets, greet};

/// The task that serves them; it ends with this value.
#[derive(Debug)]
pub struct Connections {
    sockets: Arc<Sockets>,
    vmm: Arc<Vmm>,
    accepting: JoinHandle<()>,
}

impl Connections {
    /// Passes on what comes to `sockets`. Needs a tokio runtime.
    pub fn serve(sockets: Sockets, vmm: Arc<Vmm>) -> Self {
        let sockets = Arc::new(sockets);
        let accepting = tokio::spawn(accept(sockets.clone(), vmm.clone()));
        Self { sockets, vmm, accepting }
    }

    /// The guest wants to connect to a port of the host's.
    pub fn ask(&self, id: u32, port: u32) {
        let (sockets, vmm) = (self.sockets.clone(), self.vmm.clone());
        tokio::spawn(async move {
            let sent = match sockets.connect(port).await {
                Ok(socket) => vmm.control.send(&Command::AcceptVsock { id }, &[socket.as_fd()]),
                Err(_) => vmm.control.send(&Command::RefuseVsock { id }, &[]),
            };
            // A machine that has ended needs no answer.
            if let Err(error) = sent {
                log::debug!("vireo-vmm {}: vsock port {port}: {error}", vmm.pid);
            }
        });
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(sockets: Arc<Sockets>, vmm: Arc<Vmm>) {
    loop {
        let client = match sockets.accept().await {
            Ok(client) => client,
            Err(error) => return log::warn!("vireo-vmm {}: vsock: {error}", vmm.pid),
        };
        let vmm = vmm.clone();
        tokio::spawn(async move {
            // Who says nothing sensible is hung up on, as who wants a machine that has ended.
            if let Ok((port, client)) = greet(client).await {
                let _ = vmm.control.send(&Command::ConnectVsock { port }, &[client.as_fd()]);
            }
        });
    }
}
