//! The tap behind a network card.

use std::ffi::c_uint;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use libc::{TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use virtio_bindings::virtio_net as vn;

use super::HEADER;

/// A tap with `IFF_NO_PI | IFF_VNET_HDR`, or one queue of it.
#[derive(Debug)]
pub struct Tap(File);

impl Tap {
    /// Takes the tap and makes it fit: never blocking, headers of the modern size.
    pub fn new(file: File) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
        fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let size = libc::c_int::try_from(HEADER).unwrap_or(libc::c_int::MAX);
        // SAFETY: the kernel reads one int.
        let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(file)) }
    }

    /// Any packet socket, in place of a tap.
    #[cfg(test)]
    pub fn socket(file: File) -> Self {
        Self(file)
    }

    /// Attaches this queue of a tap with several, or detaches it: the host then sends nothing here. What is so already stays so.
    pub fn attach(&self, attached: bool) -> io::Result<()> {
        /// `_IOW('T', 217, int)` of linux/if_tun.h.
        const TUNSETQUEUE: libc::Ioctl = 0x4004_54D9;
        let flag = if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
        // SAFETY: an all-zero ifreq is a valid one.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(flag).map_err(io::Error::other)?;
        // SAFETY: the kernel reads one ifreq.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), TUNSETQUEUE, &raw const request) };
        match io::Error::last_os_error() {
            error if done < 0 && error.raw_os_error() != Some(libc::EINVAL) => Err(error),
            _ => Ok(()),
        }
    }

    /// Lets the host hand over packets as the negotiated features allow.
    pub fn set_offloads(&self, features: u64) -> io::Result<()> {
        let has = |bit: u32| features & 1 << bit != 0;
        let mut offloads: c_uint = 0;
        // Segmentation without checksums is no valid combination (virtio 1.3 §5.1.3.1); the kernel refuses it too.
        if has(vn::VIRTIO_NET_F_GUEST_CSUM) {
            offloads |= TUN_F_CSUM;
            for (bit, flag) in [
                (vn::VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4),
                (vn::VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6),
                (vn::VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN),
            ] {
                offloads |= if has(bit) { flag } else { 0 };
            }
        }
        if offloads & (TUN_F_TSO4 | TUN_F_TSO6) == 0 {
            offloads &= !TUN_F_TSO_ECN;
        }
        // SAFETY: the argument is a plain number.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
