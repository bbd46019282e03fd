//! Opens a tap device, and a socket that overhears what a guest asks on it. The VMM is handed its taps open; whoever launches
//! it makes them with this, in the network namespace that they belong to.

mod requests;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use vmm_sys_util::ioctl::ioctl_with_mut_ref;

pub use requests::open_requests;

/// `_IOW('T', 202, int)` of linux/if_tun.h.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// Makes the tap `name` with `queues` queues in the calling thread's network namespace, or attaches to it if it is there and free. It carries
/// Ethernet frames, each with a virtio-net header before it (`IFF_NO_PI | IFF_VNET_HDR`), does not block, and is gone once
/// every copy of the descriptor is closed.
///
/// # Errors
/// `InvalidInput` for a name longer than 15 bytes or empty, `ResourceBusy` if something else is attached to it.
pub fn open_tap(name: &str, queues: usize) -> io::Result<Vec<File>> {
    let several = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    (0..queues).map(|_| open_queue(name, several)).collect()
}

fn open_queue(name: &str, flags: libc::c_int) -> io::Result<File> {
    let mut request =
        libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 } };
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface's name has 1 to 15 bytes"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | flags;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    let tap = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is; it outlives the call.
    let result = unsafe { ioctl_with_mut_ref(&tap, TUNSETIFF, &mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(tap) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for name in ["", "sixteen-bytes-is"] {
            assert_eq!(open_tap(name, 1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
