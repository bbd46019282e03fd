//! Empties the namespaces that the launcher made. The network namespace has nothing but a loopback that is down, the IPC
//! namespace nothing at all; both are born so.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root, sethostname};

use super::JailError;

/// A directory that every host has; the new root is mounted there before it becomes the root.
const STAGE: &str = "/proc";
/// Room for the root directory and nothing else.
const EMPTY: &str = "size=4k,nr_inodes=1,mode=0555";

/// Makes the root of this mount namespace an empty read-only tmpfs, and lets go of the host's.
pub(super) fn empty_root() -> Result<(), JailError> {
    let none: Option<&str> = None;
    // Nothing that happens here is to be seen by the host.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(JailError::host("make mounts private"))?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("vireo"), STAGE, Some("tmpfs"), flags, Some(EMPTY)).map_err(JailError::host("mount an empty root"))?;
    chdir(STAGE).map_err(JailError::host("chdir to the new root"))?;
    // With both arguments the same the old root ends up on top of the new one (pivot_root(2)).
    pivot_root(".", ".").map_err(JailError::host("pivot_root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(JailError::host("detach the host's root"))?;
    chdir("/").map_err(JailError::host("chdir to /"))
}

/// Gives the UTS namespace a name that tells nothing of the host.
pub(super) fn set_hostname() -> Result<(), JailError> {
    sethostname("vireo").map_err(JailError::host("sethostname"))
}
