//! Which system calls each kind of thread may make, and with what.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, SeccompCmpArgLen as Width, SeccompCmpOp as Op, SeccompCondition as Condition, SeccompRule as Rule,
};
use vhost::vhost_kern::vhost_binding as vhost;

/// A system call and its rules, of which one must match; none means that any arguments will do.
pub(super) struct AllowList(pub(super) BTreeMap<i64, Vec<Rule>>);

/// What pthread_create asks of clone (glibc, sysdeps/unix/sysv/linux/createthread.c): a thread, never a process or namespace.
const THREAD_FLAGS: libc::c_int = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID;

/// The type byte of KVM's ioctls; the number is the byte below it.
const KVMIO: u64 = 0xAE;
/// Type and number of an ioctl; above stand direction and size, which KVM checks itself.
const IOCTL_NUMBER: u64 = 0xFFFF;

/// Numbers of KVM's ioctls (Linux, include/uapi/linux/kvm.h).
mod kvm {
    /// Running a vCPU, and what its exits lead to: a moved BAR, a changed MSI-X table, a flash's command.
    pub(super) const VCPU: &[u64] = &[
        0x80, // KVM_RUN
        0x6A, // KVM_SET_GSI_ROUTING
        0x76, // KVM_IRQFD
        0x79, // KVM_IOEVENTFD
        0x61, // KVM_IRQ_LINE
        0x81, // KVM_GET_REGS, for what is told of a failed entry
        0xAD, // KVM_KVMCLOCK_CTRL, on going on after a pause
        0x46, // KVM_SET_USER_MEMORY_REGION: the flash of EFI is shown as memory or answers itself
    ];
    /// Building a machine.
    pub(super) const BUILD: &[u64] = &[
        0x00, // KVM_GET_API_VERSION
        0x01, // KVM_CREATE_VM
        0x03, // KVM_CHECK_EXTENSION
        0x04, // KVM_GET_VCPU_MMAP_SIZE
        0x05, // KVM_GET_SUPPORTED_CPUID
        0x41, // KVM_CREATE_VCPU
        0x47, // KVM_SET_TSS_ADDR
        0x48, // KVM_SET_IDENTITY_MAP_ADDR
        0x60, // KVM_CREATE_IRQCHIP
        0x77, // KVM_CREATE_PIT2
        0x82, // KVM_SET_REGS
        0x83, // KVM_GET_SREGS
        0x84, // KVM_SET_SREGS
        0x89, // KVM_SET_MSRS
        0x8E, // KVM_GET_LAPIC
        0x8F, // KVM_SET_LAPIC
        0x90, // KVM_SET_CPUID2
        0xA7, // KVM_SET_XCRS
    ];
    /// What is asked of a running machine.
    pub(super) const CONTROL: &[u64] = &[
        0xA5, // KVM_SIGNAL_MSI, an NMI to all vCPUs
    ];
}

/// Requests of `ioctl` that are not KVM's.
mod file {
    /// A console's socket becomes non-blocking.
    pub(super) const FIONBIO: u64 = 0x5421;
    /// A network card's driver says what it can take.
    pub(super) const TUNSETOFFLOAD: u64 = 0x4004_54D0;
    pub(super) const TUNSETVNETHDRSZ: u64 = 0x4004_54D8;
    /// A driver uses more or fewer of the tap's queues.
    pub(super) const TUNSETQUEUE: u64 = 0x4004_54D9;
}

/// Handing a network card's queues to the host's kernel, and taking them back.
fn vhost_net() -> [u64; 12] {
    [
        vhost::VHOST_SET_OWNER(),
        vhost::VHOST_RESET_OWNER(),
        vhost::VHOST_GET_FEATURES(),
        vhost::VHOST_SET_FEATURES(),
        vhost::VHOST_SET_MEM_TABLE(),
        vhost::VHOST_SET_VRING_NUM(),
        vhost::VHOST_SET_VRING_ADDR(),
        vhost::VHOST_SET_VRING_BASE(),
        vhost::VHOST_SET_VRING_KICK(),
        vhost::VHOST_SET_VRING_CALL(),
        vhost::VHOST_SET_VRING_ERR(),
        vhost::VHOST_NET_SET_BACKEND(),
    ]
}

