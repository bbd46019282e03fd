//! What a crash left: `delete`, run by containerd for a container whose shim does not answer.
//!
//! It needs nothing but the bundle, finds each leftover by its name, and does the same again without harm:
//!
//! | leftover | found by |
//! |---|---|
//! | the shim, if this bundle started it | `shim.pid`: process id and start time |
//! | the VMM | the container's cgroup, which holds nothing else |
//! | cgroup | `linux.cgroupsPath` |
//! | root file system | the bundle's mount point |
//! | socket | `address`; that of a pod whose shim is another bundle's only if nobody answers there |
//! | the machine's own socket | namespace and id |
//!
//! A tap lives as long as the VMM and the shim have it open, and the pod's network rules as long as its namespace.
//! A VMM that another shim runs is out of reach: it is in another container's cgroup.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::SystemTime;

use containerd_shim::api::DeleteResponse;
use containerd_shim::protos::protobuf::MessageField;
use containerd_shim::protos::protobuf::well_known_types::timestamp::Timestamp;
use vireo_runtimeclass::machine_service;

use crate::bundle::Bundle;
use crate::cgroup::{self, Folders};
use crate::process_id::ProcessId;
use crate::records;
use crate::rootfs;
use crate::service::machine;

/// The exit status of a container that nobody saw end: killed.
const KILLED: u32 = 128 + 9;

/// Ends and removes what is left of container `id` in containerd's `namespace`. A leftover that can't be removed is an error, after the others have
/// been tried.
pub fn sweep(path: &Path, namespace: &str, id: &str) -> anyhow::Result<DeleteResponse> {
    let mut first_error = Ok(());
    let mut done = |result: anyhow::Result<()>| {
        if first_error.is_ok() {
            first_error = result;
        }
    };
    let shim = fs::read_to_string(path.join("shim.pid")).ok().and_then(|text| text.parse::<ProcessId>().ok());
    if let Some(shim) = shim {
        shim.kill();
    }
    if let Ok(address) = fs::read_to_string(path.join("address")) {
        let socket = Path::new(address.trim().strip_prefix("unix://").unwrap_or(address.trim()));
        // Without `shim.pid` it is the pod's, whose shim may be another bundle's and live.
        if shim.is_some() || UnixStream::connect(socket).is_err() {
            // A shim that ended in order has removed it.
            let _ = records::remove(Path::new(machine_service::FOLDER), socket);
        }
    }
    let socket = Path::new(machine_service::FOLDER).join(machine_service::socket(namespace, id));
    done(machine::remove(&socket).map_err(|error| anyhow::anyhow!("{}: not removed: {error}", socket.display())));
    done(remove_cgroup(Bundle::open(path).ok().as_ref(), id));
    // A root that lies elsewhere was mounted by somebody else.
    let root = path.join("rootfs");
    done(rootfs::unmount(&root).map_err(|error| anyhow::anyhow!("{}: not unmounted: {error}", root.display())));
    first_error?;
    Ok(DeleteResponse {
        exit_status: KILLED,
        exited_at: MessageField::some(Timestamp::from(SystemTime::now())),
        ..Default::default()
    })
}

fn remove_cgroup(bundle: Option<&Bundle>, id: &str) -> anyhow::Result<()> {
    let Ok(folders) = Folders::of_container(bundle.map(Bundle::spec), id) else { return Ok(()) };
    Ok(cgroup::remove(&folders)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_somebody_answers_at_stays() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        fs::write(directory.path().join("address"), format!("unix://{}", socket.display())).unwrap();
        let shim = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        sweep(directory.path(), "vireo-test", "vireo-test-none").unwrap();
        assert!(socket.exists(), "another bundle's shim lives");
        drop(shim);
        sweep(directory.path(), "vireo-test", "vireo-test-none").unwrap();
        assert!(!socket.exists());
    }

    #[test]
    fn twice_on_an_empty_bundle() {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let response = sweep(directory.path(), "vireo-test", "vireo-test-none").unwrap();
            assert_eq!(response.exit_status, 137);
        }
    }
}
