//! The pod's sandbox where containerd names it (the sandbox API): it lives as a pause container does, but is no task, and its end is the
//! pod's.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim::api::CreateTaskRequest;

use super::container::Container;
use super::error::PodError;
use super::lifecycle::Phase;
use super::pod::{Pod, end_sandbox};
use crate::bundle::Role;
use crate::service::events::Publisher;

const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;

impl Pod {
    /// Makes the sandbox that `bundle`'s spec describes. containerd tells of it itself.
    pub async fn create_sandbox(&self, id: &str, bundle: &Path) -> Result<(), PodError> {
        let bundle = bundle.display().to_string();
        let request = CreateTaskRequest { id: id.into(), bundle, ..Default::default() };
        self.create_told(&request, Publisher::nowhere()).await.map(drop)
    }

    /// The sandbox `id`.
    pub fn sandbox(&self, id: &str) -> Result<Arc<Container>, PodError> {
        let container = self.container(id)?;
        if container.role == Role::Sandbox { Ok(container) } else { Err(PodError::NotFound(id.into())) }
    }

    /// Ends the pod's machines, which have `patience` to power off, and then the sandbox, whatever it is doing.
    pub async fn stop_sandbox(&self, id: &str, patience: Duration) -> Result<(), PodError> {
        let sandbox = self.sandbox(id)?;
        let containers: Vec<_> = self.containers().values().cloned().collect();
        for container in containers.iter().filter(|container| container.role == Role::Machine) {
            self.end(container, patience).await;
        }
        end_sandbox(&sandbox, 0);
        Ok(())
    }

    async fn end(&self, container: &Container, patience: Duration) {
        if !patience.is_zero() && self.kill(&container.id, SIGTERM).is_ok() {
            // Whether it has ended the next signal tells.
            let _ = tokio::time::timeout(patience, container.exited()).await;
        }
        // A creation that is called off has no exit.
        if self.kill(&container.id, SIGKILL).is_ok() && container.phase() != Phase::Creating {
            container.exited().await;
        }
    }

    /// Ends the sandbox and all that is left of the pod, and then the shim. A shim that never got its sandbox ends too.
    pub async fn close(&self, id: &str) -> Result<(), PodError> {
        match self.stop_sandbox(id, Duration::ZERO).await {
            Err(_) if self.is_empty() => {}
            stopped => stopped?,
        }
        let ids: Vec<_> = self.containers().keys().cloned().collect();
        for id in ids {
            if let Err(error) = self.delete(&id).await {
                log::warn!("container {id}: left to containerd's delete: {error}");
            }
        }
        self.finish();
        Ok(())
    }
}
