//! A packet socket on a tap that sees nothing but the guest's requests for its configuration, and reaches nobody but the
//! guest. Frames between guest and kernel pass it by: what it costs them is a filter of some instructions.
//!
//! It stays with whoever opened it: through a packet socket its owner may send on any interface of the namespace (packet(7), `sll_ifindex`).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::{sock_filter, sock_fprog};

/// Length of what the filter lets pass; whole frames.
const ALL: u32 = u32::MAX;

/// Opens one on the interface `index` of the calling thread's network namespace; non-blocking.
pub fn open_requests(index: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // With no protocol it receives nothing until it is bound, and the filter is there before that.
    // SAFETY: a plain system call.
    let socket = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let mut filter = filter();
    let len = u16::try_from(filter.len()).map_err(io::Error::other)?;
    let program = sock_fprog { len, filter: filter.as_mut_ptr() };
    set_option(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
    // What goes to the guest isn't even looked at.
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?,
        sll_protocol: u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be(),
        sll_ifindex: i32::try_from(index).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let size = socklen::<libc::sockaddr_ll>();
    // SAFETY: `address` is a sockaddr_ll of that size, and outlives the call.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(libc::socklen_t::MAX)
}

fn set_option<T>(socket: &OwnedFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let value = std::ptr::from_ref(value).cast();
    // SAFETY: `value` points to a T, of the size that is told, for as long as the call takes. What a program points to lives
    // as long as its caller's filter.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, socklen::<T>()) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// UDP to port 67 over IPv4 unless a later fragment; UDP to port 547 and router solicitations over IPv6; nothing with a VLAN tag.
fn filter() -> Vec<sock_filter> {
    // Of classic BPF (Linux, Documentation/networking/filter.rst): loads of absolute, indexed and header-length kind, jumps, returns.
    const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
    const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    const LOAD_HALF_AT_X: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
    const HEADER_TO_X: u32 = libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    /// `SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT`.
    const VLAN_TAG: u32 = 0xffff_f000 + 48;
    const PASS: usize = 19;
    const DROP: usize = 20;
    /// An instruction that jumps nowhere.
    const NEXT: (usize, usize) = (0, 0);
    // Code, operand, and the places in this list where a test goes on if it holds and if not.
    let program: [(u32, u32, (usize, usize)); 21] = [
        (LOAD_BYTE, VLAN_TAG, NEXT),
        (EQUAL, 0, (2, DROP)),
        (LOAD_HALF, 12, NEXT),
        (EQUAL, 0x0800, (4, 11)),
        // IPv4: the protocol, the fragment's offset, the port.
        (LOAD_BYTE, 23, NEXT),
        (EQUAL, 17, (6, DROP)),
        (LOAD_HALF, 20, NEXT),
        (ANY_BIT, 0x1fff, (DROP, 8)),
        (HEADER_TO_X, 14, NEXT),
        (LOAD_HALF_AT_X, 16, NEXT),
        (EQUAL, 67, (PASS, DROP)),
        // IPv6: the next header, then port or type.
        (EQUAL, 0x86dd, (12, DROP)),
        (LOAD_BYTE, 20, NEXT),
        (EQUAL, 17, (14, 16)),
        (LOAD_HALF, 56, NEXT),
        (EQUAL, 547, (PASS, DROP)),
        (EQUAL, 58, (17, DROP)),
        (LOAD_BYTE, 54, NEXT),
        (EQUAL, 133, (PASS, DROP)),
        (RETURN, ALL, NEXT),
        (RETURN, 0, NEXT),
    ];
    let instruction = |(at, (code, k, (yes, no))): (usize, (u32, u32, (usize, usize)))| {
        let distance = |to: usize| u8::try_from(to.saturating_sub(at + 1)).unwrap_or(u8::MAX);
        sock_filter { code: u16::try_from(code).unwrap_or_default(), jt: distance(yes), jf: distance(no), k }
    };
    program.into_iter().enumerate().map(instruction).collect()
}
