//! What a scenario works with.

use anyhow::Result;

use super::pod::{Pod, PodSpec, UP};
use crate::cri::Cri;

/// A node with containerd up and Vireo installed.
#[derive(Debug)]
pub struct Bench {
    /// The version under test.
    pub containerd: String,
    cri: Cri,
    pods: u32,
}

impl Bench {
    /// Connects to containerd.
    pub fn new(containerd: &str) -> Result<Self> {
        Ok(Self { containerd: containerd.to_owned(), cri: Cri::connect()?, pods: 0 })
    }

    /// containerd's CRI.
    pub fn cri(&mut self) -> &mut Cri {
        &mut self.cri
    }

    /// Makes a pod's sandbox; see [`Pod`].
    pub fn pod(&mut self, spec: PodSpec) -> Result<Pod> {
        self.pods += 1;
        let number = self.pods;
        Pod::new(self, spec, number)
    }

    /// A running pod whose guest serves.
    pub fn boot(&mut self, spec: PodSpec) -> Result<Pod> {
        let mut pod = self.pod(spec)?;
        pod.create(self)?;
        pod.start(self)?;
        pod.wait_console(self, UP)?;
        Ok(pod)
    }

    /// Restarts containerd; calls afterwards go to the new one.
    pub fn restart_containerd(&mut self) -> Result<()> {
        super::shell::containerd("restart", &self.containerd)?;
        self.cri = Cri::connect()?;
        Ok(())
    }
}