/// What every thread of a Rust program on glibc does, and nothing that tells it of the host.
const COMMON: &[i64] = &[
    // memory
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // waiting
    libc::SYS_futex,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    // time, where the vDSO can't tell it
    libc::SYS_clock_gettime,
    // eventfds, pipes to the log, files that are open
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_eventfd2,
    libc::SYS_close,
    libc::SYS_lseek,
    // signals and the thread's own life
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Device queues: disks, taps, the host's entropy.
const WORKER: &[i64] = &[
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_epoll_create1,
    // One side of a vsock connection is done.
    libc::SYS_shutdown,
    // Only on rings made before the jail, which are restricted to reads, writes and syncs of open files.
    libc::SYS_io_uring_enter,
];

/// Building machines, serving the control socket and the consoles.
const MAIN: &[i64] = &[
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_clone3,
];

pub(super) fn vcpu() -> Result<AllowList, BackendError> {
    let mut list = AllowList::common()?;
    list.kvm(kvm::VCPU)?;
    Ok(list)
}

pub(super) fn worker() -> Result<AllowList, BackendError> {
    let mut list = AllowList::common()?;
    list.any(WORKER);
    Ok(list)
}

pub(super) fn main() -> Result<AllowList, BackendError> {
    let mut list = vcpu()?;
    list.join(worker()?);
    list.any(MAIN);
    list.kvm(kvm::BUILD)?;
    list.kvm(kvm::CONTROL)?;
    list.ioctls(&[file::FIONBIO, file::TUNSETOFFLOAD, file::TUNSETVNETHDRSZ, file::TUNSETQUEUE])?;
    list.ioctls(&vhost_net())?;
    // A thread that will run a vCPU binds itself, and none but itself, to a host CPU.
    list.only(libc::SYS_sched_setaffinity, 0, Op::Eq, 0)?;
    // RAM is sealed, disk images are locked.
    for command in [libc::F_ADD_SEALS, libc::F_OFD_SETLK] {
        list.only(libc::SYS_fcntl, 1, Op::Eq, signed(command))?;
    }
    list.only(libc::SYS_clone, 0, Op::Eq, signed(THREAD_FLAGS))?;
    // statx and newfstatat name files by path, but there is none to find; only what is open may be asked of.
    list.only(libc::SYS_newfstatat, 3, Op::MaskedEq(signed(libc::AT_EMPTY_PATH)), signed(libc::AT_EMPTY_PATH))?;
    list.only(libc::SYS_statx, 2, Op::MaskedEq(signed(libc::AT_EMPTY_PATH)), signed(libc::AT_EMPTY_PATH))?;
    Ok(list)
}

/// Constants of libc that are never negative.
fn signed(value: libc::c_int) -> u64 {
    u64::from(value.unsigned_abs())
}

impl AllowList {
    fn common() -> Result<Self, BackendError> {
        let mut list = Self(BTreeMap::new());
        list.any(COMMON);
        // Memory is never both written and run; there is no code to come.
        let executable = Op::MaskedEq(signed(libc::PROT_EXEC));
        list.only(libc::SYS_mmap, 2, executable.clone(), 0)?;
        list.only(libc::SYS_mprotect, 2, executable, 0)?;
        for command in [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC] {
            list.only(libc::SYS_fcntl, 1, Op::Eq, signed(command))?;
        }
        // Kicks of vCPU threads and abort; no other process can be seen.
        list.only(libc::SYS_tgkill, 0, Op::Eq, u64::from(std::process::id()))?;
        // A new thread names itself and then confines itself further.
        for option in [libc::PR_SET_NAME, libc::PR_SET_NO_NEW_PRIVS] {
            list.only(libc::SYS_prctl, 0, Op::Eq, signed(option))?;
        }
        list.only(libc::SYS_seccomp, 0, Op::Eq, u64::from(libc::SECCOMP_SET_MODE_FILTER))?;
        Ok(list)
    }

    fn any(&mut self, calls: &[i64]) {
        self.0.extend(calls.iter().map(|call| (*call, Vec::new())));
    }

    /// Allows a call if its argument compares with `value`. Only the low half of the argument counts, as it does to the kernel.
    fn only(&mut self, call: i64, argument: u8, op: Op, value: u64) -> Result<(), BackendError> {
        let condition = Condition::new(argument, Width::Dword, op, value)?;
        self.0.entry(call).or_default().push(Rule::new(vec![condition])?);
        Ok(())
    }

    fn kvm(&mut self, numbers: &[u64]) -> Result<(), BackendError> {
        numbers.iter().try_for_each(|n| self.only(libc::SYS_ioctl, 1, Op::MaskedEq(IOCTL_NUMBER), KVMIO << 8 | n))
    }

    fn ioctls(&mut self, requests: &[u64]) -> Result<(), BackendError> {
        requests.iter().try_for_each(|request| self.only(libc::SYS_ioctl, 1, Op::Eq, *request))
    }

    /// Allows what `other` allows. Both were made by the functions above, so a call has rules in both or in neither.
    fn join(&mut self, other: Self) {
        for (call, rules) in other.0 {
            let mine = self.0.entry(call).or_default();
            for rule in rules {
                if !mine.contains(&rule) {
                    mine.push(rule);
                }
            }
        }
    }
}
