//! Turns root into the pod's user, without a way back.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::JailError;
use crate::config::JailConfig;

/// Descriptors that the largest machine may hold: 31 devices with an eventfd a queue and an MSI-X vector, and 254 vCPUs.
const MAX_OPEN_FILES: u64 = 4096;
/// `_LINUX_CAPABILITY_VERSION_3` (capability.h): 64 capabilities, two words each.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// No core dump holds the guest's memory, and no more files than a machine needs.
pub(super) fn limit_resources() -> Result<(), JailError> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(JailError::host("RLIMIT_CORE"))?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(JailError::host("RLIMIT_NOFILE"))?;
    let limit = hard.min(MAX_OPEN_FILES);
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit).map_err(JailError::host("RLIMIT_NOFILE"))
}

/// Becomes the pod's user with no capability in any set and no way to gain one.
pub(super) fn drop_all(jail: JailConfig) -> Result<(), JailError> {
    // The bounding and ambient sets first: dropping them takes CAP_SETPCAP.
    drop_bounding_set().map_err(JailError::host("drop the capability bounding set"))?;
    clear_ambient().map_err(JailError::host("clear the ambient capabilities"))?;
    let (uid, gid) = (Uid::from_raw(jail.uid), Gid::from_raw(jail.gid));
    setgroups(&[]).map_err(JailError::host("drop supplementary groups"))?;
    setresgid(gid, gid, gid).map_err(JailError::host("setresgid"))?;
    setresuid(uid, uid, uid).map_err(JailError::host("setresuid"))?;
    // The change of user clears the effective and permitted sets, not the inheritable one.
    clear_capabilities().map_err(JailError::host("capset"))?;
    prctl::set_no_new_privs().map_err(JailError::host("no_new_privs"))?;
    prctl::set_dumpable(false).map_err(JailError::host("undumpable"))?;
    // A launcher that died before this line is noticed by its end of the control socket.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(JailError::host("PDEATHSIG"))
}

fn drop_bounding_set() -> io::Result<()> {
    for capability in 0.. {
        // SAFETY: prctl with integers only.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } < 0 {
            let error = io::Error::last_os_error();
            // The first number past the last capability of this kernel.
            return if error.raw_os_error() == Some(libc::EINVAL) && capability > 0 { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

fn clear_ambient() -> io::Result<()> {
    // SAFETY: prctl with integers only.
    let cleared = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    if cleared == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn clear_capabilities() -> io::Result<()> {
    // `struct __user_cap_header_struct` and two `struct __user_cap_data_struct`.
    let header: [u32; 2] = [CAPABILITY_VERSION, 0];
    let none = [0u32; 6];
    // SAFETY: both point at structures of the version named, which the kernel only reads.
    let set = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
