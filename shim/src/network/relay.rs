//! Carries a guest's requests for its configuration to the VMM, and the answers back.
//!
//! The packet socket stays here: who holds one may send on every interface of the pod's namespace. The VMM gets
//! the other end of a socket pair, by which it reaches nobody but its own guest. Frames are passed on unread: which ones come is
//! the kernel's filter's business, what they say the VMM's.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use crate::ready::readable;

/// The longest frame that is carried, bytes; what is longer is cut off, and so nothing that anybody understands.
const MAX_FRAME: usize = 1514;
/// Rest after a frame: a guest that asks all the time costs the node next to nothing.
const PACE: Duration = Duration::from_millis(1);

/// A packet socket and the way to the VMM.
#[derive(Debug)]
pub(super) struct Relay {
    tap: OwnedFd,
    vmm: OwnedFd,
}

impl Relay {
    /// One that carries frames from and to the packet socket `tap`, and the VMM's end.
    pub(super) fn new(tap: OwnedFd) -> io::Result<(Self, OwnedFd)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (vmm, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self { tap, vmm }, theirs))
    }

    /// Carries until the VMM is gone, or the tap. Needs a tokio runtime.
    pub(super) fn start(self) -> io::Result<JoinHandle<()>> {
        let (tap, vmm) = (readable(self.tap)?, readable(self.vmm)?);
        Ok(tokio::spawn(async move { while pass(&tap, &vmm).await {} }))
    }
}

/// Passes a frame on, whichever way. Whether there may be more.
async fn pass(tap: &AsyncFd<OwnedFd>, vmm: &AsyncFd<OwnedFd>) -> bool {
    let (ready, to) = tokio::select! {
        ready = tap.readable() => (ready, vmm),
        ready = vmm.readable() => (ready, tap),
    };
    let Ok(mut ready) = ready else { return false };
    let mut frame = [0; MAX_FRAME];
    match recv(ready.get_inner().as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
        Ok(0) => return false,
        Ok(len) => {
            // A frame that finds no room is lost, as on any network; the guest asks again.
            let _ = send(to.as_raw_fd(), &frame[..len], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
            tokio::time::sleep(PACE).await;
        }
        Err(Errno::EAGAIN) => ready.clear_ready(),
        // The tap was down for a moment.
        Err(Errno::EINTR | Errno::ENETDOWN) => {}
        Err(_) => return false,
    }
    true
}
