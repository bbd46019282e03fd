//! Init containers and sidecars, which a VM pod can't have yet: each is refused by its name, before it is taken for a machine
//! that lacks a disk.
//!
//! The machine is the container `compute`, as in KubeVirt's pods. A pod without a VMI spec may call it otherwise: there the
//! machine is the container whose image has a disk or a kernel.

use std::path::Path;

use vireo_runtimeclass::pod::{ANNOTATION_VMI, MACHINE_CONTAINER};

use super::error::PodError;
use crate::bundle::Bundle;

/// CRI's name of a container.
const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";
/// Where an image has its disk and its kernel.
const OF_MACHINES: [&str; 2] = ["disk", "boot/vmlinuz"];

/// The container's name in its pod, if it has one.
pub fn name(bundle: &Bundle) -> Option<&str> {
    bundle.annotation(CONTAINER_NAME).filter(|name| !name.is_empty())
}

/// Refuses a container that isn't the pod's machine. Its image is mounted at `rootfs`.
pub fn check(bundle: &Bundle, rootfs: &Path) -> Result<(), PodError> {
    let Some(name) = name(bundle).filter(|name| *name != MACHINE_CONTAINER) else { return Ok(()) };
    let described = bundle.annotation(ANNOTATION_VMI).is_some();
    // Links of an image lead anywhere.
    let machine = || OF_MACHINES.iter().any(|path| rootfs.join(path).symlink_metadata().is_ok());
    if described || !machine() { Err(PodError::Sidecar(name.into())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::tests::bundle;

    fn refused(annotations: &str, image: &[&str]) -> Option<String> {
        let (directory, bundle) = bundle(&format!(r#"{{"ociVersion":"1.1.0","annotations":{{{annotations}}}}}"#));
        for folder in image {
            std::fs::create_dir_all(directory.path().join("rootfs").join(folder)).unwrap();
        }
        check(&bundle, &bundle.rootfs()).err().map(|error| error.to_string())
    }

    #[test]
    fn what_is_not_the_machine_is_refused_by_name() {
        const NAME: &str = r#""io.kubernetes.cri.container-name""#;
        const VMI: &str = r#""vireo.dev/vmi":"{}""#;
        assert_eq!(refused("", &[]), None, "without CRI");
        assert_eq!(refused(&format!(r#"{NAME}:"compute""#), &[]), None);
        assert_eq!(refused(&format!(r#"{NAME}:"compute",{VMI}"#), &[]), None);
        assert_eq!(refused(&format!(r#"{NAME}:"mine""#), &["disk"]), None);
        let refusal = refused(&format!(r#"{NAME}:"istio-init""#), &["bin"]).unwrap();
        assert!(
            refusal.starts_with("container \"istio-init\": init containers and sidecars are not supported by vireo"),
            "{refusal}"
        );
        // KubeVirt's own: a disk image's container beside the machine.
        assert!(refused(&format!(r#"{NAME}:"volumerootdisk",{VMI}"#), &["disk"]).is_some());
    }
}
