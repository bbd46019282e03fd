//! A bundle: the folder that containerd makes for a container, with its OCI spec.
//!
//! What the shim reads from it: the spec (`config.json`), which part of a pod the container is, and which pod. What it
//! writes: `address`, so that a restarted containerd finds the shim again, and `shim.pid`, so that `delete` finds a shim
//! that nobody answers for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};

/// The OCI spec.
pub const SPEC: &str = "config.json";
/// CRI's word on what a container is.
pub const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
/// CRI's id of the pod that a container belongs to.
pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

/// A bundle can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// No OCI spec.
    #[error("bundle {path}: config.json can't be read; containerd writes it before it runs the shim")]
    Spec {
        /// The bundle.
        path: PathBuf,
        /// Why.
        source: oci_spec::OciSpecError,
    },
    /// A file of the shim's own.
    #[error("bundle {path}: {name} can't be written")]
    Write {
        /// The bundle.
        path: PathBuf,
        /// The file in it.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// The part that a container plays in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The pause container, or the sandbox that containerd asks for in its place: it holds the pod's cgroup and nothing else.
    Sandbox,
    /// A virtual machine. A container without CRI's annotations is one too.
    Machine,
}

/// One container's folder and spec.
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    spec: Spec,
}

impl Bundle {
    /// Reads the bundle at `path`.
    pub fn open(path: &Path) -> Result<Bundle, BundleError> {
        let spec = Spec::load(path.join(SPEC)).map_err(|source| BundleError::Spec { path: path.into(), source })?;
        Ok(Bundle { path: path.into(), spec })
    }

    /// Reads the bundle at `path`; none if it has no OCI spec, as that of a sandbox before `CreateSandbox`.
    pub fn open_described(path: &Path) -> Result<Option<Bundle>, BundleError> {
        if path.join(SPEC).exists() { Bundle::open(path).map(Some) } else { Ok(None) }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The OCI spec.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The value of an OCI annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.spec.annotations().as_ref()?.get(key).map(String::as_str)
    }

    /// The container's part in its pod.
    pub fn role(&self) -> Role {
        match self.annotation(CONTAINER_TYPE) {
            Some("sandbox") => Role::Sandbox,
            _ => Role::Machine,
        }
    }

    /// The pod's sandbox, if the container belongs to one.
    pub fn sandbox_id(&self) -> Option<&str> {
        self.annotation(SANDBOX_ID).filter(|id| !id.is_empty())
    }

    /// The network namespace that CNI has set up.
    pub fn netns(&self) -> Option<&Path> {
        let namespaces = self.spec.linux().as_ref()?.namespaces().as_ref()?;
        namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::Network)?.path().as_deref()
    }

    /// Where the image's file system is mounted: `root.path`, relative to the bundle.
    pub fn rootfs(&self) -> PathBuf {
        match self.spec.root() {
            Some(root) => self.path.join(root.path()),
            None => self.path.join("rootfs"),
        }
    }
}

/// Writes a file of the bundle in one step: a reader sees the old or the new one.
pub fn write(bundle: &Path, name: &'static str, text: &str) -> Result<(), BundleError> {
    let unfinished = bundle.join(format!(".{name}.new"));
    fs::write(&unfinished, text)
        .and_then(|()| fs::rename(&unfinished, bundle.join(name)))
        .map_err(|source| BundleError::Write { path: bundle.into(), name, source })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A bundle in a temporary folder.
    pub(crate) fn bundle(json: &str) -> (tempfile::TempDir, Bundle) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("config.json"), json).unwrap();
        let bundle = Bundle::open(directory.path()).unwrap();
        (directory, bundle)
    }

    #[test]
    fn cri_annotations_group_containers() {
        let (_directory, sandbox) = bundle(
            r#"{"ociVersion":"1.1.0","annotations":{"io.kubernetes.cri.container-type":"sandbox",
                "io.kubernetes.cri.sandbox-id":"s"},
                "linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/run/netns/x"}]}}"#,
        );
        assert_eq!(sandbox.role(), Role::Sandbox);
        assert_eq!(sandbox.sandbox_id(), Some("s"));
        assert_eq!(sandbox.netns(), Some(Path::new("/run/netns/x")));
    }

    #[test]
    fn a_container_without_a_pod_is_a_machine() {
        let (_directory, plain) = bundle(r#"{"ociVersion":"1.1.0"}"#);
        assert_eq!(plain.role(), Role::Machine);
        assert_eq!(plain.sandbox_id(), None);
        assert_eq!(plain.netns(), None);
        assert!(plain.rootfs().ends_with("rootfs"));
    }

    #[test]
    fn no_spec_names_the_bundle() {
        assert!(Bundle::open_described(Path::new("/nonexistent")).unwrap().is_none());
        let error = Bundle::open(Path::new("/nonexistent")).unwrap_err();
        assert!(error.to_string().starts_with("bundle /nonexistent: config.json can't be read"));
    }
}
