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
        Self::numbered(containerd, 0)
    }

    /// One whose pods' numbers follow `number`, beside others.
    pub fn numbered(containerd: &str, number: u32) -> Result<Self> {
        Ok(Self { containerd: containerd.to_owned(), cri: Cri::connect()?, pods: number })
    }

    /// containerd's CRI.
    pub fn cri(&mut self) -> &mut Cri {
        &mut self.cri
    }

    /// The same node for another thread, over a connection of its own, with the names of `pods` pods.
    pub fn beside(&mut self, pods: u32) -> Result<Self> {
        let beside = Self { containerd: self.containerd.clone(), cri: Cri::connect()?, pods: self.pods };
        self.pods += pods;
        Ok(beside)
    }

    /// The name of the pod made last.
    pub fn last_name(&self) -> String {
        format!("pod-{}", self.pods)
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

    /// Puts another version of containerd in the place of the one that runs, which leaves it its data.
    pub fn upgrade_containerd(&mut self, version: &str) -> Result<()> {
        super::shell::containerd("upgrade", version)?;
        self.cri = Cri::connect()?;
        Ok(())
    }

    /// Restarts containerd; calls afterwards go to the new one.
    pub fn restart_containerd(&mut self) -> Result<()> {
        super::shell::containerd("restart", &self.containerd)?;
        self.cri = Cri::connect()?;
        Ok(())
    }
}
