//! Why a machine ended, told where Kubernetes looks for it: the termination message file.
//!
//! The kubelet bind-mounts a host file to the container's `terminationMessagePath`. The guest never sees it, so the shim
//! writes it, through the mount's source.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use oci_spec::runtime::Spec;

use crate::log::bounded;

/// What the kubelet reads of it, bytes.
const MAX_MESSAGE: usize = 4096;
/// The default of a container's `terminationMessagePath`.
const DEFAULT_PATH: &str = "/dev/termination-log";
/// The kubelet's word on another path, where containerd passes it on.
const PATH_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePath";

/// Writes `message` to the termination message file of `spec`; a container without one has none.
pub fn write(spec: &Spec, message: &str) {
    let annotated = spec.annotations().as_ref().and_then(|annotations| annotations.get(PATH_ANNOTATION));
    let inside = Path::new(annotated.map_or(DEFAULT_PATH, String::as_str));
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let Some(file) =
        mounts.iter().find(|mount| mount.destination() == inside).and_then(|mount| mount.source().as_ref())
    else {
        return;
    };
    if let Err(error) = write_file(file, message) {
        log::warn!("termination message {}: not written: {error}", file.display());
    }
}

fn write_file(path: &Path, message: &str) -> std::io::Result<()> {
    // Not blocking: a fifo planted here must not hold the shim.
    let mut file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file"));
    }
    file.set_len(0)?;
    file.write_all(bounded(message, MAX_MESSAGE).as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn spec(source: &Path) -> Spec {
        let json = format!(
            r#"{{"ociVersion":"1.1.0","mounts":[{{"destination":"/dev/termination-log","source":"{}"}}]}}"#,
            source.display()
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn the_message_is_bounded_and_replaces() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("message");
        fs::write(&file, "x".repeat(10000)).unwrap();
        write(&spec(&file), &"é".repeat(5000));
        assert_eq!(fs::read_to_string(&file).unwrap(), "é".repeat(2048));
    }

    #[test]
    fn a_symlink_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (target, link) = (directory.path().join("target"), directory.path().join("link"));
        fs::write(&target, "kept").unwrap();
        symlink(&target, &link).unwrap();
        write(&spec(&link), "reason");
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
    }
}
