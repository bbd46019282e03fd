//! Guests and container images, from Debian packages.

mod agent;
pub mod debian;
mod fast;
pub mod images;
pub mod payload;

use std::path::PathBuf;

use anyhow::Result;

pub use fast::{BLANK_QCOW2, fast};

use crate::debian::Kernel;

/// Everything that scenarios boot.
#[derive(Debug, Clone)]
pub struct Images {
    kernel: Kernel,
    fast: PathBuf,
    containers: PathBuf,
}

impl Images {
    /// Builds them, or finds them in the cache.
    pub fn build(kernel: &Kernel) -> Result<Self> {
        let fast = fast(kernel)?;
        let containers = images::images(kernel, &fast, &agent::agent(kernel, &fast)?)?;
        Ok(Self { kernel: kernel.clone(), fast, containers })
    }

    /// `vmlinuz`, `vmlinux`, `initrd` and `disk.img`.
    pub fn guest_files(&self) -> Vec<PathBuf> {
        let fast = ["initrd", "disk.img", BLANK_QCOW2].map(|name| self.fast.join(name));
        [self.kernel.vmlinuz(), self.kernel.vmlinux()].into_iter().chain(fast).collect()
    }

    /// Container images as OCI tars: `pause.tar`, `busybox.tar`, `containerdisk.tar`.
    pub fn image_files(&self) -> Vec<PathBuf> {
        ["pause.tar", "busybox.tar", "containerdisk.tar"].map(|name| self.containers.join(name)).into()
    }
}
