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

use std::fmt;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::str::FromStr;
use std::time::SystemTime;

use containerd_shim::api::DeleteResponse;
use containerd_shim::protos::protobuf::MessageField;
use containerd_shim::protos::protobuf::well_known_types::timestamp::Timestamp;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use vireo_runtimeclass::machine_service;

use crate::bundle::Bundle;
use crate::service::machine;
use crate::{cgroup, rootfs};

/// The exit status of a container that nobody saw end: killed.
const KILLED: u32 = 128 + 9;

/// A process that can't be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessId {
    pid: u32,
    /// Clock ticks since boot.
    started: u64,
}

impl ProcessId {
    /// The process that has `pid` now.
    pub fn of(pid: u32) -> std::io::Result<ProcessId> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let started = start_time(&stat).ok_or(std::io::ErrorKind::InvalidData)?;
        Ok(ProcessId { pid, started })
    }

    /// Kills the process, if it is still that one.
    pub fn kill(self) {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return };
        // Opened before the check: what is checked is what is killed.
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        if ProcessId::of(self.pid).is_ok_and(|now| now == self) {
            // It may just have ended.
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)); the name in field 2 may hold anything, also parentheses.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(19)?.parse().ok()
}

impl fmt::Display for ProcessId {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} {}", self.pid, self.started)
    }
}

impl FromStr for ProcessId {
    type Err = ();

    fn from_str(text: &str) -> Result<ProcessId, ()> {
        let (pid, started) = text.trim().split_once(' ').ok_or(())?;
        Ok(ProcessId { pid: pid.parse().map_err(|_| ())?, started: started.parse().map_err(|_| ())? })
    }
}

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
            let _ = fs::remove_file(socket);
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
    let Ok(place) = cgroup::place(bundle.map(Bundle::spec), id) else { return Ok(()) };
    cgroup::remove(&place).map_err(|error| anyhow::anyhow!("cgroup {}: not removed: {error}", place.display()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_killed_only_if_it_is_that_one() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        ProcessId { started: id.started + 1, ..id }.kill();
        assert!(child.try_wait().unwrap().is_none());
        let parsed: ProcessId = id.to_string().parse().unwrap();
        parsed.kill();
        assert!(!child.wait().unwrap().success());
        // Gone: nothing to kill, no harm.
        parsed.kill();
    }

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        assert_eq!(start_time(stat), Some(4242));
    }

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
